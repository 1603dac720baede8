//! Training a screen beside what can go wrong with it: it is cancelled, a budget ends, others ask at the same time.

use crate::auto::Run;
use crate::stores;

const PUBLISH: &str =
    "SELECT * FROM safeguard_publish('p', E'---\\nlabels: [allowed, bad]\\n---\\nno bad things')";
const POSTS: &str = "CREATE TABLE posts AS
    SELECT CASE i % 5 WHEN 0 THEN 'a bad offer, number ' ELSE 'good evening, dear ' END || i AS text
    FROM generate_series(1, 2000) AS g(i)";
const TRAIN: &str =
    "SELECT state FROM safeguard_train_screen('p', 0.9, label_budget => 300, source => 'posts')";
const SCREENS: &str = "SELECT count(*) FROM safeguard.screens";
const VERDICTS: &str = "SELECT count(*) FROM safeguard.verdicts";

async fn begun() -> Run {
    let mut run = Run::new(stores::new(), "one").await;
    run.rows(PUBLISH).await.unwrap();
    run.rows(POSTS).await.unwrap();
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cancelled_leaves_nothing_in_force_and_loses_no_label() {
    let mut run = begun().await;
    let script = std::sync::Arc::clone(&run.script);
    let mut reasoned = 0;
    {
        let mut training = std::pin::pin!(run.rows(TRAIN));
        // Between two rounds of questions, not before the first.
        while reasoned < 60 {
            let step = std::time::Duration::from_micros(200);
            if let Ok(done) = tokio::time::timeout(step, &mut training).await {
                panic!("it was done too soon: {done:?}");
            }
            reasoned += script.asked().1;
        }
    }
    assert_eq!(run.rows(SCREENS).await.unwrap(), [["0"]]);
    // What was asked is stored, and not asked again.
    let stored: u64 = run.rows(VERDICTS).await.unwrap()[0][0].parse().unwrap();
    assert!((60..300).contains(&stored), "{stored}");
    script.asked();
    assert_eq!(run.rows(TRAIN).await.unwrap(), [["on"]]);
    assert!(script.asked().1 <= 300);
    assert_eq!(run.rows(SCREENS).await.unwrap(), [["1"]]);
}

#[tokio::test]
async fn the_budget_of_labels_is_exact_and_so_is_the_statements() {
    // Questions allowed, the statement's own limit, texts judged at the most.
    for (questions, rows, most) in [
        (0, None, 0),
        (1, None, 1),
        (77, None, 77),
        (300, None, 300),
        (300, Some(50), 50),
        (5_000, None, 2_000),
    ] {
        let mut run = begun().await;
        if let Some(rows) = rows {
            run.rows(&format!("SET safeguard.max_rows = {rows}"))
                .await
                .unwrap();
        }
        let train = TRAIN.replace("300", &questions.to_string());
        let state = run.rows(&train).await.unwrap();
        let (_, asked) = run.script.asked();
        assert!(asked <= most, "{questions}, {rows:?}: {asked} asked");
        if rows.is_none() && questions == 300 {
            assert_eq!(asked, most, "{questions}: less than it may");
        }
        if rows.is_some() || questions < 50 {
            assert_eq!(state, [["off"]], "{questions}, {rows:?}");
        }
    }
}

/// A screen stands in front of one model: beside another there is none to audit.
#[tokio::test]
async fn a_screen_is_one_reasoners() {
    let dir = tempfile::tempdir().unwrap();
    let open = || stores::open(dir.path());
    let mut one = Run::new(open(), "one").await;
    one.rows(PUBLISH).await.unwrap();
    one.rows(POSTS).await.unwrap();
    assert_eq!(one.rows(TRAIN).await.unwrap(), [["on"]]);
    let audit = "SELECT state FROM safeguard_audit_screen('p', 'SELECT ''a'' AS text')";
    let mut other = Run::new(open(), "two").await;
    let error = other.rows(audit).await.unwrap_err().to_string();
    assert!(error.starts_with("55000 no screen of policy"), "{error}");
}

/// What is certified is so of texts that were not trained on, whatever is drawn: an audit that asks about all of them
/// says what the recall is.
#[tokio::test]
async fn what_is_certified_holds_whoever_is_drawn() {
    let (mut on, mut wrong) = (0, 0);
    for seed in 0..20 {
        let mut run = begun().await;
        let train = TRAIN.replace("source", &format!("seed => {seed}, source"));
        if run.rows(&train).await.unwrap() != [["on"]] {
            continue;
        }
        on += 1;
        let audit = format!(
            "SELECT state, labels = texts FROM safeguard_audit_screen('p', 'posts', 10000, seed => {seed})"
        );
        let audited = run.rows(&audit).await.unwrap();
        assert_eq!(audited[0][1], "true", "{audited:?}");
        wrong += usize::from(audited[0][0] != "on");
    }
    // Each wrong with 5%: more than 4 of 20 are so with less than 0.3%.
    assert!(on >= 10 && wrong <= 4, "{wrong} of {on}");
}
