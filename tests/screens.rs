//! Screens in the flow, on a scripted model: what they decide is not asked, and they decide nothing that they may not.

use crate::auto::Run;
use crate::stores;
use safeguard::screen::{Example, Screen, Training};
use safeguard::store::{ScreenEvent, now};
use std::sync::Arc;

/// Texts that say `bad` are bad, and a screen can learn that; `vague` ones it has never seen.
fn trained() -> Screen {
    let examples: Vec<Example> = (0..400)
        .map(|i| Example {
            text: match i % 2 {
                0 => format!("a bad offer number {i}"),
                _ => format!("a fine letter number {i}"),
            }
            .into(),
            violates: i % 2 == 0,
        })
        .collect();
    Screen::train(
        &examples,
        &Training {
            threads: 2,
            seed: 1,
        },
    )
    .unwrap()
}

const POSTS: &str = "CREATE TABLE posts AS
    SELECT i, CASE i % 4 WHEN 0 THEN 'a bad offer number ' ELSE 'a fine letter number ' END || i AS t
    FROM generate_series(1001, 1400) AS g(i)";

/// An engine with policy `p`, texts, and a screen that was put in force between two scores.
struct Setting {
    run: Run,
    event: ScreenEvent,
}

impl Setting {
    async fn new(front: &str, convict: bool) -> Setting {
        let mut run = Run::new(stores::new(), "one").await;
        let publish = format!(
            "SELECT * FROM safeguard_publish('p', E'---\\nlabels: [allowed, bad]{front}\\n---\\nbad if it sells')"
        );
        run.rows(&publish).await.unwrap();
        run.rows(POSTS).await.unwrap();
        let screen = trained();
        let policy = run.engine.policies().resolve("p").unwrap();
        let fine = screen.score("a fine letter number 1003");
        let bad = screen.score("a bad offer number 1004");
        assert!(fine < 0.3 && bad > 0.7, "{fine} {bad}");
        let event = ScreenEvent {
            event: "trained".into(),
            at: now(),
            policy: "p".into(),
            policy_version: policy.number,
            policy_digest: policy.digest.to_string(),
            screen_digest: screen.digest(),
            reasoner: "script".into(),
            reasoner_digest: "one".into(),
            basis: "reasoner".into(),
            source: Some("posts".into()),
            slice: None,
            on: true,
            target: 0.95,
            delta: 0.05,
            clear_below: Some(0.3),
            recall_bound: Some(0.96),
            precision_target: convict.then_some(0.9),
            convict_above: convict.then_some(0.7),
            precision_bound: convict.then_some(0.92),
            texts: 400,
            cleared: 300,
            convicted: 0,
            labels: 100,
            violating: 50,
            trained_on: 400,
            more_labels: None,
            finding: "put in force by a test".into(),
        };
        let events = vec![event.clone()];
        let store = run.engine.store();
        store
            .append_screen(events, Some(screen.to_bytes()))
            .await
            .unwrap();
        Setting { run, event }
    }

    /// Questions that a statement takes, and its answer.
    async fn asks(&mut self, sql: &str) -> (u64, Vec<Vec<String>>) {
        self.run.script.asked();
        let rows = self.run.rows(sql).await.unwrap();
        let (scored, reasoned) = self.run.script.asked();
        (scored + reasoned, rows)
    }

    async fn turn_off(&mut self) {
        let off = ScreenEvent {
            event: "turned_off".into(),
            on: false,
            clear_below: None,
            convict_above: None,
            ..self.event.clone()
        };
        self.run
            .engine
            .store()
            .append_screen(vec![off], None)
            .await
            .unwrap();
    }
}

