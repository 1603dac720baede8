//! Content in object stores: read, written all or nothing, and what is said when it cannot be.

mod delta;
mod double;
mod writes;

use crate::relations::Program;
use double::{Double, Fault};
use std::fmt::Write;
use std::path::Path;

async fn program() -> (tempfile::TempDir, Program) {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(dir.path(), None).await;
    (dir, program)
}

/// A file with this query's rows.
async fn written(program: &Program, query: &str, stored_as: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file.out");
    let copy = format!(
        "COPY ({query}) TO '{}' STORED AS {stored_as}",
        file.display()
    );
    program.run(&copy).await.unwrap();
    std::fs::read(file).unwrap()
}

#[tokio::test]
async fn every_kind_of_location_is_read() {
    let (_dir, program) = program().await;
    let store = Double::start("hush", &["posts"]).await;
    program.run(&store.secret("mine")).await.unwrap();
    for (key, text) in [
        ("csv/a.csv", "id,body\n1,one\n2,two\n"),
        ("csv/b.csv", "id,body\n3,three\n"),
        ("csv/deep/c.csv", "id,body\n4,four\n"),
        ("csv/c.txt", "nothing\nof,a,table\n"),
        ("days/day=1/a.csv", "id\n1\n"),
        ("days/day=2/a.csv", "id\n2\n3\n"),
        ("lines/a.json", "{\"id\":1,\"body\":\"one\"}\n"),
        ("with space/é.csv", "id\n7\n"),
    ] {
        store.put("posts", key, text);
    }
    let packed = "CSV OPTIONS (format.compression gzip, format.has_header true)";
    let packed = written(&program, "SELECT 1 AS id, 'one' AS body", packed).await;
    store.put("posts", "packed/a.csv.gz", packed);
    let rows = "SELECT value AS id, 'text ' || value AS body FROM generate_series(1, 5000)";
    store.put(
        "posts",
        "a.parquet",
        written(&program, rows, "PARQUET").await,
    );
    store.asked();
    for (table, query, want) in [
        (
            "STORED AS CSV LOCATION 's3://posts/csv/a.csv'",
            "count(*), sum(id)",
            "2|3",
        ),
        (
            "STORED AS CSV LOCATION 's3://posts/csv/'",
            "count(*), sum(id)",
            "4|10",
        ),
        (
            "(id BIGINT, body TEXT) STORED AS CSV LOCATION 's3://posts/csv/*.csv' OPTIONS (format.has_header true)",
            "count(*), sum(id)",
            "4|10",
        ),
        (
            "STORED AS CSV LOCATION 's3://posts/csv/[ab].csv'",
            "count(*), sum(id)",
            "3|6",
        ),
        (
            "STORED AS CSV LOCATION ('s3://posts/csv/a.csv', 's3://posts/csv/deep/*.csv')",
            "count(*), sum(id)",
            "3|7",
        ),
        (
            "STORED AS CSV LOCATION 's3://posts/days/'",
            "count(*), sum(id), min(day), max(day)",
            "3|6|1|2",
        ),
        (
            "(id BIGINT, day BIGINT) STORED AS CSV PARTITIONED BY (day) LOCATION 's3://posts/days/' OPTIONS (format.has_header true)",
            "sum(id), sum(day)",
            "6|5",
        ),
        (
            "STORED AS JSON LOCATION 's3://posts/lines/a.json'",
            "id, body",
            "1|one",
        ),
        (
            "STORED AS CSV LOCATION 's3://posts/packed/a.csv.gz'",
            "id, body",
            "1|one",
        ),
        (
            "STORED AS CSV LOCATION 's3://posts/with space/é.csv'",
            "id",
            "7",
        ),
        (
            "STORED AS PARQUET LOCATION 's3://posts/a.parquet'",
            "count(*), max(body)",
            "5000|text 999",
        ),
        (
            "STORED AS PARQUET LOCATION 's3a://posts/a.parquet'",
            "count(*)",
            "5000",
        ),
    ] {
        let sql = format!("CREATE OR REPLACE EXTERNAL TABLE t {table}; SELECT {query} FROM t");
        let got = program.run(&sql).await;
        let got = got.unwrap_or_else(|e| panic!("{table}: {e}"));
        assert_eq!(got, want, "{table}");
    }
    // What is put there later is seen.
    let table = "CREATE OR REPLACE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://posts/csv/[ab]*.csv'; SELECT sum(id) FROM t";
    assert_eq!(program.said(table).await, "6");
    store.put("posts", "csv/b2.csv", "id,body\n100,later\n");
    assert_eq!(program.said("SELECT sum(id) FROM t").await, "106");
    // Only the columns that are needed travel, by ranges.
    let head = "HEAD /posts/a.parquet".to_owned();
    assert!(store.asked().contains(&head));
    let judged = "SELECT count(*) FROM t WHERE safeguard_classify('spam', body) IS NOT NULL";
    let said = program.run(judged).await.unwrap();
    assert!(said.starts_with("4;"), "{said}");
}

