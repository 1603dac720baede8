//! Whole backtests in SQL, over many rows and on a backend whose every answer is known.

use super::*;
use crate::backend::{Answer, Backend, BackendError, ModelIdentity, Prompt, Reply};
use crate::engine::Session;
use crate::store::Store;
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{Float64Type, Int64Type};
use futures::TryStreamExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A text that says `bad` is bad; under a policy that says `edited`, one that says `flip` is what it was not.
#[derive(Debug)]
struct Words {
    identity: ModelIdentity,
    asked: AtomicU64,
}

#[async_trait::async_trait]
impl Backend for Words {
    fn model(&self) -> &ModelIdentity {
        &self.identity
    }

    fn tokens(&self, _: &Prompt) -> u64 {
        10
    }

    async fn ask(&self, prompt: Prompt) -> Result<Reply, BackendError> {
        self.asked.fetch_add(1, Relaxed);
        let edited = prompt.policy.text.contains("edited");
        let bad = prompt.text.contains("bad") != (edited && prompt.text.contains("flip"));
        let mut probabilities = vec![0.1, 0.9];
        if !bad {
            probabilities.reverse();
        }
        Ok(Reply {
            answer: Answer::Label {
                index: usize::from(bad),
                probabilities,
                analysis: None,
                reasoned: false,
            },
            tokens_in: 10,
            tokens_out: 0,
        })
    }
}

async fn engine() -> (Engine, Arc<Words>) {
    let words = Arc::new(Words {
        identity: ModelIdentity {
            name: "words".into(),
            digest: "words".into(),
            demonstration: false,
            template_version: "1".into(),
        },
        asked: AtomicU64::default(),
    });
    let store = Store::ephemeral().unwrap();
    let engine = Engine::with_backend(store, Arc::clone(&words) as Arc<dyn Backend>).await;
    let engine = engine.unwrap().with_functions(crate::change::functions());
    (engine, words)
}

async fn run(session: &Session, sql: &str) -> RecordBatch {
    let statement = session.split(sql).remove(0).unwrap();
    let (rows, ended) = session.run(&statement).await.unwrap().split();
    let schema = rows.schema();
    let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    session.finish(ended, crate::engine::End::Done).await;
    concat_batches(&schema, &batches).unwrap()
}

const POSTS: &str = "CREATE TABLE posts AS
    SELECT i AS id, repeat('never read ', 20) AS other,
        'text ' || i || CASE WHEN i % 1000 = 1 THEN ' bad' ELSE '' END
            || CASE WHEN i % 2000 = 1 OR i % 200 = 0 AND i % 2000 <> 0 THEN ' flip' ELSE '' END AS body
    FROM generate_series(1, 100000) AS g(i)";

/// Lines of an answer by section and name: rows, sampled, flips, and the interval.
fn line(batch: &RecordBatch, section: &str, name: &str) -> ([i64; 3], [f64; 3]) {
    let text = |at: usize| batch.column(at).as_string::<i32>();
    let row = (0..batch.num_rows())
        .find(|row| text(1).value(*row) == section && text(2).value(*row) == name)
        .unwrap_or_else(|| panic!("no {section} {name}"));
    let count = |at: usize| batch.column(at).as_primitive::<Int64Type>().value(row);
    let float = |at: usize| batch.column(at).as_primitive::<Float64Type>().value(row);
    (
        [count(3), count(4), count(5)],
        [float(6), float(7), float(8)],
    )
}

