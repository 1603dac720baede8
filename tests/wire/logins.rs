//! Who gets in, and what they may do then.

use super::{Wire, config, simple, state};
use safeguard::config::{SCRAM_ITERATIONS, ServeConfig};
use safeguard::server::scram::Verifier;
use safeguard::store::UserRow;
use tokio_postgres::Client;

pub(super) async fn add(wire: &Wire, name: &str, role: &str) {
    let verifier = Verifier::derive("correct horse", SCRAM_ITERATIONS).unwrap();
    let user = UserRow {
        name: name.to_owned(),
        role: role.to_owned(),
        verifier: verifier.to_string(),
        created_at: 0,
        valid_until: None,
    };
    wire.shared.engine.store().put_user(user).await.unwrap();
}

pub(super) async fn login(
    wire: &Wire,
    user: &str,
    password: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut client = wire.client(user);
    client.password(password);
    Ok(wire.connect_with(&client).await?.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_asked_for_once_there_are_users() {
    let wire = Wire::start(config()).await;
    let (before, _) = wire.connect("anybody").await;
    add(&wire, "ann", "analyst").await;
    assert_eq!(simple(&before, "SELECT 1").await, "1");
    let client = login(&wire, "ann", "correct horse").await.unwrap();
    assert_eq!(simple(&client, "SELECT current_user").await, "ann");
    for (user, password) in [("ann", "wrong"), ("eve", "correct horse"), ("ann", "")] {
        let refused = state(login(&wire, user, password).await);
        let want = format!("28P01 password authentication failed for user \"{user}\"");
        match password {
            // The driver itself knows that there is none to send.
            "" => assert_ne!(refused, "ok"),
            _ => assert_eq!(refused, want),
        }
    }
    // Neither settings nor tables show what a password could be made of.
    let shown =
        simple(&client, "SHOW ALL").await + &simple(&client, "SELECT * FROM safeguard.users").await;
    assert!(shown.contains("ann|analyst") && !shown.contains("SCRAM-SHA-256$"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_the_clear_where_tls_is_required() {
    let wire = Wire::start(ServeConfig {
        tls_required: true,
        ..config()
    })
    .await;
    let refused = state(wire.connect_with(&wire.client("ann")).await);
    assert_eq!(refused, "28000 no unencrypted connections from 127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_hold_over_the_wire() {
    let wire = Wire::start(config()).await;
    for (name, role) in [("rea", "reader"), ("ann", "analyst"), ("adm", "admin")] {
        add(&wire, name, role).await;
    }
    let reader = login(&wire, "rea", "correct horse").await.unwrap();
    let analyst = login(&wire, "ann", "correct horse").await.unwrap();
    let admin = login(&wire, "adm", "correct horse").await.unwrap();
    let sql = "SELECT safeguard_classify('hate', 'hello there')";
    assert_eq!(simple(&reader, sql).await, "undecided");
    assert_eq!(simple(&analyst, sql).await, "allowed");
    assert_eq!(simple(&reader, sql).await, "allowed");
    assert_eq!(simple(&admin, "CREATE TABLE t (a INT)").await, "");
    for (client, sql) in [
        (&reader, "SET safeguard.answer = 'wait'"),
        (
            &reader,
            "SELECT set_config('safeguard.answer', 'wait', false)",
        ),
        (&reader, "SELECT rationale FROM safeguard.verdicts"),
        (
            &reader,
            "EXPLAIN ANALYZE SELECT rationale FROM safeguard.verdicts",
        ),
        (&reader, "COPY (SELECT * FROM safeguard.verdicts) TO STDOUT"),
        (
            &reader,
            "SELECT (safeguard_verdict('hate', 'hello there')).rationale",
        ),
        (&reader, "INSERT INTO t VALUES (1)"),
        (&analyst, "INSERT INTO t VALUES (1)"),
        (&analyst, "DROP TABLE t"),
        (&analyst, "COPY t FROM STDIN"),
        (&analyst, "COPY (SELECT 1) TO 'stolen.csv'"),
        (
            &admin,
            "CREATE EXTERNAL TABLE f STORED AS CSV LOCATION '/etc/passwd'",
        ),
        (
            &admin,
            "CREATE EXTERNAL TABLE f (a TEXT) STORED AS CSV LOCATION '../../etc/passwd'; SELECT * FROM f",
        ),
        (&admin, "COPY (SELECT 1 AS a) TO '../outside.csv'"),
    ] {
        let refused = simple(client, sql).await;
        assert!(refused.starts_with("42501"), "{sql}: {refused}");
    }
    // RESET and DISCARD give a reader nothing back.
    assert_eq!(
        simple(&reader, "RESET ALL; DISCARD ALL; SHOW safeguard.answer").await,
        "stored"
    );
    assert_eq!(
        simple(&analyst, "SELECT count(rationale) FROM safeguard.verdicts").await,
        "1"
    );
}
