//! Settings against what PostgreSQL 15 answers to the same.

use super::*;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

fn settings() -> (Settings, SessionContext) {
    let mut config = SessionConfig::new();
    config
        .options_mut()
        .extensions
        .insert(safeguard_udfs::SafeguardSettings::default());
    let context = SessionContext::new_with_config(config);
    let options = Arc::new(SessionOptions::new(&context));
    (Settings::new(options, "ann", false), context)
}

fn command(sql: &str) -> Result<Option<Command>, Failure> {
    let statement = Parser::parse_sql(&PostgreSqlDialect {}, sql)
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
        .remove(0);
    Command::from_ast(&statement)
}

/// Runs a statement; gives what SHOW gives, `ok`, or the SQLSTATE and the message.
fn run(settings: &Settings, sql: &str) -> String {
    let failed = |failure: Failure| format!("{} {}", failure.sqlstate, failure.message);
    let done = |outcome: Result<(), Failure>| outcome.map_or_else(failed, |()| "ok".to_owned());
    match sql {
        "BEGIN" => settings.begin(),
        "COMMIT" => settings.commit(),
        "ROLLBACK" => settings.rollback(),
        _ => {
            return match command(sql) {
                Err(failure) => failed(failure),
                Ok(Some(Command::Set { name, value, local })) => {
                    done(settings.set(&name, value.as_deref(), local))
                }
                Ok(Some(Command::SetTransaction { values, local })) => {
                    let set =
                        |(name, value): (&str, String)| settings.set(name, Some(&value), local);
                    done(values.into_iter().try_for_each(set))
                }
                Ok(Some(Command::Show(name))) => settings.get(&name).unwrap_or_else(failed),
                Ok(Some(Command::Reset(name))) => done(settings.reset(&name)),
                Ok(Some(Command::ResetAll)) => {
                    settings.reset_all();
                    "ok".to_owned()
                }
                other => format!("{other:?}"),
            };
        }
    }
    "ok".to_owned()
}

#[test]
fn values_are_checked_and_shown_as_postgresql_does() {
    for (sql, shown) in [
        ("SET statement_timeout = '5 h'", "5h"),
        ("SET statement_timeout = 1500", "1500ms"),
        ("SET statement_timeout = '1.5s'", "1500ms"),
        ("SET statement_timeout TO 90061000", "90061s"),
        ("SET statement_timeout TO 0", "0"),
        ("SET lock_timeout = '10min'", "10min"),
        ("SET work_mem = '3GB'", "3GB"),
        ("SET work_mem = 2048", "2MB"),
        ("SET TIME ZONE 'utc'", "UTC"),
        ("SET TIME ZONE -3", "<-03>+03"),
        ("SET TIME ZONE '+05:30'", "+05:30"),
        (
            "SET TIME ZONE INTERVAL '2 hours' HOUR TO MINUTE",
            "<+02>-02",
        ),
        ("SET timezone = 'europe/berlin'", "Europe/Berlin"),
        ("SET timezone TO 'America/New_York'", "America/New_York"),
        ("SET TIME ZONE LOCAL", "UTC"),
        ("SET TIME ZONE DEFAULT", "UTC"),
        ("SET DateStyle = 'ISO, DMY'", "ISO, DMY"),
        ("SET datestyle TO ISO, YMD", "ISO, YMD"),
        ("SET search_path = a, \"B c\", 'd'", "a, \"B c\", d"),
        ("SET search_path = 'a, b'", "\"a, b\""),
        ("SET search_path = \"$user\", public", "\"$user\", public"),
        ("SET jit = of", "off"),
        ("SET enable_seqscan TO OFF", "off"),
        ("SET row_security = 1", "on"),
        ("SET application_name = 1.50", "1.50"),
        ("SET application_name = 'é'", "?"),
        ("SET client_encoding TO UNICODE", "UTF8"),
        ("SET NAMES 'utf-8'", "UTF8"),
        ("SET client_encoding = 'SQL_ASCII'", "SQL_ASCII"),
        ("SET extra_float_digits = 3", "3"),
        ("SET SESSION extra_float_digits = -15", "-15"),
        (
            "SET default_transaction_isolation = 'repeatable read'",
            "repeatable read",
        ),
        ("SET standard_conforming_strings = on", "on"),
        ("SET my.x = '1'", "1"),
        ("SET xx.yy TO on", "on"),
        ("SET safeguard.mode = score", "score"),
        ("SET datafusion.execution.batch_size = 77", "77"),
    ] {
        let (settings, _context) = settings();
        assert_eq!(run(&settings, sql), "ok", "{sql}");
        let Some(Command::Set { name, .. }) = command(sql).unwrap() else {
            panic!("{sql}")
        };
        assert_eq!(settings.get(&name).unwrap(), shown, "{sql}");
    }
}

