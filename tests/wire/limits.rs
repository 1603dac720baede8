//! Limits: past each a client is told which, and the others go on.

use super::{Wire, config, simple, state};
use safeguard::config::ServeConfig;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_so() {
    let wire = Wire::start(ServeConfig {
        max_connections: 2,
        ..config()
    })
    .await;
    let (one, _) = wire.connect("ann").await;
    let (two, _) = wire.connect("bob").await;
    let third = wire.connect_with(&wire.client("eve")).await;
    assert_eq!(state(third), "53300 sorry, too many clients already");
    assert_eq!(simple(&two, "SELECT 1").await, "1");
    // Whoever is inside can still be cancelled from outside.
    one.cancel_token()
        .cancel_query(tokio_postgres::NoTls)
        .await
        .unwrap();
    drop(one);
    loop {
        // The place is free once the server has seen the end.
        if let Ok((third, _)) = wire.connect_with(&wire.client("eve")).await {
            assert_eq!(simple(&third, "SELECT 1").await, "1");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_statements_and_long_answers_are_refused() {
    let wire = Wire::start(ServeConfig {
        max_statement_bytes: 1_000,
        max_result_bytes: Some(10_000),
        ..config()
    })
    .await;
    let (client, _) = wire.connect("ann").await;
    let long = format!("SELECT '{}'", "x".repeat(5_000));
    let refused = simple(&client, &long).await;
    assert!(refused.starts_with("54000 a statement of 50"), "{refused}");
    let refused = state(client.query(&long, &[]).await);
    assert!(refused.starts_with("54000 a statement of 50"), "{refused}");
    let much = "SELECT x, 'some text' FROM generate_series(1, 100000) g(x)";
    let refused = simple(&client, much).await;
    assert!(
        refused.starts_with("54000 the answer is longer than 10000"),
        "{refused}"
    );
    assert_eq!(simple(&client, "SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_are_sent_away() {
    let wire = Wire::start(ServeConfig {
        idle_timeout: Some(Duration::from_millis(100)),
        startup_timeout: Duration::from_millis(100),
        ..config()
    })
    .await;
    let (_client, mut notices) = wire.connect("ann").await;
    // The connection ends, and with it the stream of its notices.
    while notices.recv().await.is_some() {}
    let mut silent = TcpStream::connect(wire.address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 9]).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let wire = Wire::start(config()).await;
    let mut slow = TcpStream::connect(wire.address).await.unwrap();
    let mut startup = b"\0\x03\0\0user\0slow\0\0".to_vec();
    startup.splice(0..0, (startup.len() as u32 + 4).to_be_bytes());
    slow.write_all(&startup).await.unwrap();
    let sql = b"SELECT x, repeat('x', 1000) FROM generate_series(1, 1000000) g(x)\0";
    let mut query = vec![b'Q'];
    query.extend((sql.len() as u32 + 4).to_be_bytes());
    query.extend(sql);
    slow.write_all(&query).await.unwrap();
    // It began to be answered, and nobody reads on.
    let mut some = vec![0; 100_000];
    slow.read_exact(&mut some).await.unwrap();
    let (client, _) = wire.connect("ann").await;
    let sent = wire.shared.counters.sent.get();
    for _ in 0..50 {
        assert_eq!(
            simple(&client, "SELECT count(*) FROM generate_series(1, 1000)").await,
            "1000"
        );
    }
    assert_eq!(wire.shared.counters.sent.get(), sent);
}
