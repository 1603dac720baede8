//! `SELECT * FROM safeguard_train_screen(policy, recall [, delta, label_budget, source, slice, precision, text, seed])`: a
//! screen for a policy, with a certificate or without force.
//!
//! Takes a policy and content, gives a row for all texts and one for each slice, stored as an event of the screen. What is
//! trained on is never in the certificate: golden texts and overrides, and of a random half of the source's texts those with a
//! stored verdict and those that are asked for training, chosen by the score of a first screen. The certificate is about the other
//! texts of the source, each counted once; without a source, about texts like the golden ones, half of which are held out.
//! A screen that cannot be certified takes no certified one's place.

use super::labels::Labels;
use super::making::{Golden, Made, Work};
use super::population::{self, From, key};
use super::rows::{About, SCHEMA, batch, bound, confidence, percent};
use crate::change::backtest::Tried;
use crate::change::source::refused;
use crate::change::subject::Subject;
use crate::config::{Role, SCREEN_DELTA, SCREEN_LABEL_BUDGET, SCREEN_LABEL_BUDGET_MAX};
use crate::engine::Engine;
use crate::engine::functions::{Arguments, Call, Function, FunctionDoc, Planned, Planning};
use crate::error::Error;
use crate::policy::{Policy, ScreenUse, Version};
use crate::screen::certify::{Bounds, Certificate, Goal};
use crate::store::now;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use safeguard_udfs::Answer;
use std::sync::Arc;

const NAME: &str = "safeguard_train_screen";

/// The function.
pub(in crate::change) fn function() -> Function {
    Function {
        doc: FunctionDoc {
            name: NAME,
            arguments: &[
                ("policy", DataType::Utf8),
                ("recall", DataType::Float64),
                ("delta", DataType::Float64),
                ("label_budget", DataType::Int64),
                ("source", DataType::Utf8),
                ("slice", DataType::Utf8),
                ("precision", DataType::Float64),
                ("text", DataType::Utf8),
                ("seed", DataType::Int64),
            ],
            required: 2,
            returns: Arc::clone(&SCHEMA),
            description: "Trains a screen for a policy and certifies that it keeps at least this share of the violating texts; what cannot be certified clears nothing. Stored in safeguard.screens.",
        },
        role: Role::Admin,
        plan,
    }
}

/// A call's arguments, checked.
#[derive(Debug, Clone)]
struct Given {
    tried: Tried,
    goal: Goal,
    questions: u64,
    from: Option<From>,
    seed: i64,
}

fn plan(planning: &Planning<'_>) -> Result<Planned> {
    let given = read(planning.engine, planning.arguments)?;
    Ok(Planned::once(&SCHEMA, move |call| run(call, given.clone())))
}

fn read(engine: &Engine, arguments: &Arguments) -> Result<Given, Error> {
    let tried = Tried::resolve(engine, arguments.required("policy"))?;
    let goal = Goal {
        recall: arguments.number("recall").unwrap_or_default(),
        delta: arguments.number("delta").unwrap_or(SCREEN_DELTA),
        precision: arguments.number("precision"),
    };
    goal.check()
        .map_err(|error| refused("22023", format!("{NAME}: {error}")))?;
    if tried.version.number == 0 {
        let why = format!("{NAME}: no screen decides for a policy that is not published");
        return Err(refused("22023", why));
    }
    allowed(&tried.version.policy, &goal)?;
    let questions = match arguments.whole("label_budget") {
        None => SCREEN_LABEL_BUDGET,
        Some(said) => match u64::try_from(said) {
            Ok(questions) if questions <= SCREEN_LABEL_BUDGET_MAX => questions,
            _ => {
                let why =
                    format!("{NAME}: label_budget is {said}, not 0 to {SCREEN_LABEL_BUDGET_MAX}");
                return Err(refused("22023", why));
            }
        },
    };
    let owned = |name: &str| arguments.text(name).map(str::to_owned);
    let from = arguments.text("source").map(|source| From {
        source: source.into(),
        text: owned("text"),
        slice: owned("slice"),
    });
    for name in ["slice", "text"] {
        if from.is_none() && arguments.text(name).is_some() {
            let why = format!("{NAME}: {name} is a column of a source, and there is none");
            return Err(refused("22023", why));
        }
    }
    Ok(Given {
        tried,
        goal,
        questions,
        from,
        seed: arguments.whole("seed").unwrap_or(0),
    })
}

/// Whether the policy lets a screen do what the goal is about.
fn allowed(policy: &Policy, goal: &Goal) -> Result<(), Error> {
    let name = &policy.name;
    if policy.screen == ScreenUse::Never {
        let why = format!("policy \"{name}\" has no screens: its front matter says screen: never");
        return Err(refused("22023", why));
    }
    if goal.precision.is_none() {
        return Ok(());
    }
    if policy.screen != ScreenUse::Convict {
        return Err(Error::Refused {
            sqlstate: "22023",
            why: format!(
                "a screen of policy \"{name}\" may not convict, so that it has no precision"
            ),
            hint: Some("the front matter of a policy allows it with screen: convict".to_owned()),
        });
    }
    match policy.labels.len() - 1 {
        1 => Ok(()),
        violating => Err(refused(
            "0A000",
            format!(
                "policy \"{name}\" has {violating} labels that violate: a screen cannot tell which to give"
            ),
        )),
    }
}

/// The number that decides all draws: of the policy's text and the model, so that a second call draws the same texts again
/// and finds what it asked, and of a number that only the caller knows.
pub(super) fn seed(policy_digest: &str, reasoner_digest: &str, said: i64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in [
        policy_digest.as_bytes(),
        reasoner_digest.as_bytes(),
        &said.to_le_bytes(),
    ] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    key(hasher.finalize().as_bytes())
}