#[tokio::test]
async fn what_cannot_be_read_says_why_and_shows_no_secret() {
    let (_dir, program) = program().await;
    let store = Double::start("hush-hush", &["posts", "faults"]).await;
    store.put("posts", "a.csv", "id\n1\n");
    store.put("posts", "broken.parquet", "no Parquet");
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let at = |key: &str, secret: &str, endpoint: &str, region: &str| {
        format!(
            "CREATE OR REPLACE SECRET s (TYPE s3, KEY_ID '{key}', SECRET '{secret}', ENDPOINT '{endpoint}', REGION '{region}')"
        )
    };
    let (id, here) = (double::KEY_ID, store.address.as_str());
    let right = at(id, "hush-hush", here, "test-1");
    for (secret, location, state, want) in [
        (
            &right,
            "s3://none/a.csv",
            "58P01",
            "cannot read s3://none/a.csv: there is no such bucket",
        ),
        (
            &right,
            "s3://none/",
            "58P01",
            "cannot list s3://none/: there is no such bucket",
        ),
        (
            &right,
            "s3://posts/none.csv",
            "58P01",
            "cannot read s3://posts/none.csv: there is no such object",
        ),
        (&right, "s3://posts/none/", "58P01", ""),
        (
            &at("AKIAOTHER", "hush-hush", here, "test-1"),
            "s3://posts/a.csv",
            "28000",
            "cannot read s3://posts/a.csv: the key is not known there",
        ),
        (
            &at(id, "hush", here, "test-1"),
            "s3://posts/a.csv",
            "28000",
            "cannot read s3://posts/a.csv: the key's secret is wrong",
        ),
        (
            &at(id, "hush-hush", here, "test-2"),
            "s3://posts/a.csv",
            "22023",
            "the bucket is in another region",
        ),
        (
            &at(id, "hush-hush", &nobody, "test-1"),
            "s3://posts/a.csv",
            "08001",
            "cannot read s3://posts/a.csv: it cannot be reached",
        ),
        (
            &right,
            "ftp://posts/a.csv",
            "0A000",
            "cannot read at ftp://",
        ),
        (
            &right,
            "https://127.0.0.1:1/folder/",
            "0A000",
            "web servers are asked for single files",
        ),
    ] {
        let sql = format!("{secret}; CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{location}'");
        let error = program.run(&sql).await.unwrap_err();
        let said = format!("{error} {:?} {error:?}", error.hint());
        assert_eq!(error.sqlstate(), state, "{location}: {error}");
        assert!(error.to_string().contains(want), "{location}: {error}");
        assert!(!said.contains("hush"), "{said}");
    }
    let damaged = format!(
        "{right}; CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://posts/broken.parquet'"
    );
    let error = program.run(&damaged).await.unwrap_err();
    assert_eq!(error.sqlstate(), "XX001");
    assert!(
        error
            .to_string()
            .contains("s3://posts/broken.parquet is no Parquet file"),
        "{error}"
    );
    // Gone after the table was made; passing trouble is waited out.
    let sql = "CREATE EXTERNAL TABLE gone (id BIGINT) STORED AS CSV LOCATION 's3://posts/a.csv' OPTIONS (format.has_header true)";
    program.run(sql).await.unwrap();
    for fault in [Fault::Status(503, "SlowDown"), Fault::Cut] {
        store.fail_once("GET", fault);
        assert_eq!(program.said("SELECT id FROM gone").await, "1", "{fault:?}");
    }
    store.fail(Some((0, Fault::Status(403, "AccessDenied"))));
    assert_eq!(program.said("SELECT id FROM gone").await, "42501");
    store.fail(None);
    store.remove("posts", "a.csv");
    let error = program.run("SELECT id FROM gone").await;
    let error = error.expect_err("nothing is not no rows");
    assert_eq!(error.sqlstate(), "58P01", "{error}");
    assert!(error.to_string().contains("s3://posts/a.csv"), "{error}");
}

