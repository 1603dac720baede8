//! `SELECT * FROM safeguard_audit_screen(policy, source [, sample, slice, text, seed])`: whether a screen still keeps what
//! it was certified to keep.
//!
//! Takes a policy and content, asks about a random share of the texts that the screen in force clears, gives a row for all
//! texts and one for each slice. Where the bound on the recall falls below its target, the screen is turned off; where the
//! sample is too small to reach it even if nothing was missed, that is said and nothing changes.
//!
//! *The population* is the half of the source's texts that no screen of the policy is ever trained on: a text that was
//! trained on has a score, and a stored verdict, that no other text has. *The sample* is the cleared texts with the smallest random numbers: those that the certificate asked are among them and
//! cost nothing, and what is new in the source comes in its turn (see [`crate::screen::sample`]). *What is kept* is known
//! where its texts are judged, as they are once a query went over them; where they are not, half of the questions go to a
//! sample of them.

use super::labels::Labels;
use super::making::is_for_training;
use super::population::{self, From, Texts};
use super::rows::{About, SCHEMA, batch, bound, confidence};
use super::{scores, train};
use crate::change::backtest::Tried;
use crate::change::source::refused;
use crate::config::{Role, SCREEN_AUDIT_SAMPLE, SCREEN_LABEL_BUDGET_MAX};
use crate::engine::Engine;
use crate::engine::functions::{Arguments, Call, Function, FunctionDoc, Planned, Planning};
use crate::error::Error;
use crate::screen::Screen;
use crate::screen::certify::exact::{Draw, Kept, Known};
use crate::screen::certify::{Bounds, Goal, Label};
use crate::screen::sample::{Purpose, number, walk};
use crate::store::{ScreenEvent, now};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use safeguard_udfs::Answer;
use std::sync::Arc;

const NAME: &str = "safeguard_audit_screen";

/// The function.
pub(in crate::change) fn function() -> Function {
    Function {
        doc: FunctionDoc {
            name: NAME,
            arguments: &[
                ("policy", DataType::Utf8),
                ("source", DataType::Utf8),
                ("sample", DataType::Int64),
                ("slice", DataType::Utf8),
                ("text", DataType::Utf8),
                ("seed", DataType::Int64),
            ],
            required: 2,
            returns: Arc::clone(&SCHEMA),
            description: "Asks about a random share of the texts that a policy's screen clears, updates the bound on its recall, and turns it off where the bound falls below its target.",
        },
        role: Role::Admin,
        plan,
    }
}

/// A call's arguments, checked.
#[derive(Debug, Clone)]
struct Given {
    tried: Tried,
    from: From,
    sample: u64,
    seed: i64,
}

fn plan(planning: &Planning<'_>) -> Result<Planned> {
    let given = read(planning.engine, planning.arguments)?;
    Ok(Planned::once(&SCHEMA, move |call| run(call, given.clone())))
}

fn read(engine: &Engine, arguments: &Arguments) -> Result<Given, Error> {
    let owned = |name: &str| arguments.text(name).map(str::to_owned);
    let sample = match arguments.whole("sample") {
        None => SCREEN_AUDIT_SAMPLE,
        Some(said) => match u64::try_from(said) {
            Ok(sample) if (1..=SCREEN_LABEL_BUDGET_MAX).contains(&sample) => sample,
            _ => {
                let why = format!("{NAME}: sample is {said}, not 1 to {SCREEN_LABEL_BUDGET_MAX}");
                return Err(refused("22023", why));
            }
        },
    };
    Ok(Given {
        tried: Tried::resolve(engine, arguments.required("policy"))?,
        from: From {
            source: arguments.required("source").into(),
            text: owned("text"),
            slice: owned("slice"),
        },
        sample,
        seed: arguments.whole("seed").unwrap_or(0),
    })
}

