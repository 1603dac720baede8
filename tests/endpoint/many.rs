//! Many texts over several servers, from SQL too: none lost, none asked twice beyond tries again, in order.

use super::double::{Double, Fault, Skills};
use super::{hurried, label, open, open_with, prompt};
use crate::slt::rows as cells;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use safeguard::backend::Backend;
use safeguard::backend::endpoint::Tuning;
use safeguard::engine::{End, Engine, Session};
use safeguard::store::Store;
use safeguard_udfs::Mode;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const POLICY: &str = r"E'---\nlabels: [allowed, violates]\n---\nBad is bad.'";

async fn rows(session: &Session, sql: &str) -> Vec<Vec<String>> {
    let statement = session.split(sql).remove(0).expect("a statement");
    let running = session.run(&statement).await.expect("it is planned");
    let (stream, ended) = running.split();
    let batches: Vec<_> = stream.try_collect().await.expect("it runs");
    session.finish(ended, End::Done).await;
    batches.iter().flat_map(cells).collect()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(2));
    for _ in 0..15_000 {
        look.tick().await;
        if holds() {
            return;
        }
    }
    panic!("not within half a minute: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_three_that_is_killed_loses_no_row() {
    let skills = Skills {
        latency: Duration::from_millis(5),
        ..Skills::default()
    };
    let mut doubles = Vec::new();
    for _ in 0..3 {
        doubles.push(Double::start(skills.clone()).await);
    }
    let addresses: Vec<&str> = doubles.iter().map(|double| &*double.address).collect();
    let endpoint = open_with(addresses.join(","), None, hurried())
        .await
        .expect("opened");
    let endpoint = Arc::new(endpoint);
    let engine = Engine::with_backend(
        Store::ephemeral().expect("a store"),
        Arc::clone(&endpoint) as Arc<dyn Backend>,
    );
    let session = engine.await.expect("an engine").session("me");
    let sql = format!(
        "SELECT n, safeguard_classify({POLICY}, CASE WHEN n % 3 = 0 THEN 'bad ' ELSE 'good ' END || n::text)
         FROM generate_series(1, 500) AS t(n) ORDER BY n"
    );
    let (killed, judged) = tokio::join!(
        async {
            until("the first server is at work", || doubles[0].answered() > 60).await;
            doubles[0].kill();
            doubles[0].answered()
        },
        rows(&session, &sql)
    );
    assert_eq!(judged.len(), 500);
    for (n, row) in (1..).zip(&judged) {
        let expected = if n % 3 == 0 { "violates" } else { "allowed" };
        assert_eq!(*row, [n.to_string(), expected.to_owned()]);
    }
    let mut times: HashMap<String, usize> = HashMap::new();
    for asked in doubles.iter().flat_map(Double::asked) {
        *times.entry(asked.text).or_default() += 1;
    }
    assert_eq!(times.len(), 500);
    let answered: usize = doubles.iter().map(Double::answered).sum();
    let again: usize = times.values().map(|times| times - 1).sum();
    assert!(
        killed < 500 && endpoint.sent() >= 500 + again as u64,
        "{killed} {again}"
    );
    // Whatever was asked again had been cut: each row was answered to the end once, probes aside (at most 6 a server).
    assert!((500..=500 + 18).contains(&answered), "{answered} answered");
    let before = endpoint.sent();
    assert_eq!(rows(&session, &sql).await, judged, "stored");
    assert_eq!(endpoint.sent(), before, "asked nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_are_kept_in_flight_and_cancelled_ones_free_their_places() {
    let skills = Skills {
        latency: Duration::from_millis(200),
        ..Skills::default()
    };
    let double = Double::start(skills).await;
    let endpoint = open(&double).await;
    let texts: Vec<String> = (0..256).map(|n| format!("good {n}")).collect();
    let begun = Instant::now();
    let replies: Vec<_> = futures::stream::iter(&texts)
        .map(|text| endpoint.ask(prompt(text, Mode::Reason)))
        .buffered(64)
        .collect()
        .await;
    let took = begun.elapsed();
    assert!(replies.iter().all(|reply| label(reply) == Ok(0)));
    assert_eq!(double.in_hand().1, 64, "as many as were asked at once");
    until("all are done", || double.in_hand().0 == 0).await;
    let ideal = 0.2 * 256.0 / 64.0;
    eprintln!(
        "256 prompts, 64 in flight, 200 ms: {took:?}, {:.3} of the ideal rate",
        ideal / took.as_secs_f64()
    );
    assert_eq!(double.asked().len(), 256);

    // One that answers nobody before the test is over.
    let double = Double::start(Skills {
        latency: Duration::from_secs(3_600),
        ..Skills::default()
    })
    .await;
    let endpoint = open(&double).await;
    for times in 1..=2 {
        let waiting = join_all(
            texts[..64]
                .iter()
                .map(|text| endpoint.ask(prompt(text, Mode::Reason))),
        );
        let gone = async {
            until("all are in hand: every place is free", || {
                double.in_hand().0 == 64
            })
            .await;
        };
        tokio::select! {
            _ = waiting => panic!("they were too quick"),
            () = gone => {}
        }
        // The future is gone, and with it the connections: the server stops at once.
        until("the server has stopped", || double.in_hand().0 == 0).await;
        assert_eq!(double.cut_short(), 64 * times);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_of_refusals_lose_nothing() {
    let double = Double::start(Skills::default()).await;
    let endpoint = open(&double).await;
    double.fail(&vec![Fault::Status(429, Some("0")); 40]);
    let texts: Vec<String> = (0..200).map(|n| format!("bad {n}")).collect();
    let replies = join_all(
        texts
            .iter()
            .map(|text| endpoint.ask(prompt(text, Mode::Reason))),
    )
    .await;
    let failed = replies.iter().filter(|reply| label(reply) != Ok(1)).count();
    assert_eq!(failed, 0);
    assert_eq!(double.asked().len(), 240);
    assert_eq!(endpoint.sent(), 240);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_fails_is_undecided_and_the_others_are_judged() {
    let double = Double::start(Skills {
        logprobs: false,
        ..Skills::default()
    })
    .await;
    double.fail_text("odd", Fault::Status(400, None));
    double.fail_text("mute", Fault::Says("a", "", "stop"));
    let endpoint = Arc::new(open(&double).await);
    let engine = Engine::with_backend(
        Store::ephemeral().expect("a store"),
        endpoint as Arc<dyn Backend>,
    );
    let session = engine.await.expect("an engine").session("me");
    let sql = format!(
        "SELECT t, v['label'], v['reason'], v['score'] IS NULL, v['rationale']
         FROM (SELECT t, safeguard_verdict({POLICY}, t) AS v
               FROM (VALUES ('bad'), ('good'), ('mute'), ('odd')) AS x(t)) ORDER BY t"
    );
    let expected = [
        ["bad", "violates", "NULL", "true", "It says bad."],
        ["good", "allowed", "NULL", "true", "It says good."],
        ["mute", "undecided", "unparsed", "true", "NULL"],
        ["odd", "undecided", "error", "true", "NULL"],
    ];
    assert_eq!(rows(&session, &sql).await, expected);
}

/// A server that takes questions and says nothing: the others answer them, and alone it is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_that_hangs_was_asked_others_answer() {
    let taking = |latency| Skills {
        latency,
        ..Skills::default()
    };
    let well = Double::start(taking(Duration::from_millis(1))).await;
    let hung = Double::start(taking(Duration::from_secs(3_600))).await;
    let patience = Tuning {
        reply: Duration::from_secs(3_600),
        silence: Duration::from_millis(300),
        ..hurried()
    };
    let addresses = format!("{},{}", hung.address, well.address);
    let endpoint = open_with(addresses, None, patience).await.expect("opened");
    let texts: Vec<String> = (0..40).map(|n| format!("bad {n}")).collect();
    let asked = texts
        .iter()
        .map(|text| endpoint.ask(prompt(text, Mode::Reason)));
    let replies = join_all(asked).await;
    assert!(replies.iter().all(|reply| label(reply) == Ok(1)));
    let taken = hung.asked().len();
    assert!(taken > 0, "it was asked");
    assert_eq!(well.asked().len(), 40, "each was answered, once");
    assert_eq!(endpoint.sent(), 40 + taken as u64);
    until("nothing is left there", || hung.in_hand().0 == 0).await;

    let slow = Double::start(taking(Duration::from_millis(400))).await;
    let patience = Tuning {
        silence: Duration::from_millis(50),
        ..patience
    };
    let endpoint = open_with(slow.address.clone(), None, patience).await;
    let endpoint = endpoint.expect("opened");
    let reply = endpoint.ask(prompt("bad", Mode::Reason)).await;
    assert_eq!((label(&reply), slow.asked().len()), (Ok(1), 1));
}
