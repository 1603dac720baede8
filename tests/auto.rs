//! Mode `auto` from SQL to a backend that is a script: which texts are scored, which reasoned about, which recalled.
//!
//! Runs `tests/slt/engine/*.slt`, each on an engine of its own. `SHOW asked` is how many texts were scored and how many
//! reasoned about since the last one of the file, `SHOW notices` what was said at the end of the last statement, without
//! tokens and seconds. Table `golden` has 80 rows of which the script is sure and right, and 40 vague ones, half of them
//! wrong.

use crate::slt::{column_type, files, rows};
use crate::stores;
use futures::TryStreamExt;
use safeguard::backend::{Answer, Backend, BackendError, ModelIdentity, Prompt, Reply};
use safeguard::engine::{End, Engine, Session};
use safeguard::error::Error;
use safeguard::store::Store;
use safeguard_udfs::{Effort, Mode};
use sqllogictest::{DBOutput, DefaultColumnType, Runner};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Labels a text by its words: `bad` is bad. A score is sure of a text that says `sure` and wrong about one that says
/// `odd`; a text that says `endless` is too long; every second answer about `wobbly` is bad, whatever the text; an
/// analysis cites the rules that a text names. Lines `also bad: ..` and `never bad: ..` of a policy count. Under a policy of more than two labels, a text has the last one it names.
#[derive(Debug)]
pub(crate) struct Script {
    identity: ModelIdentity,
    scored: AtomicU64,
    reasoned: AtomicU64,
    wobbled: AtomicU64,
    efforts: Mutex<Vec<(Mode, Effort)>>,
}

impl Script {
    pub(crate) fn new(digest: &str) -> Arc<Self> {
        Arc::new(Self {
            identity: ModelIdentity {
                name: "script".into(),
                digest: digest.into(),
                demonstration: false,
                template_version: "1".into(),
            },
            scored: AtomicU64::default(),
            reasoned: AtomicU64::default(),
            wobbled: AtomicU64::default(),
            efforts: Mutex::default(),
        })
    }

    /// Texts scored and reasoned about since the last call.
    pub(crate) fn asked(&self) -> (u64, u64) {
        (self.scored.swap(0, Relaxed), self.reasoned.swap(0, Relaxed))
    }
}

#[async_trait::async_trait]
impl Backend for Script {
    fn model(&self) -> &ModelIdentity {
        &self.identity
    }

    fn tokens(&self, prompt: &Prompt) -> u64 {
        prompt.text.split_whitespace().count() as u64
    }

    fn decodes_most(&self, prompt: &Prompt) -> u64 {
        if prompt.mode == Mode::Score { 0 } else { 10 }
    }

    async fn ask(&self, prompt: Prompt) -> Result<Reply, BackendError> {
        let says = |word| prompt.text.contains(word);
        self.efforts
            .lock()
            .unwrap()
            .push((prompt.mode, prompt.effort));
        if says("endless") {
            let answer = Answer::TooLong { tokens: 9_999 };
            return Ok(Reply {
                answer,
                tokens_in: 0,
                tokens_out: 0,
            });
        }
        let reasoned = match prompt.mode {
            Mode::Score => false,
            Mode::Reason => true,
            Mode::Auto => panic!("bug: a backend is asked in mode auto"),
        };
        let count = if reasoned {
            &self.reasoned
        } else {
            &self.scored
        };
        count.fetch_add(1, Relaxed);
        let labels = &prompt.policy.labels;
        let index = match labels.len() {
            2 if says("wobbly") => (self.wobbled.fetch_add(1, Relaxed) % 2) as usize,
            2 => usize::from(is_bad(&prompt) != (says("odd") && !reasoned)),
            _ => labels.iter().rposition(|label| says(label)).unwrap_or(0),
        };
        let best = match (reasoned, says("sure")) {
            (true, _) => 0.9,
            (false, true) => 0.99,
            (false, false) => 0.6,
        };
        let others = (labels.len() - 1) as f64;
        let mut probabilities = vec![(1.0 - best) / others; labels.len()];
        probabilities[index] = best;
        Ok(Reply {
            answer: Answer::Label {
                index,
                probabilities,
                analysis: reasoned.then(|| format!("because of {}", prompt.text)),
                reasoned,
            },
            tokens_in: self.tokens(&prompt),
            tokens_out: if reasoned { 10 } else { 0 },
        })
    }
}