async fn run(call: Call, given: Given) -> Result<RecordBatch, Error> {
    let answer = call.settings().answer;
    if answer != Answer::Wait {
        return Err(Error::Refused {
            sqlstate: "55000",
            why: format!(
                "{NAME} waits for labels, and safeguard.answer is {}",
                answer.as_str()
            ),
            hint: Some("SET safeguard.answer = 'wait'".to_owned()),
        });
    }
    let (store, model) = (call.engine.store(), call.engine.model());
    let version = &given.tried.version;
    let latest = store.latest_screen(&version.digest, &model.digest).await?;
    let reference = version.reference();
    let Some(latest) = latest.filter(|event| event.on) else {
        let why = format!(
            "no screen of policy \"{reference}\" is in force for {}",
            model.name
        );
        return Err(refused("55000", why));
    };
    let Some(clear_below) = latest.clear_below else {
        let why = format!(
            "the screen of policy \"{reference}\" clears nothing: there is nothing to audit"
        );
        return Err(refused("55000", why));
    };
    let weights = store.screen_weights(latest.screen_digest).await?;
    let screen = weights.as_deref().map(Screen::from_bytes);
    let Some(Ok(screen)) = screen else {
        let why = format!("the weights of the screen of policy \"{reference}\" cannot be read");
        return Err(refused("XX001", why));
    };
    let seed = train::seed(&version.digest, &model.digest, given.seed);
    let known = train::golden(&call, version).await?;
    let mut texts = population::read(&call, &given.from, seed).await?;
    texts.retain(|text, key| !is_for_training(key, seed) && !known.contains_key(text));
    let mut labels = Labels::new(&call, &given.tried.asked);
    let known = labels.stored(&texts.texts).await?;
    let scores = scores(&screen, texts.texts.clone()).await;
    let mut audit = Audit::new(
        (clear_below, latest.convict_above),
        latest.delta,
        (texts, scores, known),
        seed,
    );
    let asked = audit.ask_kept(&mut labels, given.sample).await?;
    let walked = audit.draw(given.sample - asked);
    if let Some(why) = audit.too_few(latest.target) {
        return Ok(unchanged(&call, &audit, (&given, &latest), &why)?);
    }
    audit.ask(&mut labels, &walked).await?;
    labels.say();
    let recall = audit.bounds(|_| true).recall.unwrap_or(0.0);
    if recall < latest.target && audit.missed() == 0 {
        let why = format!(
            "none of {} cleared texts violates, and too little does in all to say whether the recall is {}; the screen stays on",
            walked.len(),
            latest.target
        );
        return Ok(unchanged(&call, &audit, (&given, &latest), &why)?);
    }
    let on = recall >= latest.target;
    let event = if on { "audited" } else { "turned_off" };
    let sampled = walked.len();
    let words = |found: &Bounds| {
        format!(
            "{} of {sampled} cleared texts that were drawn violate; recall at least {} with {}",
            audit.missed(),
            bound(found.recall.unwrap_or(0.0)),
            confidence(latest.delta)
        )
    };
    let events = audit.events(&given, &latest, event, words);
    let certificate = store.append_screen(events.clone(), None).await?;
    if !on {
        call.statement().tally().note(format!(
            "the screen of policy \"{reference}\" is turned off: its recall is at least {} only, and {} was certified",
            bound(recall),
            latest.target
        ));
    }
    Ok(batch(Some(certificate), &events)?)
}

/// What is known of some texts.
#[derive(Default)]
struct Counts {
    found: Bounds,
    /// The sample of the cleared texts, and that of the core of the kept ones.
    cleared: Draw,
    core: Draw,
    /// Violating texts that are known to be in the core.
    floor: u64,
    /// Those that are known outside of both.
    known: Known,
}

impl Counts {
    /// The bound on the recall.
    fn recall(&self, delta: f64) -> f64 {
        Kept::with_floor(self.core, self.floor).bound(self.cleared, self.known, delta)
    }
}

/// What is said where the audit cannot tell: nothing is stored, and everything stays as it is.
fn unchanged(
    call: &Call,
    audit: &Audit,
    (given, latest): (&Given, &ScreenEvent),
    why: &str,
) -> Result<RecordBatch> {
    let tally = Arc::clone(call.statement().tally());
    tally.note(format!("the audit cannot tell: {why}"));
    batch(
        None,
        &audit.events(given, latest, "audited", |_| why.to_owned()),
    )
}

/// Shares of the kept texts, from the top, that are tried as the part to sample.
const CORES: [f64; 9] = [0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5, 0.75, 1.0];

