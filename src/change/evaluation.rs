//! An evaluation: golden texts judged under one or several policies, held against the labels that people gave them, and
//! stored.
//!
//! Takes [`Subject`]s, gives what was found for each, with the id under which it is kept. Texts are judged by
//! [`Engine::judge`], on the account of a statement: what is stored is recalled. Knows nothing of SQL or terminals.

pub use super::measure::Figure;
use super::measure::{self, Change, Measure, Row, changes, measure};
pub use super::subject::Subject;
use crate::config::EVALUATION_CHUNK;
use crate::engine::{Asking, Engine};
use crate::error::Error;
use crate::policy::Version;
use crate::store::{EvaluatedText, EvaluationRow, now, text_digest};
use safeguard_udfs::{Answer, Decision, Reason, SafeguardSettings, Statement};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What is to be measured, and who wants to know.
#[derive(Debug, Clone)]
pub struct Wish {
    /// One, or several that are measured together too.
    pub subjects: Vec<Subject>,
    /// The version that the one subject is held against.
    pub against: Option<Arc<Version>>,
    /// How often each text is asked again, to see whether its label stays.
    pub repeats: u32,
    /// Why.
    pub note: Arc<str>,
    /// Who.
    pub by: Arc<str>,
}

/// What was found about one policy.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// Of `safeguard.evaluations`.
    pub id: i64,
    /// The policy's name; `*` for several together.
    pub policy: Arc<str>,
    /// Its version; 0 for a text that is not published, and for several together.
    pub version: u32,
    /// Each label's measure, that of all last; with what changed where it was held against another version.
    pub measures: Vec<(Measure, Option<Change>)>,
    /// Texts that were not always given the same label; `None` where nothing was asked again.
    pub unstable: Option<u64>,
}

impl Evaluated {
    /// The measure over all labels.
    pub fn all(&self) -> &Measure {
        &self.measures.last().expect("bug: nothing was measured").0
    }
}

/// Judges, measures and stores.
///
/// # Errors
/// As [`Engine::judge`]; the store fails; texts are to be asked again under `safeguard.answer = stored`.
pub async fn evaluate(
    engine: &Engine,
    wish: &Wish,
    statement: &Statement,
) -> Result<Vec<Evaluated>, Error> {
    // What is measured is a policy and a model, on texts that a screen may have learned from.
    let settings = Arc::new(SafeguardSettings {
        screen: false,
        ..statement.settings().as_ref().clone()
    });
    if wish.repeats > 0 && settings.answer == Answer::Stored {
        return Err(Error::Refused {
            sqlstate: "55000",
            why: "repeats ask the model, and safeguard.answer = stored does not".to_owned(),
            hint: None,
        });
    }
    let run = Run {
        engine,
        wish,
        statement,
        settings: &settings,
    };
    let (mut found, mut right) = (Vec::new(), Vec::new());
    for subject in &wish.subjects {
        let judged = run.judge(subject).await?;
        right.push(judged.outcomes());
        found.extend(run.finish(judged).await?);
    }
    if wish.subjects.len() > 1 {
        found.push(run.together(&right).await?);
    }
    Ok(found)
}

/// One evaluation under way.
struct Run<'a> {
    engine: &'a Engine,
    wish: &'a Wish,
    statement: &'a Statement,
    settings: &'a Arc<SafeguardSettings>,
}

/// A subject with what was said of its texts.
struct Judged<'a> {
    subject: &'a Subject,
    now: Vec<Decision>,
    before: Option<Vec<Decision>>,
    unstable: Option<Vec<bool>>,
}

/// A label, or `None` for undecided.
fn label(decision: &Decision) -> Option<&Arc<str>> {
    decision.as_ref().ok().map(|verdict| &verdict.label)
}

/// Why a text has no verdict that might have one another time.
fn passing(decision: &Decision) -> Option<Reason> {
    let reason = decision.as_ref().err().map(|undecided| undecided.reason);
    reason.filter(|reason| !reason.is_fact())
}

