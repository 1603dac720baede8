//! What ends a statement, and that the model stops with it: counted in the engine's steps, not in time alone.

use super::{Wire, config, simple, state};
use safeguard::config::ServeConfig;
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls};

/// Far more texts than the model reads in a second.
const MANY: &str = "CREATE TABLE many AS SELECT 'you are text number ' || x AS body FROM generate_series(1, 50000) g(x)";
const CLASSIFY: &str = "SELECT safeguard_score('hate', body) FROM many";

/// What a test does to a running statement.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Cancel,
    Timeout,
    Kill,
    Portal,
    Shutdown,
}

async fn stopped(way: Way) {
    let wire = Wire::start(ServeConfig {
        shutdown: Duration::ZERO,
        ..config()
    })
    .await;
    let (client, mut notices) = wire.connect("ann").await;
    let (other, _) = wire.connect("bob").await;
    assert_eq!(simple(&client, MANY).await, "");
    for client in [&client, &other] {
        // One step a text.
        assert_eq!(simple(client, "SET safeguard.mode = 'score'").await, "");
    }
    if way == Way::Timeout {
        assert_eq!(simple(&client, "SET statement_timeout = 1000").await, "");
    }
    let times_out = Instant::now() + Duration::from_secs(1);
    let token = client.cancel_token();
    let running = tokio::spawn(async move {
        let failed = match way {
            Way::Portal => state(client.query(CLASSIFY, &[]).await),
            _ => state(client.simple_query(CLASSIFY).await),
        };
        (client, failed)
    });
    if way != Way::Timeout {
        // Said while it runs, once it has asked something. What times out may do so before anything is said.
        let progress = notices.recv().await.unwrap();
        assert!(progress.message().contains("rows so far"), "{progress:?}");
    }
    let stopping = Instant::now();
    match way {
        Way::Cancel | Way::Portal => token.cancel_query(NoTls).await.unwrap(),
        Way::Timeout => {}
        Way::Kill => wire.kill(0),
        Way::Shutdown => wire.shutdown.soft.cancel(),
    }
    let outcome: Option<(Client, String)> = running.await.ok();
    let stopping = match way {
        Way::Timeout => times_out,
        _ => stopping,
    };
    let want = match way {
        Way::Cancel | Way::Portal => Some("57014 canceling statement due to user request"),
        Way::Timeout => Some("57014 canceling statement due to statement timeout"),
        Way::Shutdown => Some("57P01 terminating connection due to administrator command"),
        Way::Kill => None,
    };
    let got = outcome.as_ref().map(|(_, failed)| failed.as_str());
    match want {
        Some(want) => assert_eq!(got, Some(want), "{way:?}"),
        None => assert!(
            got.is_some_and(|got| got.starts_with("no answer")),
            "{got:?}"
        ),
    }
    if way == Way::Shutdown {
        assert!(stopping.elapsed() < Duration::from_secs(1), "{way:?}");
        drop((outcome, other));
        return;
    }
    // Work that was left behind would be read before or beside this.
    let after = "SELECT safeguard_score('hate', 'one more text')";
    assert_ne!(simple(&other, after).await, "");
    assert!(
        stopping.elapsed() < Duration::from_secs(2),
        "{way:?}: {:?}",
        stopping.elapsed()
    );
    let counts = wire.counts();
    let again = "SELECT safeguard_score('hate', 'and another one')";
    assert_ne!(simple(&other, again).await, "");
    let more = wire.counts().steps - counts.steps;
    assert!(more <= 3, "{way:?}: {more} steps for one text");
    if let Some((client, _)) = outcome.filter(|_| way != Way::Kill) {
        assert_eq!(simple(&client, "SELECT 1").await, "1", "{way:?}");
    }
    // Who waits is answered before the statement is written down.
    let log = "SELECT count(*) FROM safeguard.queries WHERE status = '57014: cancelled'";
    let written = async {
        while simple(&other, log).await != "1" {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), written).await;
    assert!(waited.is_ok(), "{way:?}: not in safeguard.queries");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_stops_the_model() {
    stopped(Way::Cancel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_stops_the_extended_protocol_too() {
    stopped(Way::Portal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_stops_the_model() {
    stopped(Way::Timeout).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_stops_the_model() {
    stopped(Way::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_ends_what_runs() {
    stopped(Way::Shutdown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_lets_statements_end_within_its_limit() {
    let wire = Wire::start(config()).await;
    let (client, mut notices) = wire.connect("ann").await;
    let (idle, _) = wire.connect("bob").await;
    let running = tokio::spawn(async move {
        let sql =
            "SELECT count(safeguard_score('hate', 'text ' || x)) FROM generate_series(1, 300) g(x)";
        simple(&client, sql).await
    });
    notices.recv().await.unwrap();
    wire.shutdown.soft.cancel();
    assert_eq!(running.await.unwrap(), "300");
    let gone = state(idle.simple_query("SELECT 1").await);
    assert!(
        gone.starts_with("57P01") || gone.starts_with("no answer"),
        "{gone}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_said_although_rows_keep_coming() {
    let wire = Wire::start(config()).await;
    let (client, mut notices) = wire.connect("ann").await;
    let sql = "SELECT safeguard_score('hate', 'text ' || x) FROM generate_series(1, 600) g(x)";
    assert_ne!(simple(&client, sql).await, "");
    drop(client);
    let mut said = 0;
    while let Some(notice) = notices.recv().await {
        said += usize::from(notice.message().contains("rows so far"));
    }
    assert!(said > 1, "{said} notices");
}