struct Audit {
    texts: Texts,
    scores: Vec<f64>,
    known: Vec<Option<Label>>,
    clear_below: f64,
    convict_above: Option<f64>,
    delta: f64,
    /// Places in the order of their numbers.
    order: Vec<u32>,
    /// Whether a place is cleared and was drawn.
    drawn: Vec<bool>,
    /// Of the kept texts from this score on, a sample is judged.
    core: f64,
    /// Whether a place is in that sample.
    judged: Vec<bool>,
}

impl Audit {
    fn new(
        (clear_below, convict_above): (f64, Option<f64>),
        delta: f64,
        (texts, scores, known): (Texts, Vec<f64>, Vec<Option<Label>>),
        seed: u64,
    ) -> Audit {
        let mut order: Vec<u32> = (0..texts.texts.len() as u32).collect();
        order.sort_by_cached_key(|place| {
            number(texts.keys[*place as usize], seed, Purpose::Certify)
        });
        let n = order.len();
        Audit {
            texts,
            scores,
            known,
            clear_below,
            convict_above,
            delta,
            order,
            drawn: vec![false; n],
            core: f64::INFINITY,
            judged: vec![false; n],
        }
    }

    /// Sees to a judged sample of the kept texts, for half of the questions at the most; gives how many it took. Of some
    /// parts from the top, it is a sample of the one that promises the most. Scores and what is judged choose, labels do
    /// not. Where all kept texts are judged, it is all of them, and nothing is asked.
    async fn ask_kept(&mut self, labels: &mut Labels<'_>, questions: u64) -> Result<u64, Error> {
        let scores = self.scores.iter().copied();
        let mut kept: Vec<f64> = scores.filter(|score| *score >= self.clear_below).collect();
        kept.sort_unstable_by(f64::total_cmp);
        let (mut best, mut chosen) = (0.0, Vec::new());
        for share in CORES {
            let from = kept.len() - (share * kept.len() as f64).ceil() as usize;
            let Some(core) = kept.get(from).copied() else {
                continue;
            };
            let part = &kept[kept.partition_point(|score| *score < core)..];
            let sample = self.walk(|score| score >= core, questions / 2);
            let expected: f64 = sample.iter().map(|at| self.scores[*at as usize]).sum();
            let sure = match sample.len() == part.len() {
                true => 1.0,
                false => 1.0 - 1.6 / expected.max(0.01).sqrt(),
            };
            let promised = part.iter().sum::<f64>() * sure;
            if promised > best {
                (best, self.core, chosen) = (promised, core, sample);
            }
        }
        for place in &chosen {
            self.judged[*place as usize] = true;
        }
        let before = labels.asked;
        self.ask(labels, &chosen).await?;
        Ok(labels.asked - before)
    }

    /// Texts whose score is in a part, in the order of their numbers, as many as so many questions pay for.
    fn walk(&self, within: impl Fn(f64) -> bool, questions: u64) -> Vec<u32> {
        let part = self
            .order
            .iter()
            .filter(|place| within(self.scores[**place as usize]));
        walk(
            part,
            |place| self.known[place as usize].is_some(),
            questions,
        )
    }

    /// Draws cleared texts for so many questions, and gives their places.
    fn draw(&mut self, questions: u64) -> Vec<u32> {
        let walked = self.walk(|score| score < self.clear_below, questions);
        for place in &walked {
            self.drawn[*place as usize] = true;
        }
        walked
    }

    async fn ask(&mut self, labels: &mut Labels<'_>, walked: &[u32]) -> Result<(), Error> {
        let open = || {
            walked
                .iter()
                .filter(|place| self.known[**place as usize].is_none())
        };
        let texts: Vec<Arc<str>> = open()
            .map(|place| Arc::clone(&self.texts.texts[*place as usize]))
            .collect();
        let said = labels.ask(&texts).await?;
        let places: Vec<u32> = open().copied().collect();
        for (place, label) in places.into_iter().zip(said) {
            self.known[place as usize] = Some(label);
        }
        Ok(())
    }

    /// Drawn texts that violate, or may.
    fn missed(&self) -> u64 {
        let drawn = self
            .drawn
            .iter()
            .zip(&self.known)
            .filter(|(drawn, _)| **drawn);
        drawn
            .filter(|(_, label)| label.is_some_and(|label| label != Label::Allowed))
            .count() as u64
    }