/// Golden texts and what people said: whether each violates.
pub(super) async fn golden(call: &Call, version: &Version) -> Result<Golden, Error> {
    let mut subject = Subject::version(version, call.engine.golden_set(&version.policy)?);
    subject.take_spoken(call.engine.store().spoken(&version.name).await?);
    let allowed = &version.policy.labels[version.policy.allowed];
    let rows = subject.golden.rows.iter();
    Ok(rows
        .map(|row| (Arc::clone(&row.text), row.label != *allowed))
        .collect())
}

async fn run(call: Call, given: Given) -> Result<RecordBatch, Error> {
    let answer = call.settings().answer;
    if given.from.is_some() && answer != Answer::Wait {
        return Err(Error::Refused {
            sqlstate: "55000",
            why: format!(
                "{NAME} waits for labels, and safeguard.answer is {}",
                answer.as_str()
            ),
            hint: Some("SET safeguard.answer = 'wait'".to_owned()),
        });
    }
    let version = &given.tried.version;
    let golden = golden(&call, version).await?;
    let seed = seed(&version.digest, &call.engine.model().digest, given.seed);
    let work = Work {
        labels: Labels::new(&call, &given.tried.asked),
        goal: given.goal,
        questions: given.questions,
        examples: Vec::new(),
        seed,
    };
    let made = match &given.from {
        Some(from) => {
            let texts = population::read(&call, from, seed).await?;
            work.by_source(texts, golden).await?
        }
        None => work.by_golden(golden).await?,
    };
    finish(&call, &given, made).await
}

/// Keeps what is to be kept, and gives the rows.
async fn finish(call: &Call, given: &Given, made: Made) -> Result<RecordBatch, Error> {
    let (version, store, model) = (
        &given.tried.version,
        call.engine.store(),
        call.engine.model(),
    );
    let Certificate {
        clear_below,
        convict_above,
        whole,
        slices,
        more_labels,
    } = &made.certificate;
    let on = clear_below.is_some() || convict_above.is_some();
    let about = About {
        event: "trained",
        at: now(),
        screen: made
            .screen
            .as_ref()
            .map(|screen| screen.digest())
            .unwrap_or_default(),
        reasoner: Arc::clone(&model.name),
        reasoner_digest: Arc::clone(&model.digest),
        basis: if given.from.is_some() {
            "reasoner"
        } else {
            "gold"
        },
        source: given.from.as_ref().map(|from| Arc::clone(&from.source)),
        goal: given.goal,
        clear_below: *clear_below,
        convict_above: *convict_above,
        trained_on: made.trained_on,
        more_labels: *more_labels,
        on,
    };
    let before = store
        .screen_in_force(&version.digest, &model.digest)
        .await?;
    let stays = !on && before.is_some();
    let mut events = vec![about.event(version, None, whole, in_words(given, &made, stays))];
    for (name, found) in made.slices.iter().zip(slices) {
        events.push(about.event(version, Some(name), found, of_slice(given, found)));
    }
    let certificate = match &made.screen {
        // What cannot be certified must not end what is.
        Some(screen) if !stays => Some(
            store
                .append_screen(events.clone(), Some(screen.to_bytes()))
                .await?,
        ),
        _ => None,
    };
    if made.cut {
        call.statement().tally().note(format!(
            "the source has more different texts than {}: a random sample of them stands for all",
            whole.texts + made.trained_on
        ));
    }
    Ok(batch(certificate, &events)?)
}

/// What was found over all texts.
fn in_words(given: &Given, made: &Made, stays: bool) -> String {
    let found = &made.certificate.whole;
    let goal = &given.goal;
    let still = match stays {
        true => "the screen that was certified before stays on",
        false => "the screen stays off",
    };
    if made.screen.is_none() {
        let labels = made.trained_on;
        return format!(
            "a screen needs texts that violate and texts that do not: all of {labels} labels are of one kind; {still}"
        );
    }
    let mut said = Vec::new();
    if let (Some(_), Some(recall)) = (made.certificate.clear_below, found.recall) {
        said.push(format!(
            "cleared {} of {} texts; recall at least {} with {}",
            percent(found.cleared, found.texts),
            found.texts,
            bound(recall),
            confidence(goal.delta)
        ));
    }
    if let (Some(_), Some(precision)) = (made.certificate.convict_above, found.precision) {
        said.push(format!(
            "convicted {}; precision at least {}",
            percent(found.convicted, found.texts),
            bound(precision)
        ));
    }
    if said.is_empty() {
        said.push(match made.certificate.more_labels {
            Some(more) => format!(
                "about {more} more labels are needed for recall {}",
                goal.recall
            ),
            None => format!(
                "no threshold has recall {}, and every text was asked",
                goal.recall
            ),
        });
        said.push(still.to_owned());
    } else if made.certificate.clear_below.is_none() {
        let more = made.certificate.more_labels.map_or(String::new(), |more| {
            format!("; about {more} more labels are needed")
        });
        said.push(format!("nothing is cleared{more}"));
    }
    said.join("; ")
}

fn of_slice(given: &Given, found: &Bounds) -> String {
    let cleared = percent(found.cleared, found.texts);
    match found.recall {
        Some(recall) => format!(
            "cleared {cleared} of {} texts; recall at least {} with {}",
            found.texts,
            bound(recall),
            confidence(given.goal.delta)
        ),
        None => format!("{} texts; nothing is cleared", found.texts),
    }
}