#[test]
fn what_cannot_be_set_says_so_as_postgresql_does() {
    for (sql, want) in [
        (
            "SET foo = 1",
            "42704 unrecognized configuration parameter \"foo\"",
        ),
        (
            "SHOW nope",
            "42704 unrecognized configuration parameter \"nope\"",
        ),
        (
            "SHOW my.y",
            "42704 unrecognized configuration parameter \"my.y\"",
        ),
        (
            "RESET nope",
            "42704 unrecognized configuration parameter \"nope\"",
        ),
        (
            "SET client_encoding = 'nope'",
            "22023 invalid value for parameter \"client_encoding\": \"nope\"",
        ),
        (
            "SET client_encoding = 'latin1'",
            "0A000 conversion between LATIN1 and UTF8 is not supported",
        ),
        (
            "SET server_version = '1'",
            "55P02 parameter \"server_version\" cannot be changed",
        ),
        (
            "SET max_connections = 3",
            "55P02 parameter \"max_connections\" cannot be changed without restarting the server",
        ),
        (
            "SET log_statement = 'all'",
            "42501 permission denied to set parameter \"log_statement\"",
        ),
        (
            "SET statement_timeout = 'x'",
            "22023 invalid value for parameter \"statement_timeout\": \"x\"",
        ),
        (
            "SET statement_timeout = -1",
            "22023 -1 ms is outside the valid range for parameter \"statement_timeout\" (0 .. 2147483647)",
        ),
        (
            "SET statement_timeout = '3 parsecs'",
            "22023 invalid value for parameter \"statement_timeout\": \"3 parsecs\"",
        ),
        (
            "SET timezone = 'Nope/X'",
            "22023 invalid value for parameter \"TimeZone\": \"Nope/X\"",
        ),
        (
            "SET datestyle = 'x'",
            "22023 invalid value for parameter \"DateStyle\": \"x\"",
        ),
        (
            "SET datestyle = 'German'",
            "0A000 DateStyle = german is not supported",
        ),
        (
            "SET bytea_output = x",
            "22023 invalid value for parameter \"bytea_output\": \"x\"",
        ),
        (
            "SET extra_float_digits = 9",
            "22023 9 is outside the valid range for parameter \"extra_float_digits\" (-15 .. 3)",
        ),
        (
            "SET row_security = maybe",
            "22023 parameter \"row_security\" requires a Boolean value",
        ),
        (
            "SET standard_conforming_strings = off",
            "0A000 standard_conforming_strings = off is not supported",
        ),
        (
            "SET \"a-b.c\" = 1",
            "42602 invalid configuration parameter name \"a-b.c\"",
        ),
        (
            "SET safeguard.mode = fast",
            "22023 safeguard.mode = 'fast' is not one of: auto, score, reason",
        ),
        (
            "SET safeguard.nope = 1",
            "42704 setting \"safeguard.nope\" does not exist; there are: safeguard.mode, safeguard.effort, safeguard.answer, safeguard.screen, safeguard.lane, safeguard.max_rows, safeguard.max_tokens, safeguard.max_seconds, safeguard.max_undecided_ratio, safeguard.retry_undecided",
        ),
        (
            "SET datafusion.nope = 1",
            "42704 unrecognized configuration parameter \"datafusion.nope\"",
        ),
        (
            "SET datafusion.sql_parser.dialect = 'mysql'",
            "55P02 parameter \"datafusion.sql_parser.dialect\" cannot be changed",
        ),
    ] {
        let (settings, _context) = settings();
        assert_eq!(run(&settings, sql), want, "{sql}");
    }
}

