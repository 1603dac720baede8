//! Jobs over the wire: who may have them, parameters, what psql lists, and that a server runs them.

use super::logins::{add, login};
use super::{Wire, config, simple};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_for_admins() {
    let wire = Wire::start(config()).await;
    for (name, role) in [("rea", "reader"), ("ann", "analyst"), ("adm", "admin")] {
        add(&wire, name, role).await;
    }
    let reader = login(&wire, "rea", "correct horse").await.unwrap();
    let analyst = login(&wire, "ann", "correct horse").await.unwrap();
    let admin = login(&wire, "adm", "correct horse").await.unwrap();
    let schedule = "SELECT cron.schedule('nightly', '0 3 * * *', $$ SELECT 'a secret text' $$)";
    for client in [&reader, &analyst] {
        for sql in [
            schedule,
            "EXPLAIN SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT 1')",
            "EXPLAIN ANALYZE SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT 1')",
            "COPY (SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT 1')) TO STDOUT",
            "SELECT cron.unschedule(1)",
            "SELECT cron.alter_job(1, active := false)",
            "SELECT cron.schedule_in_database('a', '0 3 * * *', 'SELECT 1', 'b')",
            "SELECT * FROM safeguard_erase('x')",
        ] {
            let refused = simple(client, sql).await;
            assert!(
                refused.starts_with("42501 permission denied for "),
                "{sql}: {refused}"
            );
        }
    }
    assert_eq!(simple(&admin, "SELECT count(*) FROM cron.job").await, "0");
    assert_eq!(simple(&admin, schedule).await, "1");
    // Who may see what: commands and what statements said can quote texts.
    let seen = "SELECT jobid, jobname, schedule, username, active FROM cron.job";
    for client in [&reader, &analyst, &admin] {
        assert_eq!(simple(client, seen).await, "1|nightly|0 3 * * *|adm|t");
        assert_eq!(
            simple(client, "SELECT runid, status FROM cron.job_run_details").await,
            ""
        );
    }
    for (table, column) in [
        ("cron.job", "command"),
        ("cron.job_run_details", "command"),
        ("cron.job_run_details", "return_message"),
        ("cron.job_run_details", "notices"),
        ("safeguard.relations", "sql"),
    ] {
        let sql = format!("SELECT {column} FROM {table}");
        let refused = simple(&reader, &sql).await;
        assert!(
            refused.starts_with("42501 permission denied for column"),
            "{sql}: {refused}"
        );
        assert!(!simple(&analyst, &sql).await.starts_with("42501"), "{sql}");
    }
    let command = simple(&analyst, "SELECT command FROM cron.job").await;
    assert_eq!(command, " SELECT 'a secret text' ");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_and_psqls_lists() {
    let wire = Wire::start(config()).await;
    let (client, _) = wire.connect("ann").await;
    let sql = "SELECT cron.schedule($1, $2, $3)";
    let rows = client
        .query(sql, &[&"a", &"*/5 * * * *", &"SELECT 1"])
        .await
        .unwrap();
    assert_eq!(rows[0].get::<_, i64>(0), 1);
    // Prepared and described is not run.
    let prepared = client.prepare(sql).await.unwrap();
    assert_eq!(simple(&client, "SELECT count(*) FROM cron.job").await, "1");
    client
        .query(&prepared, &[&"b", &"1 second", &"SELECT 1"])
        .await
        .unwrap();
    client
        .query(&prepared, &[&"c", &"@hourly", &"SELECT 1"])
        .await
        .unwrap();
    assert_eq!(
        simple(&client, "SELECT jobname FROM cron.job ORDER BY jobid").await,
        "a;b;c"
    );
    let rows = client
        .query("SELECT cron.unschedule($1)", &[&"b"])
        .await
        .unwrap();
    assert!(rows[0].get::<_, bool>(0));
    assert_eq!(
        simple(&client, "SELECT cron.unschedule('c'), 1").await,
        "t|1"
    );
    assert_eq!(
        simple(&client, "SELECT cron.alter_job(1, active := false)").await,
        ""
    );
    let listed = "SELECT n.nspname, p.proname, pg_catalog.pg_get_function_arguments(p.oid)
                  FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
                  WHERE n.nspname = 'cron' ORDER BY 2";
    assert_eq!(
        simple(&client, listed).await,
        "cron|alter_job|job_id bigint, schedule text, command text, database text, username text, active boolean;\
         cron|schedule|job_name text, schedule text, command text;\
         cron|schedule_in_database|job_name text, schedule text, command text, database text, username text, active boolean;\
         cron|unschedule|job_name text, job_id bigint"
    );
}