#[tokio::test]
async fn secrets_are_made_listed_replaced_kept_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    // Any variable that is set: tests change no environment.
    let variable = std::env::var("PATH").unwrap();
    let store = Double::start(&variable, &["posts", "others"]).await;
    store.put("posts", "a.csv", "id\n1\n");
    let (id, here) = (double::KEY_ID, &store.address);
    let options = format!("KEY_ID '{id}', SECRET_ENV 'PATH', ENDPOINT '{here}', REGION 'test-1'");
    let program = Program::start(dir.path(), None).await;
    let list = "SELECT name, type, scope, options, kept FROM safeguard_secrets()";
    assert_eq!(program.said(list).await, "");
    let create = format!("CREATE SECRET \"Mine\" (TYPE s3, SCOPE 's3://posts', {options})");
    assert_eq!(program.said(&create).await, "");
    let table =
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://posts/a.csv'; SELECT id FROM t";
    assert_eq!(program.run(table).await.unwrap(), "1");
    let held = "CREATE SECRET other (TYPE gcs, SERVICE_ACCOUNT_KEY '{\"hush\": 1}')";
    let note = program.run(held).await.unwrap();
    assert!(
        note.starts_with("not kept across restarts: it holds a secret"),
        "{note}"
    );
    let mine = "Mine|s3|s3://posts|scope, key_id, secret_env, endpoint, region|true";
    assert_eq!(
        program.said(list).await,
        format!("{mine};other|gcs|NULL|service_account_key|false")
    );
    for (sql, want) in [
        (create.as_str(), "42710"),
        ("CREATE SECRET IF NOT EXISTS other (TYPE gcs)", ""),
        ("CREATE SECRET third (TYPE gcs)", "42710"),
        ("CREATE SECRET (TYPE s3)", "42602"),
        ("CREATE SECRET x (TYPE ftp)", "22023"),
        ("CREATE SECRET x (TYPE s3, SECRETS 'hush')", "HV00D"),
        ("CREATE SECRET x (TYPE s3, SCOPE 's3://posts/a')", "22023"),
        ("CREATE SECRET x IN local (TYPE s3)", "0A000"),
        ("DROP SECRET x", "42704"),
        ("DROP SECRET IF EXISTS x", ""),
        ("DROP SECRET other", ""),
        (
            "SELECT sql FROM safeguard.relations WHERE kind = 'secret'",
            create.as_str(),
        ),
    ] {
        assert_eq!(program.said(sql).await, want, "{sql}");
    }
    // The statement as it is kept names the variable alone.
    assert!(!create.contains(&variable));
    drop(program);
    let again = Program::start(dir.path(), None).await;
    assert_eq!(again.unmade, [""; 0]);
    assert_eq!(again.said(list).await, mine);
    assert_eq!(again.run("SELECT id FROM t").await.unwrap(), "1");
    again.run("DROP SECRET \"Mine\"").await.unwrap();
    drop(again);
    let last = Program::start(dir.path(), None).await;
    assert_eq!(last.said(list).await, "");
}

