//! Backfills over the wire: who asked may go away, and everybody sees how far they are.

use super::{Wire, config, simple};
use safeguard::config::Role;
use safeguard::jobs::runner::Runner;

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_outlives_its_client() {
    let wire = Wire::start(config()).await;
    let runner = Runner::start(&wire.shared.engine);
    let (client, _) = wire.connect("ann").await;
    let (other, _) = wire.connect("bob").await;
    for sql in [
        "SET safeguard.mode = 'score'",
        "CREATE TABLE posts AS SELECT i AS id, 'text number ' || i AS body FROM generate_series(1, 400) AS g(i)",
    ] {
        assert_eq!(simple(&client, sql).await, "");
    }
    let begin = "SELECT id, policy, rows, state FROM safeguard_backfill('keywords', 'SELECT id, body FROM posts')";
    assert_eq!(simple(&client, begin).await, "1|keywords@1|400|spooling");
    wire.kill(0);
    drop(client);
    let mut seen = 0;
    loop {
        let sql = "SELECT state, judged, failed, requested_by FROM safeguard.backfills";
        let stands = simple(&other, sql).await;
        let cells: Vec<&str> = stands.split('|').collect();
        let judged: u64 = cells[1].parse().unwrap();
        assert!(judged >= seen, "{judged} after {seen}");
        seen = judged;
        match cells[0] {
            "spooling" | "running" => {}
            "done" => break assert_eq!(stands, "done|400|0|ann"),
            state => panic!("{state}"),
        }
    }
    let judged = "SELECT count(DISTINCT text_digest) FROM safeguard.verdicts WHERE mode = 'score'";
    assert_eq!(simple(&other, judged).await, "400");
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backfills_are_for_admins_and_what_they_quote_for_staff() {
    for (role, functions, columns) in [
        (Role::Reader, false, false),
        (Role::Analyst, false, true),
        (Role::Admin, true, true),
    ] {
        let mut config = config();
        config.anonymous_role = role;
        let wire = Wire::start(config).await;
        let (client, _) = wire.connect("ann").await;
        for sql in [
            "SELECT * FROM safeguard_backfill('keywords', 'SELECT ''a'' AS body')",
            "SELECT state FROM safeguard_backfill_pause(1)",
            "SELECT state FROM safeguard_backfill_resume(1)",
            "SELECT state FROM safeguard_backfill_cancel(1)",
        ] {
            let said = simple(&client, sql).await;
            assert_eq!(
                !said.starts_with("42501"),
                functions,
                "{role} {sql}: {said}"
            );
        }
        for sql in [
            "SELECT source FROM safeguard.backfills",
            "SELECT note FROM safeguard.backfills",
            "SELECT id FROM safeguard.backfill_failures",
            "SELECT last_error FROM safeguard.backfill_failures",
        ] {
            let said = simple(&client, sql).await;
            assert_eq!(!said.starts_with("42501"), columns, "{role} {sql}: {said}");
        }
        for sql in [
            "SELECT id, state, judged FROM safeguard.backfills WHERE id > 1",
            "SELECT backfill, reason FROM safeguard.backfill_failures",
            "SELECT * FROM safeguard.queue",
        ] {
            assert_eq!(simple(&client, sql).await, "", "{role} {sql}");
        }
    }
}
