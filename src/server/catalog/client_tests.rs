//! The queries that clients really send, run in process: `tests/clients/queries` is the contract. Each says how many
//! rows it gives here; with `QUERIES_COMPLETE` set, the numbers (or errors) are written into the files: read the diff.

use super::*;
use crate::engine::script::{self, display_name};
use crate::server::settings::{Command, SessionOptions};
use crate::server::{failure::Failure, rewrite};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::cast;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::ScalarValue;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use safeguard_udfs::Scripted;
use std::path::Path;

struct Server {
    context: SessionContext,
    oids: Vec<(&'static str, i32)>,
}

impl Server {
    async fn new() -> Server {
        let config = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, "public")
            .with_information_schema(true)
            .with_target_partitions(1)
            .set_str("datafusion.sql_parser.dialect", "postgresql");
        let builder = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features();
        let scripted = Arc::new(Scripted::new([("bad", "bad")]));
        let state = safeguard_udfs::install(builder, scripted).build();
        let context = SessionContext::new_with_state(state);
        let catalog = Catalog::new(&context).unwrap();
        let options = Arc::new(SessionOptions::new(&context));
        let settings = Arc::new(Settings::new(options, "ann", true));
        let facts = Facts {
            user: "ann".into(),
            role: "admin".into(),
            database: "safeguard".into(),
            pid: 42,
            settings,
            client_addr: Some(([127, 0, 0, 1], 5000).into()),
        };
        catalog.install(&context, facts);
        for sql in [
            "CREATE SCHEMA safeguard",
            "CREATE TABLE messages (id bigint, body text NOT NULL, author int, score double precision, at timestamp, day date, flags text[], ok boolean, PRIMARY KEY (id))",
            "CREATE TABLE safeguard.policies (name text, version bigint)",
            "CREATE VIEW recent AS SELECT id, body FROM messages",
        ] {
            context.sql(sql).await.unwrap().collect().await.unwrap();
        }
        let shared = &catalog.shared;
        let classify = shared
            .functions
            .iter()
            .find(|f| f.name == "safeguard_classify");
        let oids = vec![
            ("{messages}", shared.oids.relation("public", "messages")),
            ("{key}", shared.oids.relation("public", "messages_pkey")),
            ("{recent}", shared.oids.relation("public", "recent")),
            ("{classify}", classify.unwrap().oid),
        ];
        Server { context, oids }
    }

    async fn run(&self, sql: &str, params: &[Option<String>]) -> Result<Vec<RecordBatch>, Failure> {
        let mut sql = sql.to_owned();
        for (name, oid) in &self.oids {
            sql = sql.replace(name, &oid.to_string());
        }
        let mut batches = Vec::new();
        for statement in script::split_for_tests(&sql) {
            let statement = statement?;
            // What the session does itself.
            let parsed = statement.parsed().to_string();
            if Command::from_parsed(statement.parsed())?.is_some()
                || ["CLOSE", "UNLISTEN", "RELEASE"]
                    .iter()
                    .any(|word| parsed.starts_with(word))
            {
                continue;
            }
            let statement = statement.rewrite(&mut rewrite::statement)?;
            let state = self.context.state();
            let plan = state.statement_to_plan(statement.parsed().clone()).await?;
            let plan = rewrite::infer(plan)?;
            let types = plan.get_parameter_types()?;
            let mut values = Vec::new();
            #[allow(clippy::needless_range_loop)]
            for at in 0..params.len() {
                let mut param = params[at].clone();
                for (name, oid) in &self.oids {
                    param = param.map(|text| text.replace(name, &oid.to_string()));
                }
                let text = ScalarValue::Utf8(param.clone());
                let wanted = types.get(&format!("${}", at + 1)).cloned().flatten();
                values.push(match wanted {
                    Some(datafusion::arrow::datatypes::DataType::List(item)) => {
                        let items = provider::list_of(&rows::Cell::from(param));
                        let rows::Cell::List(items) = items else {
                            panic!("{sql}")
                        };
                        let items = rows::column(rows::Kind::Text, items.iter());
                        let items = cast(&items, item.data_type()).unwrap();
                        let list = datafusion::common::utils::SingleRowListArrayBuilder::new(items);
                        list.build_list_scalar()
                    }
                    Some(wanted) => text.cast_to(&wanted)?,
                    None => text,
                });
            }
            let plan = match values.is_empty() {
                true => plan,
                false => plan.with_param_values(values)?,
            };
            batches = self
                .context
                .execute_logical_plan(plan)
                .await?
                .collect()
                .await?;
        }
        Ok(batches)
    }