impl Judged<'_> {
    /// Whether each text is right, and whether it is decided.
    fn outcomes(&self) -> HashMap<Arc<str>, (bool, bool)> {
        let rows = self.subject.golden.rows.iter().zip(&self.now);
        rows.map(|(row, decision)| {
            let label = label(decision);
            let right = label == Some(&row.label);
            (Arc::clone(&row.text), (right, label.is_some()))
        })
        .collect()
    }

    fn rows(&self, decisions: &[Decision], labels: &[Arc<str>]) -> Vec<Row> {
        let place = |label: &Arc<str>| labels.iter().position(|known| known == label);
        let rows = self.subject.golden.rows.iter().zip(decisions);
        rows.map(|(row, decision)| Row {
            golden: place(&row.label).expect("bug: a golden label that is none"),
            label: label(decision).and_then(place),
        })
        .collect()
    }

    /// What is kept of each text under one version.
    fn texts(
        &self,
        (policy, version): (&Arc<str>, u32),
        decisions: &[Decision],
        unstable: Option<&[bool]>,
    ) -> Vec<EvaluatedText> {
        let subject = self.subject;
        let allowed = subject.policy.allowed_label();
        let rows = subject.golden.rows.iter().zip(decisions).enumerate();
        rows.map(|(place, (row, decision))| {
            let verdict = decision.as_ref().ok();
            EvaluatedText {
                policy: Arc::clone(policy),
                version,
                text_digest: text_digest(&row.text),
                text: Arc::clone(&row.text),
                source: match subject.spoken.contains(&row.text) {
                    true => "override",
                    false => "golden",
                },
                golden_label: Arc::clone(&row.label),
                golden_violates: row.label != *allowed,
                label: verdict.map(|v| Arc::clone(&v.label)),
                reason: decision.as_ref().err().map(|u| u.reason.as_str()),
                violates: verdict.map(|v| v.violates),
                score: verdict.and_then(|v| v.score),
                unstable: unstable.map(|unstable| unstable[place]),
                rules: verdict.map(|v| v.rules.clone()).unwrap_or_default(),
            }
        })
        .collect()
    }
}