    /// What is known of some places.
    fn counts(&self, within: impl Fn(usize) -> bool) -> Counts {
        let mut counts = Counts::default();
        for place in (0..self.scores.len()).filter(|place| within(*place)) {
            let (score, label) = (self.scores[place], self.known[place]);
            let violates = label == Some(Label::Violates);
            let found = &mut counts.found;
            found.texts += 1;
            found.labels += u64::from(label.is_some());
            found.violating += u64::from(violates);
            found.convicted += u64::from(self.convict_above.is_some_and(|from| score >= from));
            let part = match score < self.clear_below {
                true => &mut counts.cleared,
                false if score >= self.core => &mut counts.core,
                false => {
                    counts.known.kept += u64::from(violates);
                    continue;
                }
            };
            let cleared = score < self.clear_below;
            let sampled = if cleared {
                self.drawn[place]
            } else {
                self.judged[place]
            };
            // What is not decided speaks against the screen.
            let hit = if cleared {
                label.is_some_and(|label| label != Label::Allowed)
            } else {
                violates
            };
            part.population += 1;
            part.sampled += u64::from(sampled);
            part.hits += u64::from(sampled && hit);
            counts.floor += u64::from(!cleared && violates);
        }
        counts.found.cleared = counts.cleared.population;
        counts
    }

    /// The same with the bound on the recall.
    fn bounds(&self, within: impl Fn(usize) -> bool) -> Bounds {
        let counts = self.counts(within);
        Bounds {
            recall: Some(counts.recall(self.delta)),
            ..counts.found
        }
    }

    /// Why the sample cannot reach the target even if no more were missed, and what would; `None` where it can, and
    /// where nothing would, because too many are missed.
    fn too_few(&self, target: f64) -> Option<String> {
        let mut counts = self.counts(|_| true);
        let (drawn, cleared) = (counts.cleared.sampled, counts.cleared.population);
        if counts.recall(self.delta) >= target {
            return None;
        }
        let mut sampled = drawn;
        while sampled < cleared {
            sampled = (sampled + sampled / 8 + 1).min(cleared);
            counts.cleared.sampled = sampled;
            if counts.recall(self.delta) >= target {
                let more = sampled - drawn;
                return Some(format!(
                    "{drawn} cleared texts are too few to say whether the recall is {target}, about {more} more are needed; the screen stays on"
                ));
            }
        }
        let kept = self.scores.iter().zip(&self.known);
        let open = kept
            .filter(|(score, label)| **score >= self.clear_below && label.is_none())
            .count();
        (open > 0).then(|| {
            format!("{open} kept texts are not judged, too many to say whether the recall is {target}; the screen stays on")
        })
    }

    /// The rows: all texts first, then the slices.
    fn events(
        &self,
        given: &Given,
        latest: &ScreenEvent,
        event: &'static str,
        words: impl Fn(&Bounds) -> String,
    ) -> Vec<ScreenEvent> {
        let about = About {
            event,
            at: now(),
            screen: latest.screen_digest,
            reasoner: latest.reasoner.as_str().into(),
            reasoner_digest: latest.reasoner_digest.as_str().into(),
            basis: "reasoner",
            source: Some(Arc::clone(&given.from.source)),
            goal: Goal {
                recall: latest.target,
                delta: latest.delta,
                precision: latest.precision_target,
            },
            clear_below: Some(self.clear_below),
            convict_above: self.convict_above,
            trained_on: latest.trained_on,
            more_labels: None,
            on: event != "turned_off",
        };
        let version = &given.tried.version;
        let bounds = |within: &dyn Fn(usize) -> bool| Bounds {
            precision: latest.precision_bound,
            ..self.bounds(within)
        };
        let whole = bounds(&|_| true);
        let mut events = vec![about.event(version, None, &whole, words(&whole))];
        for (at, name) in (0_u32..).zip(&self.texts.slices) {
            let found = bounds(&|place| self.texts.slice_of[place] == at);
            let said = format!("recall at least {}", bound(found.recall.unwrap_or(0.0)));
            events.push(about.event(version, Some(name), &found, said));
        }
        events
    }
}