    /// The rows as text: cells with `|`, rows as lines.
    async fn rows(&self, sql: &str) -> String {
        let batches = match self.run(sql, &[]).await {
            Ok(batches) => batches,
            Err(failure) => return failure.to_string(),
        };
        let options = FormatOptions::default();
        let mut lines = Vec::new();
        for batch in &batches {
            let columns: Vec<_> = batch
                .columns()
                .iter()
                .map(|c| ArrayFormatter::try_new(c, &options).unwrap())
                .collect();
            for row in 0..batch.num_rows() {
                let cells: Vec<String> = columns.iter().map(|c| c.value(row).to_string()).collect();
                lines.push(cells.join("|"));
            }
        }
        lines.join("\n")
    }
}

/// A file's queries: what each is called (with how many rows it gives), its parameters, its text.
fn queries(text: &str) -> Vec<(String, Vec<Option<String>>, String)> {
    let mut queries = Vec::new();
    for piece in text.split("\n---").skip(1) {
        let (label, rest) = piece.split_once('\n').unwrap_or((piece, ""));
        let mut params = Vec::new();
        let mut body = rest;
        if let Some(line) = rest.strip_prefix("-- $1 = ") {
            let (line, after) = line.split_once('\n').unwrap();
            body = after;
            for (at, value) in line.split(", $").enumerate() {
                let value = match at {
                    0 => value,
                    _ => value.split_once(" = ").unwrap().1,
                };
                let value = value.trim();
                params.push(match value {
                    "NULL" => None,
                    value => Some(value.trim_matches('\'').to_owned()),
                });
            }
        }
        queries.push((label.trim().to_owned(), params, body.trim().to_owned()));
    }
    queries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_every_client_runs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/queries");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let server = Server::new().await;
    let complete = std::env::var_os("QUERIES_COMPLETE").is_some();
    let (mut failed, mut count) = (Vec::new(), 0);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut completed = text.split("\n---").next().unwrap().to_owned();
        for (at, (label, params, sql)) in queries(&text).into_iter().enumerate() {
            count += 1;
            let (title, wanted) = label.split_once("rows: ").unwrap_or((&label, ""));
            let found = match server.run(&sql, &params).await {
                Ok(batches) => batches
                    .iter()
                    .map(RecordBatch::num_rows)
                    .sum::<usize>()
                    .to_string(),
                Err(failure) => failure.to_string().chars().take(300).collect(),
            };
            let piece = text.split("\n---").nth(at + 1).unwrap();
            let body = piece.split_once('\n').unwrap().1;
            completed += &format!("\n--- {title}rows: {found}\n{body}");
            if found != wanted {
                let start: Vec<&str> = sql.split_whitespace().take(20).collect();
                failed.push(format!(
                    "{name}:{at} {title}: {found}, not {wanted}\n    {}",
                    start.join(" ")
                ));
            }
        }
        if complete {
            std::fs::write(&file, completed).unwrap();
        }
    }
    println!("{count} queries");
    assert!(
        failed.is_empty(),
        "{} failed\n{}",
        failed.len(),
        failed.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_answer_as_postgresql_does() {
    let server = Server::new().await;
    for (sql, want) in [
        ("SELECT current_user, session_user, user", "ann|ann|ann"),
        (
            "SELECT current_database(), current_catalog, current_schema(), current_schema",
            "safeguard|safeguard|public|public",
        ),
        (
            "SELECT current_schemas(true), current_schemas(false)",
            "[pg_catalog, public]|[public]",
        ),
        (
            "SELECT pg_backend_pid(), inet_client_addr(), pg_is_in_recovery()",
            "42|127.0.0.1|false",
        ),
        (
            "SELECT current_setting('work_mem'), current_setting('nope', true)",
            "4MB|",
        ),
        (
            "SELECT current_setting('nope')",
            "42704: unrecognized configuration parameter \"nope\"",
        ),
        ("SELECT set_config('my.x', '7', false)", "7"),
        ("SELECT current_setting('my.x')", "7"),
        (
            "SELECT 'pg_class'::regclass::oid, 'messages'::regclass",
            "1259|messages",
        ),
        (
            "SELECT 'nope'::regclass",
            "42P01: relation \"nope\" does not exist",
        ),
        (
            "SELECT to_regclass('nope'), to_regclass('safeguard.policies') IS NOT NULL",
            "|true",
        ),
        (
            "SELECT 1259::regclass, 23::regtype, 'integer'::regtype::oid, to_regtype('text[]')",
            "pg_class|integer|23|1009",
        ),
        (
            "SELECT pg_typeof(1), pg_typeof('a'), pg_typeof(now()), pg_typeof(1.5)",
            "bigint|text|timestamp with time zone|double precision",
        ),
        (
            "SELECT format_type(1700, 655366), format_type(25, NULL), format_type(1007, -1)",
            "numeric(10,2)|text|integer[]",
        ),
        (
            "SELECT has_table_privilege('messages', 'SELECT, INSERT'), pg_has_role('ann', 'MEMBER')",
            "true|true",
        ),
        ("SELECT pg_advisory_unlock_all()", ""),
        (
            "SELECT pg_advisory_lock(1)",
            "0A000: advisory locks are not supported",
        ),
        (
            "SELECT pg_get_function_result(oid), pg_get_function_arguments(oid) FROM pg_proc WHERE proname = 'safeguard_score'",
            "double precision|policy text, text text",
        ),
        (
            "SELECT d.description FROM pg_description d JOIN pg_proc p ON p.oid = d.objoid WHERE p.proname = 'safeguard_violates'",
            "Whether a text violates a policy. NULL when undecided.",
        ),
        (
            "SELECT to_char(timestamp '2024-03-05 14:07:09', 'YYYY-MM-DD HH24:MI'), to_char(1234.5, 'FM9,999.00')",
            "2024-03-05 14:07|1,234.50",
        ),
        (
            "SELECT to_char(date '2024-03-05', 'Mon DD, YYYY'), to_char(NULL::timestamp, 'YYYY')",
            "Mar 05, 2024|",
        ),
        (
            "SELECT to_char(timestamp '2024-03-05 14:07:09', '%Y')",
            "2024",
        ),
        (
            "SELECT length(gen_random_uuid()) , gen_random_uuid() = gen_random_uuid()",
            "36|false",
        ),
        ("SELECT pg_sleep(0)", ""),
        (
            "SELECT quote_ident('A b'), quote_literal('it''s'), format('%I', 'x'), pg_size_pretty(10485760)",
            "\"A b\"|'it''s'|x|10 MB",
        ),
        (
            "SELECT relname FROM pg_class WHERE relname LIKE 'mess%' AND relkind = 'r' AND pg_table_is_visible(oid)",
            "messages",
        ),
        (
            "SELECT 1 WHERE 'b' = ANY ('{a,b}'::text[]) AND 3 <> ALL (ARRAY[1,2])",
            "1",
        ),
        (
            "SELECT array(SELECT nspname FROM pg_namespace WHERE nspname LIKE 's%' ORDER BY 1)",
            "[safeguard]",
        ),
        (
            "SELECT table_name, data_type FROM information_schema.columns WHERE column_name IN ('score', 'flags') ORDER BY 2",
            "messages|ARRAY\nmessages|double precision",
        ),
        ("SELECT 1, 1, NULL, NULL", "1|1||"),
        (
            "SELECT a, count(*) FROM (VALUES ('x'), ('x')) v(a) GROUP BY a HAVING count(*) > 1 ORDER BY count(*)",
            "x|2",
        ),
        (
            "SELECT rolname FROM pg_roles ORDER BY 1",
            "admin\nanalyst\nann\nreader",
        ),
    ] {
        assert_eq!(server.rows(sql).await, want, "{sql}");
    }
    let version = server.rows("SELECT version()").await;
    assert!(
        version.starts_with("PostgreSQL 16.6 (safeguard-sql "),
        "{version}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_the_names_that_they_expect() {
    let server = Server::new().await;
    for (sql, want) in [
        (
            "SELECT 1, count(*), 'a'::text, now()::date",
            "?column?,count,text,now",
        ),
        (
            "SELECT m.id, m.id, r.id FROM messages m JOIN recent r ON m.id = r.id",
            "id,id,id",
        ),
        ("SELECT *, id FROM recent", "id,body,id"),
        (
            "SELECT 'messages'::regclass, current_user",
            "regclass,current_user",
        ),
    ] {
        let batches = server.run(sql, &[]).await.unwrap();
        let schema = match batches.first() {
            Some(batch) => batch.schema(),
            None => {
                let statement = script::split_for_tests(sql).remove(0).unwrap();
                let statement = statement.rewrite(&mut rewrite::statement).unwrap();
                let plan = server
                    .context
                    .state()
                    .statement_to_plan(statement.parsed().clone())
                    .await;
                Arc::new(plan.unwrap().schema().as_arrow().clone())
            }
        };
        let names: Vec<&str> = schema
            .fields()
            .iter()
            .map(|f| display_name(f.name()))
            .collect();
        assert_eq!(names.join(","), want, "{sql}");
    }
}

/// Each was put to PostgreSQL 15.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn naming_columns_changes_no_answer() {
    let server = Server::new().await;
    let mut wrong = Vec::new();
    for (sql, want) in [
        (
            "SELECT a::text FROM (VALUES (10), (9)) t(a) ORDER BY a",
            "10\n9",
        ),
        (
            "SELECT lower(a) FROM (VALUES ('B'), ('a')) t(a) ORDER BY lower(a)",
            "a\nb",
        ),
        (
            "SELECT lower(a) FROM (VALUES ('B'), ('a')) t(a) ORDER BY 1",
            "a\nb",
        ),
        (
            "SELECT lower(a), count(*) FROM (VALUES ('B'), ('a'), ('b')) t(a) GROUP BY lower(a) ORDER BY count(*) DESC",
            "b|2\na|1",
        ),
        (
            "SELECT lower(a), count(*) FROM (VALUES ('B'), ('a'), ('b')) t(a) GROUP BY 1 ORDER BY 2 DESC, 1",
            "b|2\na|1",
        ),
        (
            "SELECT count(*), sum(a) FROM (VALUES (1), (2)) t(a) HAVING count(*) > 1",
            "2|3",
        ),
        (
            "SELECT DISTINCT a + 1 FROM (VALUES (1), (2), (1)) t(a) ORDER BY a + 1",
            "2\n3",
        ),
        (
            "SELECT DISTINCT ON (a) a, b FROM (VALUES (1, 2), (1, 3), (2, 1)) t(a, b) ORDER BY a, b DESC",
            "1|3\n2|1",
        ),
        (
            "SELECT a + 1 FROM (VALUES (1), (2)) t(a) UNION SELECT 7 ORDER BY 1",
            "2\n3\n7",
        ),
        (
            "SELECT sum FROM (SELECT sum(a) FROM (VALUES (1), (2)) t(a)) x",
            "3",
        ),
        (
            "SELECT max(a), max(b) FROM (VALUES (1, 2), (3, 1)) t(a, b)",
            "3|2",
        ),
        (
            "SELECT max(a) AS a FROM (VALUES (1, 2), (3, 1)) t(a, b) GROUP BY b ORDER BY a",
            "1\n3",
        ),
        (
            "SELECT a, sum(b) OVER (PARTITION BY a) FROM (VALUES (1, 2), (1, 3)) t(a, b) ORDER BY sum(b) OVER (PARTITION BY a), a",
            "1|5\n1|5",
        ),
        (
            "SELECT CASE WHEN a > 1 THEN 'x' ELSE 'y' END, count(*) FROM (VALUES (1), (2), (3)) t(a) GROUP BY CASE WHEN a > 1 THEN 'x' ELSE 'y' END ORDER BY 1",
            "x|2\ny|1",
        ),
        (
            "SELECT date_trunc('day', a)::date, count(*) FROM (VALUES (timestamp '2020-01-01 10:00:00')) t(a) GROUP BY date_trunc('day', a)::date",
            "2020-01-01|1",
        ),
        (
            "SELECT a, a FROM (VALUES (2), (1)) t(a) ORDER BY a",
            "1|1\n2|2",
        ),
        (
            "SELECT t.a, u.a FROM (VALUES (1), (2)) t(a) JOIN (VALUES (1), (2)) u(a) ON t.a = u.a ORDER BY u.a DESC",
            "2|2\n1|1",
        ),
        (
            "SELECT *, a FROM (VALUES (2), (1)) t(a) ORDER BY a",
            "1|1\n2|2",
        ),
        (
            "SELECT DISTINCT a, a FROM (VALUES (2), (1)) t(a) ORDER BY a",
            "1|1\n2|2",
        ),
        (
            "SELECT (SELECT count(*) FROM (VALUES (1)) u(x)), 1, 1",
            "1|1|1",
        ),
        ("SELECT count(*) FROM (SELECT 1, 1) x", "1"),
        (
            "SELECT upper(a) FROM (VALUES ('x'), ('y')) t(a) WHERE a IN (SELECT lower(b) FROM (VALUES ('X')) u(b))",
            "X",
        ),
        (
            "WITH c AS (SELECT count(*) FROM (VALUES (1), (2)) t(a)) SELECT count FROM c",
            "2",
        ),
        (
            "SELECT a AS b, b AS a FROM (VALUES (1, 4), (2, 3)) t(a, b) ORDER BY a",
            "2|3\n1|4",
        ),
        (
            "SELECT sum(a) FROM (VALUES (1, 1), (2, 1), (5, 2)) t(a, b) GROUP BY b HAVING sum(a) > 3 ORDER BY sum(a)",
            "5",
        ),
        (
            "SELECT length(a), length(b) FROM (VALUES ('x', 'yy')) t(a, b)",
            "1|2",
        ),
        (
            "SELECT abs(a) FROM (VALUES (1), (-5)) t(a) ORDER BY abs(a) DESC LIMIT 1",
            "5",
        ),
        (
            "SELECT grouping(a), count(*) FROM (VALUES (1), (2)) t(a) GROUP BY ROLLUP (a) ORDER BY 1, 2",
            "0|1\n0|1\n1|2",
        ),
        (
            "SELECT a FROM (VALUES (1)) t(a) UNION ALL SELECT a FROM (VALUES (2)) u(a) ORDER BY a",
            "1\n2",
        ),
        ("SELECT s.a[1] FROM (SELECT ARRAY[7, 8] AS a) s", "7"),
        ("SELECT i FROM generate_series(1, 3) i", "1\n2\n3"),
        ("SELECT u FROM unnest(ARRAY['a', 'b']) u", "a\nb"),
    ] {
        let got = server.rows(sql).await;
        if got != want {
            wrong.push(format!("{sql}\n    {got:?}, not {want:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