impl<'a> Run<'a> {
    async fn judge(&self, subject: &'a Subject) -> Result<Judged<'a>, Error> {
        let texts = subject.texts();
        let now = self.decisions(&subject.reference, &texts, false).await?;
        self.note_passing(subject, &now);
        let unstable = match self.wish.repeats {
            0 => None,
            _ => Some(self.unstable(subject, &texts, &now).await?),
        };
        let before = match &self.wish.against {
            Some(version) => {
                let other = Subject::version(version, None);
                Some(self.decisions(&other.reference, &texts, false).await?)
            }
            None => None,
        };
        Ok(Judged {
            subject,
            now,
            before,
            unstable,
        })
    }

    async fn decisions(
        &self,
        reference: &Arc<str>,
        texts: &[Arc<str>],
        fresh: bool,
    ) -> Result<Vec<Decision>, Error> {
        let asking = Asking {
            policy: Arc::clone(reference),
            settings: Arc::clone(self.settings),
            fresh,
        };
        let mut decisions = Vec::with_capacity(texts.len());
        for chunk in texts.chunks(EVALUATION_CHUNK) {
            decisions.extend(self.engine.judge(&asking, chunk, self.statement).await?);
        }
        Ok(decisions)
    }

    /// Whether each text was given another label when it was asked again. An answer that failed says nothing.
    async fn unstable(
        &self,
        subject: &Subject,
        texts: &[Arc<str>],
        first: &[Decision],
    ) -> Result<Vec<bool>, Error> {
        let mut unstable = vec![false; texts.len()];
        for _ in 0..self.wish.repeats {
            let again = self.decisions(&subject.reference, texts, true).await?;
            for (place, (first, again)) in first.iter().zip(&again).enumerate() {
                let comparable = passing(first).is_none() && passing(again).is_none();
                unstable[place] |= comparable && label(first) != label(again);
            }
        }
        Ok(unstable)
    }

    fn note_passing(&self, subject: &Subject, decisions: &[Decision]) {
        let mut reasons: BTreeMap<Reason, u64> = BTreeMap::new();
        for reason in decisions.iter().filter_map(passing) {
            *reasons.entry(reason).or_default() += 1;
        }
        if reasons.is_empty() {
            return;
        }
        let total: u64 = reasons.values().sum();
        let why: Vec<String> = reasons
            .iter()
            .map(|(reason, n)| format!("{n} {}", reason.as_str()))
            .collect();
        self.statement.tally().note(format!(
            "{total} of {} golden rows of policy \"{}\" have no verdict for a reason that passes ({}); the figures count \
             them as missed",
            decisions.len(),
            subject.said(),
            why.join(", ")
        ));
    }

    /// Measures and stores a subject, and the version that it was held against.
    async fn finish(&self, judged: Judged<'_>) -> Result<Vec<Evaluated>, Error> {
        let subject = judged.subject;
        let own = &subject.policy.labels;
        let mut labels = own.clone();
        if let Some(against) = &self.wish.against {
            let others = against.policy.labels.iter().filter(|l| !own.contains(l));
            labels.extend(others.cloned());
        }
        let rows = judged.rows(&judged.now, &labels);
        let before = judged
            .before
            .as_ref()
            .map(|before| judged.rows(before, &labels));
        let changed = before.as_ref().map(|b| changes(labels.len(), b, &rows));
        let mut found = vec![Evaluated {
            id: 0,
            policy: Arc::clone(&subject.name),
            version: subject.version,
            measures: kept(measured(&labels, rows).await, changed, own),
            unstable: judged.unstable.as_deref().map(trues),
        }];
        let unstable = judged.unstable.as_deref();
        let mut texts = judged.texts((&subject.name, subject.version), &judged.now, unstable);
        if let (Some(against), Some(rows), Some(decisions)) =
            (&self.wish.against, before, &judged.before)
        {
            found.push(Evaluated {
                id: 0,
                policy: Arc::clone(&against.name),
                version: against.number,
                measures: kept(measured(&labels, rows).await, None, &against.policy.labels),
                unstable: None,
            });
            texts.extend(judged.texts((&against.name, against.number), decisions, None));
        }
        let row = self.row(&found[0], subject);
        let id = self.engine.store().append_evaluation(row, texts).await?;
        found.iter_mut().for_each(|evaluated| evaluated.id = id);
        Ok(found)
    }

    /// The texts that are golden under every subject, right where they are right under all.
    async fn together(
        &self,
        outcomes: &[HashMap<Arc<str>, (bool, bool)>],
    ) -> Result<Evaluated, Error> {
        let (mut n, mut right, mut decided) = (0, 0, 0);
        let (first, others) = outcomes.split_first().expect("bug: no subject");
        for (text, outcome) in first {
            let under_others: Option<Vec<_>> = others.iter().map(|o| o.get(text)).collect();
            let Some(under_others) = under_others else {
                continue;
            };
            let under_all = || under_others.iter().copied().chain([outcome]);
            n += 1;
            right += u64::from(under_all().all(|(right, _)| *right));
            decided += u64::from(under_all().all(|(_, decided)| *decided));
        }
        let all = Measure {
            label: measure::ALL.into(),
            n,
            predicted: decided,
            right,
            undecided: n - decided,
            precision: None,
            recall: measure::share(right, n),
            f1: None,
        };
        let mut found = Evaluated {
            id: 0,
            policy: measure::ALL.into(),
            version: 0,
            measures: vec![(all, None)],
            unstable: None,
        };
        let names: Vec<String> = self.wish.subjects.iter().map(Subject::said).collect();
        let mut digest = blake3::Hasher::new();
        for subject in &self.wish.subjects {
            digest.update(&subject.golden.digest());
        }
        let row = EvaluationRow {
            digest: String::new(),
            golden: format!("golden under all of {}", names.join(", ")),
            golden_digest: *digest.finalize().as_bytes(),
            ..self.row(&found, &self.wish.subjects[0])
        };
        found.id = self
            .engine
            .store()
            .append_evaluation(row, Vec::new())
            .await?;
        Ok(found)
    }

    fn row(&self, found: &Evaluated, subject: &Subject) -> EvaluationRow {
        let all = found.all();
        let (_, change) = found.measures.last().expect("bug: nothing was measured");
        EvaluationRow {
            evaluated_at: now(),
            evaluated_by: self.wish.by.to_string(),
            policy: found.policy.to_string(),
            version: found.version,
            digest: subject.digest.to_string(),
            against: self
                .wish
                .against
                .as_ref()
                .map(|v| v.reference().to_string()),
            golden: subject.golden.source.to_string(),
            golden_digest: subject.golden.digest(),
            model: self.engine.model().name.to_string(),
            model_digest: self.engine.model().digest.to_string(),
            mode: self.settings.mode.as_str().to_owned(),
            effort: self.settings.effort.as_str().to_owned(),
            repeats: self.wish.repeats,
            note: self.wish.note.to_string(),
            n: all.n,
            predicted: all.predicted,
            right: all.right,
            undecided: all.undecided,
            accuracy: all
                .recall
                .map(|f| [f.value, f.interval.low, f.interval.high]),
            unstable: found.unstable,
            changes: change.map(|c| [c.flips, c.fixed, c.broken]),
        }
    }
}

/// Resampling takes a moment; whoever else waits on this thread should not.
async fn measured(labels: &[Arc<str>], rows: Vec<Row>) -> Vec<Measure> {
    let labels = labels.to_vec();
    let work = tokio::task::spawn_blocking(move || measure(&labels, &rows));
    work.await.expect("bug: measuring panicked")
}

/// The measures of a version's own labels, of those that golden rows have besides, and of all.
fn kept(
    measures: Vec<Measure>,
    changes: Option<Vec<Change>>,
    own: &[Arc<str>],
) -> Vec<(Measure, Option<Change>)> {
    let changes: Vec<Option<Change>> = match changes {
        Some(changes) => changes.into_iter().map(Some).collect(),
        None => vec![None; measures.len()],
    };
    let last = measures.len() - 1;
    let all = measures.into_iter().zip(changes).enumerate();
    all.filter(|(place, (measure, _))| {
        *place == last || measure.n > 0 || own.contains(&measure.label)
    })
    .map(|(_, kept)| kept)
    .collect()
}

fn trues(flags: &[bool]) -> u64 {
    flags.iter().filter(|flag| **flag).count() as u64
}