#[test]
fn a_transaction_undoes_what_was_set_in_it() {
    for (script, want) in [
        (
            "SET work_mem = '5MB'; BEGIN; SET work_mem = '6MB'; ROLLBACK; SHOW work_mem",
            "5MB",
        ),
        ("BEGIN; SET work_mem = '6MB'; COMMIT; SHOW work_mem", "6MB"),
        ("BEGIN; SET LOCAL work_mem = '6MB'; SHOW work_mem", "6MB"),
        (
            "BEGIN; SET LOCAL work_mem = '6MB'; COMMIT; SHOW work_mem",
            "4MB",
        ),
        (
            "BEGIN; SET work_mem = '5MB'; SET LOCAL work_mem = '6MB'; COMMIT; SHOW work_mem",
            "5MB",
        ),
        (
            "BEGIN; SET LOCAL work_mem = '6MB'; SET work_mem = '5MB'; COMMIT; SHOW work_mem",
            "5MB",
        ),
        (
            "BEGIN; SET LOCAL work_mem = '6MB'; ROLLBACK; SHOW work_mem",
            "4MB",
        ),
        // Without a transaction it has no effect.
        ("SET LOCAL work_mem = '6MB'; SHOW work_mem", "4MB"),
        (
            "BEGIN; SET my.x = 1; ROLLBACK; SHOW my.x",
            "42704 unrecognized configuration parameter \"my.x\"",
        ),
        ("SET my.x = 1; RESET my.x; SHOW my.x", ""),
        (
            "SET work_mem = '5MB'; BEGIN; RESET work_mem; ROLLBACK; SHOW work_mem",
            "5MB",
        ),
        ("SET work_mem = '5MB'; RESET ALL; SHOW work_mem", "4MB"),
        (
            "BEGIN; SET safeguard.mode = score; ROLLBACK; SHOW safeguard.mode",
            "auto",
        ),
        (
            "BEGIN; SET LOCAL safeguard.mode = score; COMMIT; SHOW safeguard.mode",
            "auto",
        ),
        (
            "SET safeguard.mode = score; RESET ALL; SHOW safeguard.mode",
            "auto",
        ),
        (
            "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SHOW TRANSACTION ISOLATION LEVEL",
            "serializable",
        ),
        (
            "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; COMMIT; SHOW transaction_isolation",
            "read committed",
        ),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; SHOW transaction_read_only",
            "on",
        ),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; BEGIN; SHOW transaction_read_only",
            "on",
        ),
    ] {
        let (settings, _context) = settings();
        let last = script.split("; ").map(|sql| run(&settings, sql)).last();
        assert_eq!(last.as_deref(), Some(want), "{script}");
    }
}

#[test]
fn clients_are_told_what_changed() {
    let (settings, _context) = settings();
    let told: Vec<_> = settings.report();
    let value = |name: &str| {
        told.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
    };
    assert_eq!(value("server_version"), Some("16.6"));
    assert_eq!(value("session_authorization"), Some("ann"));
    assert_eq!(value("is_superuser"), Some("off"));
    assert_eq!(settings.report(), []);
    settings.set("timezone", Some("Asia/Tokyo"), false).unwrap();
    settings.set("work_mem", Some("5MB"), false).unwrap();
    let want = vec![("TimeZone", "Asia/Tokyo".to_owned())];
    assert_eq!(settings.report(), want);
}

#[test]
fn the_session_follows() {
    let (settings, context) = settings();
    let seen = |name: &str| {
        let state = context.state();
        let entries = state.config_options().entries();
        entries
            .into_iter()
            .find(|e| e.key == name)
            .and_then(|e| e.value)
    };
    for (sql, name, want) in [
        (
            "SET timezone = 'Europe/Berlin'",
            "datafusion.execution.time_zone",
            "Europe/Berlin",
        ),
        (
            "SET TIME ZONE -3",
            "datafusion.execution.time_zone",
            "-03:00",
        ),
        (
            "SET search_path = safeguard, public",
            "datafusion.catalog.default_schema",
            "safeguard",
        ),
        (
            "RESET search_path",
            "datafusion.catalog.default_schema",
            "public",
        ),
    ] {
        assert_eq!(run(&settings, sql), "ok", "{sql}");
        assert_eq!(seen(name).as_deref(), Some(want), "{sql}");
    }
    settings.start("statement_timeout", "2s").unwrap();
    settings
        .set("statement_timeout", Some("5s"), false)
        .unwrap();
    settings.reset_all();
    assert_eq!(
        settings.duration("statement_timeout"),
        Some(Duration::from_secs(2))
    );
    assert_eq!(settings.duration("lock_timeout"), None);
}
