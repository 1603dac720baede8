//! What is read: every type, filters that decide the same on both sides, what travels, what is said when it cannot be.

use super::attached;
use super::cluster::Cluster;

/// Every kind of type, and NULLs.
const KINDS: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN handle AS varchar(12);
CREATE COLLATION soft (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE kinds (a smallint, b int, c bigint, d real, e float8, f numeric(10,2), g numeric, h text, i varchar(5), j char(4),
  k bool, l date, m time, n timestamp, o timestamptz, p uuid, q jsonb, r mood, s text[], t inet, u int4range, v bytea,
  w interval, x money, y xml, z oid, aa handle, ab bit(3), ac \"char\", ad name, ae timetz, af json, ag point, ah macaddr,
  ai tsvector, aj numeric(50,3), ak text COLLATE soft);
INSERT INTO kinds VALUES (-1, 2, 3, 1.5, -2.25, 12345.67, 1e10 + 0.123456789012345678, 'it''s', 'abcde', 'ab', true,
  '2026-02-03', '12:34:56.789', '2026-02-03 04:05:06.7', '2026-02-03 04:05:06.7+01', '00112233-4455-6677-8899-aabbccddeeff',
  '{\"a\": 1}', 'sad', '{a,\"b c\"}', '10.0.0.1/8', '[1,5)', '\\x0102', '1 day 02:03', '12.34', '<a/>', 4000000000, 'ann',
  B'101', 'x', 'nm', '12:00+02', '{\"b\":2}', '(1,2)', '08:00:2b:01:02:03', 'fat cat',
  12345678901234567890123456789012345678901234.5, 'Ab');
INSERT INTO kinds (a) VALUES (NULL);
INSERT INTO kinds (a, c, d, e, f, h, k, l, n, o, r, p, ak) VALUES
  (32767, -9223372036854775808, 'NaN', '-0', -0.01, '', false, '0001-01-01', '1969-12-31 23:59:59.999999', '9999-12-31', 'ok',
   'ffffffff-ffff-ffff-ffff-ffffffffffff', 'aB'),
  (0, 9223372036854775807, 'Infinity', 1e300, 99999999.99, 'Äö\u{1f600}%_', true, '2026-12-31', '2026-01-01', '2026-01-01 00:00:00Z',
   'ok', NULL, NULL),
  (7, 0, 0, 'NaN', 0, 'B', NULL, NULL, NULL, NULL, NULL, NULL, 'b'), (8, 0, 0, 0, 0, 'a', NULL, NULL, NULL, NULL, NULL, NULL, 'c')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_of_every_kind_are_read_or_are_text() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    cluster.client().await.batch_execute(KINDS).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let program = attached(&cluster, data.path()).await;
    assert_eq!(
        program.said("SELECT * FROM live.kinds WHERE a = -1").await,
        "-1|2|3|1.5|-2.25|12345.67|10000000000.123456789012345678|it's|abcde|ab|true|2026-02-03|12:34:56.789|\
         2026-02-03T04:05:06.700|2026-02-03T03:05:06.700Z|00112233-4455-6677-8899-aabbccddeeff|{\"a\": 1}|sad|{a,\"b c\"}|\
         10.0.0.1/8|[1,5)|0102|1 day 02:03:00|$12.34|<a/>|4000000000|ann|101|x|nm|12:00:00+02|{\"b\":2}|(1,2)|\
         08:00:2b:01:02:03|'cat' 'fat'|12345678901234567890123456789012345678901234.500|Ab"
    );
    // Every filter decides here what it decides there: `copied` has the same rows in memory.
    program
        .run("CREATE TABLE copied AS SELECT * FROM live.kinds")
        .await
        .unwrap();
    for filter in [
        "a > 0",
        "a <> 7",
        "a IN (7, 8, NULL)",
        "a IN (7, 8, 9, 10, -1)",
        "h NOT IN ('a', 'b', 'c', 'd', 'B')",
        "a NOT IN (7, 8)",
        "NOT (a > 0)",
        "a BETWEEN -1 AND 7",
        "5 > a",
        "c = 0",
        "c < 0",
        "d > 1",
        "d = 'NaN'",
        "e < 0.5",
        "e = 0",
        "e > 1e299",
        "f >= 0.01",
        "f < 0",
        "f = 12345.67",
        "g > 0",
        "h = ''",
        "h > 'B'",
        "h >= 'a'",
        "h < 'a'",
        "h LIKE '%ö%'",
        "h NOT LIKE '_'",
        "h LIKE 'it''s'",
        "h ILIKE 'b'",
        "k",
        "NOT k",
        "k IS NULL",
        "k = false",
        "k IS NOT TRUE",
        "l = '0001-01-01'",
        "l >= '2026-02-03'",
        "m > '12:00'",
        "n < '1970-01-01'",
        "n >= '2026-01-01'",
        "o > '2026-01-01T00:00:00Z'",
        "o >= '2026-01-01 01:00:00+01'",
        "p = '00112233-4455-6677-8899-aabbccddeeff'",
        "p = 'no uuid'",
        "p > '1'",
        "r = 'sad'",
        "r > 'ok'",
        "q IS NOT NULL",
        "ak = 'ab'",
        "ak <> 'ab'",
        "j = 'ab'",
        "aa = 'ann' OR a = 7",
        "a = 7 AND h = 'B'",
        "length(h) > 1 OR a = 7",
        "lower(h) = 'b'",
        "h || 'x' = 'Bx'",
        "a + 1 = 8",
        "a = c",
        "CAST(a AS TEXT) = '7'",
    ] {
        let count = async |table| {
            program
                .run(&format!(
                    "SELECT count(*), count(a) FROM {table} WHERE {filter}"
                ))
                .await
        };
        let (there, here) = (count("live.kinds").await, count("copied").await);
        match (there, here) {
            (Ok(there), Ok(here)) => assert_eq!(there, here, "{filter}"),
            (there, here) => panic!("{filter}: {there:?}, {here:?}"),
        }
    }
    for (sql, want) in [
        ("SELECT count(*) FROM live.kinds", "6"),
        (
            "SELECT count(*) FROM (SELECT 1 FROM live.kinds LIMIT 4)",
            "4",
        ),
        (
            "SELECT count(1), count(a) FROM live.kinds WHERE a > 0",
            "3|3",
        ),
        ("SELECT count(DISTINCT c) FROM live.kinds", "4"),
        ("SELECT count(*) FILTER (WHERE a > 0) FROM live.kinds", "3"),
        (
            "SELECT a, count(*) FROM live.kinds WHERE a = 7 GROUP BY a",
            "7|1",
        ),
        (
            "SELECT x.a FROM live.kinds x JOIN live.kinds y ON x.c = y.c WHERE x.a = 7 AND y.a = 8",
            "7",
        ),
    ] {
        assert_eq!(program.said(sql).await, want, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_need_not_travel_stays_there() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    let posts = "CREATE TABLE posts (id bigint PRIMARY KEY, body text, secret text, created_at timestamptz);
        INSERT INTO posts SELECT i, CASE WHEN i % 4 = 0 THEN 'bad ' ELSE 'fine ' END || i, repeat('x', 99), timestamptz '2026-01-01' + i * interval '1 day'
        FROM generate_series(1, 100) i";
    client.batch_execute(posts).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let program = attached(&cluster, data.path()).await;
    let asked = program
        .run("SELECT count(id) FROM live.posts WHERE created_at > '2026-04-01' AND safeguard_classify('spam', body) <> 'x'")
        .await
        .unwrap();
    // 2026-04-01 is day 90.
    assert!(asked.starts_with("10"), "{asked}");
    let log = cluster.log().await;
    let copies: Vec<&str> = log.lines().filter(|line| line.contains("COPY (")).collect();
    assert_eq!(copies.len(), 1, "{log}");
    let want = "COPY (SELECT \"id\", \"body\" FROM \"public\".\"posts\" WHERE (\"created_at\" > '2026-04-01 00:00:00.000000+00'::timestamptz)) TO STDOUT (FORMAT binary)";
    assert!(copies[0].contains(want), "{}", copies[0]);
    // A table made there is seen.
    client
        .batch_execute("CREATE TABLE later (a int); INSERT INTO later VALUES (5)")
        .await
        .unwrap();
    assert_eq!(program.said("SELECT a FROM live.later").await, "5");
    // A row that is asked for alone is read alone.
    assert_eq!(
        program
            .said("SELECT id FROM live.posts WHERE id = 3 LIMIT 1")
            .await,
        "3"
    );
    assert!(
        cluster
            .log()
            .await
            .contains("WHERE (\"id\" = '3'::int8) LIMIT 1)")
    );
    // Reading connections cannot write, whatever a view of theirs does.
    let sly = "CREATE FUNCTION sly() RETURNS int LANGUAGE sql AS 'INSERT INTO public.later VALUES (1) RETURNING 1';
        CREATE VIEW trap AS SELECT sly() AS a";
    client.batch_execute(sly).await.unwrap();
    assert_eq!(program.said("SELECT a FROM live.trap").await, "25006");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_and_a_restart_keeps_the_rest() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    let tables = "CREATE TABLE posts (id int, day date, n numeric); INSERT INTO posts VALUES (1, 'infinity', 1), (2, '2026-01-01', 'NaN');
        CREATE ROLE ann LOGIN; CREATE TABLE closed (id int)";
    client.batch_execute(tables).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let program = attached(&cluster, data.path()).await;
    let here = cluster.folder().display().to_string();
    let server = |options: &str| {
        format!(
            "CREATE SERVER other FOREIGN DATA WRAPPER postgres OPTIONS (host '{here}', {options})"
        )
    };
    for (sql, sqlstate, want) in [
        (
            server("dbname 'postgres', user 'nobody'"),
            "28000",
            "server other: role \"nobody\" does not exist",
        ),
        (
            server("dbname 'none', user 'postgres'"),
            "3D000",
            "server other: database \"none\" does not exist",
        ),
        (
            server("dbname 'postgres', user 'postgres', schema 'none'"),
            "3F000",
            "server other: database postgres has no schema none",
        ),
        (
            server("dbname 'postgres', user 'postgres', hots 'x'"),
            "HV00D",
            "invalid option \"hots\"",
        ),
        (
            cluster.create_server("live"),
            "42P06",
            "schema \"live\" already exists",
        ),
        (
            "CREATE SERVER s FOREIGN DATA WRAPPER mysql".to_owned(),
            "42704",
            "foreign-data wrapper \"mysql\" does not exist: there is postgres",
        ),
        (
            cluster.create_server("pg_x"),
            "42939",
            "unacceptable server name \"pg_x\": it would be a schema of the system",
        ),
        (
            "DROP SERVER public".to_owned(),
            "42704",
            "server \"public\" does not exist",
        ),
        (
            "DROP SERVER never".to_owned(),
            "42704",
            "server \"never\" does not exist",
        ),
        (
            "DELETE FROM live.posts".to_owned(),
            "0A000",
            "DELETE is not supported here: run it on server live",
        ),
        (
            "UPDATE live.posts SET id = 1".to_owned(),
            "0A000",
            "UPDATE is not supported here: INSERT .. ON CONFLICT DO UPDATE, or run it on server live",
        ),
        (
            "SELECT day FROM live.posts".to_owned(),
            "22000",
            "server live: column day of \"public\".\"posts\" has a value that is an infinite one, which cannot be read; a view there can leave it out",
        ),
        (
            "SELECT n FROM live.posts WHERE id = 2".to_owned(),
            "22000",
            "server live: column n of \"public\".\"posts\" has a value that is NaN, which no decimal holds; cast it there in a view",
        ),
        (
            "INSERT INTO live.posts (id) VALUES (1) ON CONFLICT (id) DO NOTHING".to_owned(),
            "42P10",
            "server live: there is no unique or exclusion constraint matching the ON CONFLICT specification",
        ),
    ] {
        let error = program.run(&sql).await.unwrap_err();
        assert_eq!(
            (error.sqlstate(), error.to_string().as_str()),
            (sqlstate, want),
            "{sql}"
        );
    }
    // What a role there may not read is refused there.
    let ann = cluster
        .create_server("by_ann")
        .replace("user 'postgres'", "user 'ann'");
    program.run(&ann).await.unwrap();
    let closed = program
        .run("SELECT id FROM by_ann.closed")
        .await
        .unwrap_err();
    assert_eq!(
        closed.to_string(),
        "server by_ann: permission denied for table closed"
    );
    // A password is not kept, and neither is the server then.
    let told = cluster
        .create_server("told")
        .replace(" user", " password 'hush', user");
    let said = program.run(&told).await.unwrap();
    assert_eq!(said, "not kept across restarts: OPTIONS hold a secret");
    program
        .run("CREATE VIEW ids AS SELECT id FROM live.posts")
        .await
        .unwrap();
    program.run("DROP SERVER by_ann").await.unwrap();
    assert_eq!(program.said("SELECT * FROM by_ann.closed").await, "42P01");
    drop(program);

    let program = crate::relations::Program::start(data.path(), None).await;
    assert_eq!(program.unmade, Vec::<String>::new());
    assert_eq!(program.said("SELECT id FROM ids ORDER BY id").await, "1;2");
    for gone in ["told", "by_ann"] {
        assert_eq!(
            program.said(&format!("SELECT * FROM {gone}.posts")).await,
            "42P01"
        );
    }
    cluster.kill();
    let away = program.run("SELECT id FROM live.posts").await.unwrap_err();
    assert_eq!(away.sqlstate(), "08001");
    let why = away.to_string();
    assert!(
        why.starts_with(&format!("cannot connect to server live at {here}:5432: ")),
        "{why}"
    );
    // Its tables are still listed, as they were.
    let tables =
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'live' ORDER BY 1";
    assert_eq!(program.said(tables).await, "closed;posts");
    drop(program);
    let program = crate::relations::Program::start(data.path(), None).await;
    assert_eq!(program.unmade.len(), 1, "{:?}", program.unmade);
    assert!(
        program.unmade[0]
            .starts_with("view public.ids could not be made and stays kept: cannot connect")
    );
    program.run("DROP SERVER live").await.unwrap();
}
