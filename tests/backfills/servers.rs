//! Servers that share a store in PostgreSQL work on one backfill: each row is judged once, and what that costs in
//! statements is counted in the database's own log.

use super::{Bench, Script};
use crate::postgres::cluster::Cluster;
use safeguard::backend::{Backend, BackendError, ModelIdentity, Prompt, Reply};
use safeguard::engine::Engine;
use safeguard::jobs::pace::Pace;
use safeguard::jobs::runner::Runner;
use safeguard::store::{State, Store};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

const ROWS: usize = 12_000;
const SERVERS: usize = 3;
/// Of one question.
const LATENCY: Duration = Duration::from_millis(60);

/// A script that takes its time, as a model on a server does.
#[derive(Debug)]
struct Slow(Arc<Script>);

#[async_trait::async_trait]
impl Backend for Slow {
    fn model(&self) -> &ModelIdentity {
        self.0.model()
    }

    fn tokens(&self, prompt: &Prompt) -> u64 {
        self.0.tokens(prompt)
    }

    fn decodes_most(&self, prompt: &Prompt) -> u64 {
        self.0.decodes_most(prompt)
    }

    async fn ask(&self, prompt: Prompt) -> Result<Reply, BackendError> {
        let mut clock = tokio::time::interval(LATENCY);
        clock.tick().await;
        clock.tick().await;
        self.0.ask(prompt).await
    }
}

/// Statements that a database was asked, by its log.
fn statements(log: &str) -> usize {
    let asked =
        |line: &&str| line.contains(" LOG:  execute ") || line.contains(" LOG:  statement: ");
    // What the test asks by the side.
    log.lines()
        .filter(asked)
        .filter(|line| !line.contains("'mark "))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_share_a_backfill_and_ask_the_database_little() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let url = format!(
        "postgres://postgres@/postgres?host={}",
        cluster.folder().display()
    );
    let first = Bench::over(Store::shared(&url).unwrap(), Script::new()).await;
    first.table(ROWS).await;
    first.begin(", note => 'shared'").await;
    assert!(first.step().await, "spooled");
    let mut scripts = Vec::new();
    let mut engines = Vec::new();
    for _ in 0..SERVERS {
        let script = Script::new();
        let backend = Arc::new(Slow(Arc::clone(&script)));
        let store = Store::shared(&url).unwrap();
        engines.push(Engine::with_backend(store, backend).await.unwrap());
        scripts.push(script);
    }
    let before = statements(&cluster.log().await);
    let runners: Vec<Runner> = engines
        .iter()
        .map(|engine| {
            let pace = Pace {
                poll: Duration::from_millis(500),
                ..Pace::of(engine.store())
            };
            Runner::paced(engine, &pace)
        })
        .collect();
    let mut look = tokio::time::interval(Duration::from_millis(50));
    let client = cluster.client().await;
    // Its mark says that the statement is the test's.
    let state = "SELECT state, 'mark ' FROM safeguard_store.backfills WHERE id = 1";
    while client
        .query_one(state, &[])
        .await
        .unwrap()
        .get::<_, String>(0)
        != "done"
    {
        look.tick().await;
    }
    for runner in runners {
        runner.stop().await;
    }
    let after = statements(&cluster.log().await);
    let each_asked: Vec<Vec<Arc<str>>> = scripts.iter().map(|script| script.asked()).collect();
    assert!(
        each_asked.iter().all(|asked| !asked.is_empty()),
        "every server worked"
    );
    let asked: Vec<Arc<str>> = each_asked.into_iter().flatten().collect();
    let distinct: HashSet<&Arc<str>> = asked.iter().collect();
    assert_eq!(
        (asked.len(), distinct.len()),
        (ROWS, ROWS),
        "each row was asked once"
    );
    let done = first.engine.store().backfill(1).await.unwrap().unwrap();
    assert_eq!((done.state, done.judged), (State::Done, ROWS as u64));
    let each = (after - before) as f64 / ROWS as f64;
    println!(
        "{} statements for {ROWS} rows: {each:.4} a row",
        after - before
    );
    assert!(each <= 0.1, "{each} statements a row");
}

/// Two servers that are asked the same text at once: one asks the model, the other waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_that_are_asked_the_same_ask_once() {
    let Some(url) = crate::postgres::shared::url() else {
        return;
    };
    let one = Bench::over(Store::shared(&url).unwrap(), Script::new()).await;
    let two = Bench::over(Store::shared(&url).unwrap(), Script::new()).await;
    let ask = "SELECT safeguard_classify('p', 'the same, bad')";
    let held = one.script.hold();
    let first = one.row(ask);
    let second = async {
        held.asked().await;
        let mut second = std::pin::pin!(two.row(ask));
        let early = tokio::time::timeout(Duration::from_millis(400), &mut second).await;
        assert!(early.is_err(), "{early:?} before anybody answered");
        held.let_go();
        second.await
    };
    let answers = tokio::join!(first, second);
    assert_eq!(answers, ("bad".to_owned(), "bad".to_owned()));
    assert_eq!((one.script.asked().len(), two.script.asked().len()), (1, 0));
    // Whoever gives up leaves it to the other.
    let other = "SELECT safeguard_classify('p', 'another, bad')";
    let held = one.script.hold();
    {
        let mut given_up = std::pin::pin!(one.row(other));
        let both = async {
            tokio::select! {
                answer = &mut given_up => panic!("{answer} before anybody answered"),
                () = held.asked() => {}
            }
        };
        both.await;
    }
    assert_eq!(two.row(other).await, "bad");
    assert_eq!(two.script.asked().len(), 1);
    held.let_go();
}