/// Whether a text says `bad`, or what a line `also bad: ..` of the policy says, and nothing of its line `never bad: ..`.
fn is_bad(prompt: &Prompt) -> bool {
    let line = |begins| {
        let mut lines = prompt.policy.text.lines();
        let words = lines
            .find_map(|line| line.strip_prefix(begins))
            .unwrap_or_default();
        words
            .split_whitespace()
            .any(|word| prompt.text.contains(word))
    };
    (prompt.text.contains("bad") || line("also bad: ")) && !line("never bad: ")
}

pub(crate) struct Run {
    pub(crate) engine: Engine,
    pub(crate) script: Arc<Script>,
    session: Session,
    notices: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{} {}", .0.sqlstate(), .0)]
pub(crate) struct Failure(#[from] Error);

impl Run {
    pub(crate) async fn new(store: Store, digest: &str) -> Self {
        let script = Script::new(digest);
        let engine = Engine::with_backend(store, script.clone()).await.unwrap();
        let engine = safeguard::jobs::complete(engine);
        let mut run = Self {
            script,
            session: engine.session("ann"),
            engine,
            notices: Vec::new(),
        };
        run.rows(
            "CREATE TABLE golden AS
             SELECT 'sure ' || CASE i % 2 WHEN 0 THEN 'bad ' ELSE '' END || i AS text,
                    CASE i % 2 WHEN 0 THEN 'bad' ELSE 'allowed' END AS label
             FROM generate_series(1, 80) AS g(i)
             UNION ALL
             SELECT 'vague ' || CASE i % 2 WHEN 0 THEN 'odd ' ELSE '' END || i, 'allowed'
             FROM generate_series(1, 40) AS g(i)",
        )
        .await
        .unwrap();
        run
    }

    /// What was said at the end of the last statement.
    pub(crate) fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Another session of the same engine.
    fn beside(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            script: Arc::clone(&self.script),
            session: self.engine.session("bob"),
            notices: Vec::new(),
        }
    }

    pub(crate) async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<String>>, Failure> {
        Ok(self.answer(sql).await?.1)
    }

    async fn answer(
        &mut self,
        sql: &str,
    ) -> Result<(Vec<DefaultColumnType>, Vec<Vec<String>>), Failure> {
        let statement = self.session.split(sql).remove(0)?;
        let running = self.session.run(&statement).await?;
        let schema = Arc::clone(&running.schema);
        let (stream, ended) = running.split();
        let batches: Result<Vec<_>, _> = stream.try_collect().await;
        let batches = match batches {
            Ok(batches) => batches,
            Err(error) => {
                let error = Error::from(error);
                let end = End::Failed(error.sqlstate(), "it failed");
                self.session.finish(ended, end).await;
                return Err(error.into());
            }
        };
        self.notices = self.session.finish(ended, End::Done).await;
        let types = schema.fields().iter().map(|f| column_type(f.data_type()));
        Ok((types.collect(), batches.iter().flat_map(rows).collect()))
    }
}

#[async_trait::async_trait]
impl sqllogictest::AsyncDB for Run {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        let one = |rows: Vec<String>| DBOutput::Rows {
            types: vec![DefaultColumnType::Text],
            rows: rows.into_iter().map(|row| vec![row]).collect(),
        };
        match sql.trim() {
            "SHOW asked" => {
                let (scored, reasoned) = self.script.asked();
                let said = format!("{scored} scored, {reasoned} reasoned");
                return Ok(one(vec![said]));
            }
            "SHOW notices" => {
                let timeless = |notice: &String| match notice.starts_with("safeguard: ") {
                    true => notice
                        .rsplitn(2, ", ")
                        .last()
                        .unwrap_or_default()
                        .to_owned(),
                    false => notice.clone(),
                };
                return Ok(one(self.notices.iter().map(timeless).collect()));
            }
            _ => {}
        }
        let (types, rows) = self.answer(sql).await?;
        Ok(match types.is_empty() {
            true => DBOutput::StatementComplete(0),
            false => DBOutput::Rows { types, rows },
        })
    }