const STAGES: &str = "SELECT (safeguard_verdict('p', t)).stage AS stage, safeguard_classify('p', t) AS label, count(*)
    FROM posts GROUP BY 1, 2 ORDER BY 1, 2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_screen_may_do_decides_who_is_asked() {
    // The policy's front matter, whether convicting is certified, then questions for 100 bad and 300 fine texts, stages.
    let cases: [(&str, bool, u64, &[[&str; 3]]); 5] = [
        (
            "",
            false,
            100,
            &[["reason", "bad", "100"], ["screen", "allowed", "300"]],
        ),
        (
            "",
            true,
            100,
            &[["reason", "bad", "100"], ["screen", "allowed", "300"]],
        ),
        (
            "\\nscreen: convict",
            false,
            100,
            &[["reason", "bad", "100"], ["screen", "allowed", "300"]],
        ),
        (
            "\\nscreen: convict",
            true,
            0,
            &[["screen", "allowed", "300"], ["screen", "bad", "100"]],
        ),
        (
            "\\nscreen: never",
            true,
            400,
            &[["reason", "allowed", "300"], ["reason", "bad", "100"]],
        ),
    ];
    for (front, convict, asked, stages) in cases {
        let mut setting = Setting::new(front, convict).await;
        let first = setting.asks(STAGES).await;
        assert_eq!(
            (first.0, first.1),
            (
                asked,
                stages
                    .iter()
                    .map(|r| r.map(str::to_owned).to_vec())
                    .collect()
            ),
            "{front} {convict}"
        );
        // Decided once: recalled the next time, whoever decided.
        let (again, rows) = setting.asks(STAGES).await;
        assert_eq!((again, rows.len()), (0, stages.len()), "{front} {convict}");
        let sql = "SELECT rows, recalled, screened, asked FROM safeguard.queries ORDER BY id";
        let log = setting.run.rows(sql).await.unwrap();
        let screened = if front.ends_with("never") {
            0
        } else {
            400 - asked
        };
        let want = [
            ["400", "0", &screened.to_string(), &asked.to_string()],
            ["400", "400", "0", "0"],
        ];
        assert_eq!(log, want, "{front} {convict}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_models_verdicts_count_before_a_screens() {
    let mut setting = Setting::new("", false).await;
    let odd = "'a fine letter number 1 odd'";
    let stage = format!("SELECT (safeguard_verdict('p', {odd})).stage");
    setting
        .run
        .rows("SET safeguard.screen = off")
        .await
        .unwrap();
    assert_eq!(
        setting.asks(&stage).await,
        (1, vec![vec!["reason".to_owned()]])
    );
    setting.run.rows("SET safeguard.screen = on").await.unwrap();
    assert_eq!(
        setting.asks(&stage).await,
        (0, vec![vec!["reason".to_owned()]])
    );
    // A screen's verdict is no fact of the model: without it the model is asked.
    let (asked, _) = setting
        .asks("SELECT safeguard_classify('p', t) FROM posts")
        .await;
    assert_eq!(asked, 100);
    setting
        .run
        .rows("SET safeguard.screen = off")
        .await
        .unwrap();
    let (asked, _) = setting
        .asks("SELECT safeguard_classify('p', t) FROM posts")
        .await;
    assert_eq!(asked, 300);
    let labels = "SELECT stage, count(*) FROM safeguard.labels GROUP BY 1 ORDER BY 1";
    assert_eq!(setting.run.rows(labels).await.unwrap(), [["reason", "401"]]);
    let kept = "SELECT stage, count(*) FROM safeguard.verdicts GROUP BY 1 ORDER BY 1";
    assert_eq!(
        setting.run.rows(kept).await.unwrap(),
        [["reason", "401"], ["screen", "300"]]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_screen_that_was_turned_off_decides_nothing_and_its_labels_go() {
    let mut setting = Setting::new("", false).await;
    let labels = "SELECT stage, label, count(*) FROM safeguard.labels GROUP BY 1, 2 ORDER BY 1";
    let judge = "SELECT count(safeguard_classify('p', t)) FROM posts";
    assert_eq!(setting.asks(judge).await.0, 100);
    let both = [["reason", "bad", "100"], ["screen", "allowed", "300"]];
    assert_eq!(setting.run.rows(labels).await.unwrap(), both);
    setting.turn_off().await;
    assert_eq!(
        setting.run.rows(labels).await.unwrap(),
        [["reason", "bad", "100"]]
    );
    assert_eq!(setting.asks(judge).await.0, 300);
    let standing = "SELECT certificate, event, state, standing FROM safeguard.screens ORDER BY 1";
    let rows = setting.run.rows(standing).await.unwrap();
    let want = [
        ["1", "trained", "on", "superseded"],
        ["2", "turned_off", "off", "off"],
    ];
    assert_eq!(rows, want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_ends_with_the_policys_text() {
    let mut setting = Setting::new("", false).await;
    let judge = "SELECT count(safeguard_classify('p', t)) FROM posts";
    assert_eq!(setting.asks(judge).await.0, 100);
    let edit = "SELECT * FROM safeguard_publish('p', E'---\\nlabels: [allowed, bad]\\n---\\nbad if it sells much')";
    setting.run.rows(edit).await.unwrap();
    assert_eq!(setting.asks(judge).await.0, 400);
    let standing = "SELECT standing FROM safeguard.screens";
    assert_eq!(setting.run.rows(standing).await.unwrap(), [["expired"]]);
    // The former text still has its screen: a pinned version is screened by it.
    let pinned = "SELECT count(safeguard_classify('p@1', t || ' and more')) FROM posts";
    assert_eq!(setting.asks(pinned).await.0, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measuring_asks_the_model_and_not_the_screen() {
    let mut setting = Setting::new("", false).await;
    let golden = "CREATE TABLE told AS SELECT t AS text, CASE i % 4 WHEN 0 THEN 'bad' ELSE 'allowed' END AS label FROM posts";
    setting.run.rows(golden).await.unwrap();
    let evaluate = "SELECT count(*) FROM safeguard_evaluate('p', golden => 'told')";
    let (asked, _) = setting.asks(evaluate).await;
    assert_eq!(asked, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_the_model_left_undecided_is_not_cleared() {
    let mut setting = Setting::new("", false).await;
    let text = "'a fine letter number 7 endless'";
    let judge = format!("SELECT safeguard_classify('p', {text})");
    setting
        .run
        .rows("SET safeguard.screen = off")
        .await
        .unwrap();
    assert_eq!(setting.run.rows(&judge).await.unwrap(), [["undecided"]]);
    setting.run.rows("SET safeguard.screen = on").await.unwrap();
    for retry in ["off", "on"] {
        let set = format!("SET safeguard.retry_undecided = {retry}");
        setting.run.rows(&set).await.unwrap();
        assert_eq!(
            setting.run.rows(&judge).await.unwrap(),
            [["undecided"]],
            "{retry}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_screen_is_said_and_everything_goes_to_the_model() {
    let mut setting = Setting::new("", false).await;
    let mut event = setting.event.clone();
    event.screen_digest = [9; 32];
    let store = Arc::new(setting.run.engine.store().clone());
    store
        .append_screen(vec![event], Some(b"not a screen".to_vec()))
        .await
        .unwrap();
    let (asked, _) = setting
        .asks("SELECT count(safeguard_classify('p', t)) FROM posts")
        .await;
    assert_eq!(asked, 400);
    let notices = setting.run.notices().join("\n");
    assert!(
        notices.contains("the screen of policy \"p@1\" cannot be used"),
        "{notices}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cleared_and_escalated_is_told() {
    let mut setting = Setting::new("", false).await;
    let analyze = "EXPLAIN ANALYZE SELECT count(safeguard_classify('p', t)) FROM posts";
    let rows = setting.run.rows(analyze).await.unwrap();
    let plan = rows.concat().join("\n");
    for told in ["cleared=300", "convicted=0", "escalated=100", "asked=100"] {
        assert!(plan.contains(told), "{told} is not in {plan}");
    }
    // With nobody waiting, too: what is cleared is decided at once, the rest is queued.
    let mut setting = Setting::new("", false).await;
    setting
        .run
        .rows("SET safeguard.answer = queue")
        .await
        .unwrap();
    let sql = "SELECT (safeguard_verdict('p', t)).stage, (safeguard_verdict('p', t)).reason, count(*) FROM posts GROUP BY 1, 2 ORDER BY 1";
    let (asked, rows) = setting.asks(sql).await;
    assert_eq!(
        (asked, rows),
        (
            0,
            vec![
                ["screen", "NULL", "300"].map(str::to_owned).to_vec(),
                ["NULL", "queued", "100"].map(str::to_owned).to_vec(),
            ]
        )
    );
}

/// What a screen will decide is not estimated as asked; its verdicts are a stage of their own in what was spent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn estimates_and_spending_know_screens() {
    let mut setting = Setting::new("", false).await;
    let explain = "EXPLAIN SELECT safeguard_classify('p', t) FROM posts";
    let estimate = |rows: Vec<Vec<String>>| rows.last().unwrap()[1].clone();
    let (asked, rows) = setting.asks(explain).await;
    let said = estimate(rows);
    let want = "stored: 0 (0.0%), decided by a screen: 300, to be asked: 100";
    assert!(asked == 0 && said.contains(want), "{said}");
    setting.asks(STAGES).await;
    let (_, rows) = setting.asks(explain).await;
    let said = estimate(rows);
    let want = "stored: 100 (25.0%), decided by a screen: 300, to be asked: 0";
    assert!(said.contains(want), "{said}");
    let spend = "SELECT stage, \"rows\", seconds >= 0, share <= 1, reasoning_share <= 1 FROM safeguard.spend ORDER BY stage";
    let (_, rows) = setting.asks(spend).await;
    assert_eq!(
        rows,
        [
            ["reason", "100", "true", "true", "true"],
            ["screen", "300", "true", "true", "true"]
        ]
    );
}