#[tokio::test]
async fn what_is_outside_of_the_roots_is_not_asked() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("content");
    std::fs::create_dir(&folder).unwrap();
    let roots = vec![folder.canonicalize().unwrap()];
    let program = Program::start(&dir.path().join("data"), Some(roots)).await;
    let store = Double::start("hush", &["posts"]).await;
    store.put("posts", "a.csv", "id\n1\n");
    program.run(&store.secret("mine")).await.unwrap();
    for sql in [
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://posts/a.csv'",
        "CREATE EXTERNAL TABLE t (id BIGINT) STORED AS CSV LOCATION 's3://posts/'",
        "CREATE EXTERNAL TABLE t (id BIGINT) STORED AS CSV LOCATION 'http://127.0.0.1:1/a.csv'",
        "COPY (SELECT 1) TO 's3://posts/b.csv' STORED AS CSV",
    ] {
        assert_eq!(program.said(sql).await, "42501", "{sql}");
    }
    assert_eq!(store.asked(), [""; 0]);
}

/// A web server with these files.
async fn web(
    files: &'static [(&'static str, &'static str)],
) -> (String, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                loop {
                    let (mut head, mut line) = (String::new(), String::new());
                    while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
                        head.push_str(&line);
                        line.clear();
                    }
                    let mut words = head.split_whitespace();
                    let (Some(method), Some(path)) = (words.next(), words.next()) else {
                        return;
                    };
                    let known = head
                        .to_ascii_lowercase()
                        .contains("authorization: bearer hush");
                    let found = files.iter().find(|(name, _)| *name == path);
                    let (status, body) = match (known, found) {
                        (false, _) => ("401 Unauthorized", ""),
                        (_, Some((_, body))) => ("200 OK", *body),
                        (_, None) => ("404 Not Found", ""),
                    };
                    let mut out = String::new();
                    write!(out, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nlast-modified: Sat, 28 Nov 2026 10:00:00 GMT\r\n\r\n", body.len()).unwrap();
                    if method != "HEAD" {
                        out.push_str(body);
                    }
                    if stream.write_all(out.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, task)
}

#[tokio::test]
async fn files_of_web_servers_are_read() {
    let (_dir, program) = program().await;
    let (server, task) = web(&[
        ("/d/a.csv", "id,body\n1,one\n"),
        ("/d/b.csv", "id,body\n2,two\n"),
    ])
    .await;
    let table = |path: &str| {
        format!(
            "CREATE OR REPLACE EXTERNAL TABLE t STORED AS CSV LOCATION {path}; SELECT sum(id) FROM t"
        )
    };
    let error = program
        .run(&table(&format!("'{server}/d/a.csv'")))
        .await
        .unwrap_err();
    assert_eq!(error.sqlstate(), "28000", "{error}");
    program
        .run("CREATE SECRET web (TYPE http, BEARER_TOKEN 'hush')")
        .await
        .unwrap();
    for (path, want) in [
        (format!("'{server}/d/a.csv'"), "1"),
        (format!("('{server}/d/a.csv', '{server}/d/b.csv')"), "3"),
        (format!("'{server}/d/none.csv'"), "58P01"),
        (format!("'{server}/d/'"), "0A000"),
        (format!("'{server}/d/*.csv'"), "0A000"),
    ] {
        assert_eq!(program.said(&table(&path)).await, want, "{path}");
    }
    task.abort();
}

/// A table of a store that is away keeps the program from nothing, and is made at a later start.
#[tokio::test]
async fn a_store_that_is_away_at_a_start_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let variable = std::env::var("PATH").unwrap();
    let data: &Path = dir.path();
    let (create, drop_it) = {
        let store = Double::start(&variable, &["posts"]).await;
        store.put("posts", "a.csv", "id\n1\n");
        let create = format!(
            "CREATE SECRET mine (TYPE s3, KEY_ID '{}', SECRET_ENV 'PATH', ENDPOINT '{}', REGION 'test-1')",
            double::KEY_ID,
            store.address
        );
        let program = Program::start(data, None).await;
        program.run(&create).await.unwrap();
        program
            .run("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://posts/a.csv'")
            .await
            .unwrap();
        (create, "DROP TABLE t")
    };
    let program = Program::start(data, None).await;
    assert_eq!(program.unmade.len(), 1, "{:?}", program.unmade);
    assert!(
        program.unmade[0].contains("s3://posts/a.csv: it cannot be reached"),
        "{:?}",
        program.unmade
    );
    assert!(create.contains("mine"));
    assert_eq!(program.said(drop_it).await, "");
}