/// 100,000 rows of which 0.5% change, 0.1% are violations and a fifth is judged already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_run_holds_the_truth_and_asks_no_more_than_it_must() {
    let (engine, words) = engine().await;
    let session = engine.session("ann");
    run(&session, "SET safeguard.mode = 'score'").await;
    for text in ["as it was", "edited"] {
        let publish = format!(
            "SELECT * FROM safeguard_publish('p', E'---\\nlabels: [allowed, bad]\\n---\\n{text}')"
        );
        run(&session, &publish).await;
    }
    run(&session, POSTS).await;
    let judge = "SELECT count(safeguard_classify('p@1', body)) FROM posts WHERE id <= 20000";
    run(&session, judge).await;
    assert_eq!(words.asked.swap(0, Relaxed), 20_000);
    for seed in 0..2 {
        let backtest = format!(
            "SELECT * FROM safeguard_backtest('p@1', 'p@2', 'SELECT * FROM posts', 2000,
                 text => 'body', seed => {seed})"
        );
        let found = run(&session, &backtest).await;
        for (section, name, truth) in [
            ("total", "all", 0.005),
            ("direction", "allowed->violating", 0.004_5),
            ("direction", "violating->allowed", 0.000_5),
            ("direction", "label->label", 0.0),
        ] {
            let (counts, [share, low, high]) = line(&found, section, name);
            assert_eq!(counts[..2], [100_000, 2_000], "{name}");
            assert!(low <= truth && truth <= high, "{seed} {name}: {low} {high}");
            assert!(
                low <= share && share <= high && high - low < 0.01,
                "{seed} {name}"
            );
        }
        let ([rows, sampled, _], _) = line(&found, "stratum", "bad");
        assert_eq!(
            (rows, sampled),
            if seed == 0 { (20, 20) } else { (rows, sampled) }
        );
        let ([_, unjudged, _], _) = line(&found, "stratum", "not judged yet");
        let asked = words.asked.swap(0, Relaxed);
        match seed {
            // Each sampled text under the new version, and under the old one where that was not stored.
            0 => assert_eq!(asked, 2_000 + u64::try_from(unjudged).unwrap()),
            _ => assert!(asked <= 2_000 + u64::try_from(unjudged).unwrap()),
        }
        // The same sample, although what was not judged is now.
        let again = run(&session, &backtest).await;
        assert_eq!(words.asked.swap(0, Relaxed), 0);
        for (section, name) in [
            ("total", "all"),
            ("stratum", "bad"),
            ("stratum", "not judged yet"),
        ] {
            assert_eq!(line(&again, section, name), line(&found, section, name));
        }
    }
    // Another draft over the same sample: only the draft is asked.
    let draft = "SELECT * FROM safeguard_backtest('p@1', E'---\\nlabels: [allowed, bad]\\n---\\nanother draft',
        'SELECT * FROM posts', 2000, text => 'body')";
    run(&session, draft).await;
    assert_eq!(words.asked.swap(0, Relaxed), 2_000);
}

/// Of a source's columns those are read that mean something.
#[tokio::test]
async fn a_source_is_read_by_the_columns_that_count() {
    let (engine, _) = engine().await;
    let session = engine.session("ann");
    run(&session, POSTS).await;
    run(&session, "CREATE TABLE likes AS SELECT 1 AS id, 2 AS post").await;
    let cases = [
        (
            "SELECT * FROM posts",
            None,
            "TableScan: posts projection=[id, body]",
        ),
        (
            "SELECT body, other FROM posts WHERE id > 7",
            None,
            "TableScan: posts projection=[id, body]",
        ),
        (
            "SELECT posts.*, post FROM posts JOIN likes ON posts.id = post",
            None,
            "TableScan: likes projection=[post]",
        ),
        (
            "SELECT * FROM posts",
            Some("other"),
            "TableScan: posts projection=[id, other, body]",
        ),
    ];
    for (sql, strata, wanted) in cases {
        let (_, select) = survey::resolve(
            &session,
            &Given {
                source: sql.into(),
                named: Named {
                    text: Some("body".into()),
                    ..Named::default()
                },
                strata: strata.map(str::to_owned),
                ..given(&engine)
            },
        )
        .await
        .unwrap();
        let plan = run(&session, &format!("EXPLAIN {select}")).await;
        let plan = plan.column(1).as_string::<i32>().value(0).to_owned();
        assert!(plan.contains(wanted), "{sql}\n{plan}");
    }
}

fn given(engine: &Engine) -> Given {
    Given {
        old: Tried::resolve(engine, "spam").unwrap(),
        new: Tried::resolve(engine, "spam").unwrap(),
        source: "".into(),
        sample: 10,
        named: Named::default(),
        strata: None,
        seed: 0,
        repeats: 0,
        note: None,
    }
}