    async fn shutdown(&mut self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_file_holds() {
    for path in files("tests/slt/engine") {
        let make = || async { Ok(Run::new(stores::new(), "one").await) };
        let mut runner = Runner::new(make);
        if std::env::var_os("SLT_COMPLETE").is_some() {
            runner
                .update_test_file(
                    &path,
                    " ",
                    sqllogictest::default_validator,
                    sqllogictest::default_normalizer,
                    sqllogictest::default_column_validator,
                )
                .await
                .unwrap();
        } else {
            let run = runner.run_file_async(&path).await;
            run.unwrap_or_else(|e| panic!("{}\n{}", path.display(), e.display(false)));
        }
    }
}

pub(crate) const PUBLISH: &str =
    "SELECT * FROM safeguard_publish('p', E'---\\nlabels: [allowed, bad]\\n---\\nbad if it sells')";
const CALIBRATE: &str = "SELECT gap FROM safeguard_calibrate('p', 0.95, 'golden')";

/// Another model has no calibration, and neither has the same one under another arithmetic; each keeps its own.
#[tokio::test]
async fn a_calibration_is_one_models() {
    let dir = tempfile::tempdir().unwrap();
    let open = || stores::open(dir.path());
    let judge = "SELECT safeguard_classify('p', 'sure ' || i) FROM generate_series(1, 5) AS g(i)";
    let mut one = Run::new(open(), "one").await;
    one.rows(PUBLISH).await.unwrap();
    one.rows(CALIBRATE).await.unwrap();
    let golden = one.script.asked();
    assert_eq!(golden, (120, 0));
    let mut other = Run::new(open(), "two").await;
    other.rows(judge).await.unwrap();
    assert_eq!(other.script.asked(), (0, 5), "no calibration: never scored");
    assert_eq!(other.notices.len(), 2, "{:?}", other.notices);
    // What another process calibrated counts from then on.
    other.rows(CALIBRATE).await.unwrap();
    assert_eq!(other.script.asked(), (120, 0));
    let again = judge.replace("sure ", "sure of ");
    other.rows(&again).await.unwrap();
    assert_eq!(other.script.asked(), (5, 0));
    one.rows(&again).await.unwrap();
    assert_eq!(one.script.asked(), (5, 0));
}

/// One calibration holds for every effort, because texts are always scored in the same one.
#[tokio::test]
async fn texts_are_scored_in_one_effort() {
    let mut run = Run::new(stores::new(), "one").await;
    run.rows(PUBLISH).await.unwrap();
    run.rows("SET safeguard.effort = 'high'").await.unwrap();
    run.rows(CALIBRATE).await.unwrap();
    run.rows("SELECT safeguard_classify('p', 'vague')")
        .await
        .unwrap();
    let efforts = std::mem::take(&mut *run.script.efforts.lock().unwrap());
    assert_eq!(efforts.len(), 122);
    let (last, scored) = efforts.split_last().unwrap();
    assert_eq!(*last, (Mode::Reason, Effort::High));
    assert!(scored.iter().all(|e| *e == (Mode::Score, Effort::Low)));
}

/// Sessions that want the same texts at the same time ask once, each question, and all end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_share_scores_and_reasons() {
    let mut first = Run::new(stores::new(), "one").await;
    first.rows(PUBLISH).await.unwrap();
    first.rows(CALIBRATE).await.unwrap();
    first.script.asked();
    let (mut second, mut third) = (first.beside(), first.beside());
    let judge = |order: &str| {
        format!(
            "SELECT count(safeguard_classify('p', t)) FROM
             (SELECT CASE i % 3 WHEN 0 THEN 'vague ' ELSE 'sure ' END || 'and bad ' || i AS t
              FROM generate_series(1, 900) AS g(i) ORDER BY i {order}) AS texts"
        )
    };
    let (up, down) = (judge("ASC"), judge("DESC"));
    let (a, b, c) = tokio::join!(first.rows(&up), second.rows(&down), third.rows(&up));
    for rows in [a, b, c] {
        assert_eq!(rows.unwrap(), [["900"]]);
    }
    assert_eq!(first.script.asked(), (900, 300));
}
