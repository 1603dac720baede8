//! What a server can do, found out by asking it.
//!
//! Takes a server, gives the name of its model and how it is best asked: by token ids where it reads them as we do, by
//! rendered text where it finds the control tokens in it, else by chat messages. A server reads as we do when it counts
//! as many prompt tokens as we do. Sends a handful of requests of one token each.

use super::http::{Client, Fault, Refusal};
use super::wire::{Form, Put, Said, Want};
use crate::backend::BackendError;
use crate::backend::harmony::{Harmony, escape};
use safeguard_udfs::Effort;

/// What every known name of the model holds.
const FAMILY: &str = "gpt-oss";
const SAFEGUARD: &str = "safeguard";
/// Names shown where one of them must be chosen.
const NAMES_SHOWN: usize = 10;
const POLICY: &str = "Answer with exactly one of: day, night.";
const TEXT: &str = "The sun is up: 12:30 o'clock, 25 \u{b0}C.";

/// How a server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ways {
    /// The model, as the server names it.
    pub model: String,
    /// How it completes prompts of ours, where it can.
    pub completions: Option<Form>,
    /// Whether completions show channels, so that a reasoned answer can be read from them.
    pub channels: bool,
    /// Whether it tells the probabilities of labels.
    pub logprobs: bool,
    /// Whether it sends a reply as it comes.
    pub stream: bool,
}

impl Ways {
    /// How a reasoned answer is asked for.
    pub fn reason(&self) -> Form {
        match self.completions {
            Some(form) if self.channels => form,
            _ => Form::Chat,
        }
    }
}

/// A server that cannot be used now, or not at all.
#[derive(Debug)]
pub(super) enum Unusable {
    /// It may come back.
    Down(String),
    Never(BackendError),
}

impl Unusable {
    fn of(fault: Fault) -> Unusable {
        match fault {
            Fault::Final { why, kind } => Unusable::Never(match kind {
                Refusal::Key => BackendError::Key(why),
                _ => BackendError::Protocol(why),
            }),
            Fault::Untrusted(why) => Unusable::Never(BackendError::Untrusted(why)),
            passing => Unusable::Down(passing.why().to_owned()),
        }
    }
}

/// Looks at a server whose model is called `named`, or is the only one of its family. Gives its context beside how it is
/// asked, where it tells.
pub(super) fn look(
    client: &Client,
    harmony: &Harmony,
    named: Option<&str>,
) -> Result<(Ways, Option<u64>), Unusable> {
    let missing = |fault| match fault {
        Fault::Final {
            kind: Refusal::Missing,
            why,
        } => Unusable::Never(BackendError::Protocol(format!(
            "{why}; {}/models should list its models",
            client.base
        ))),
        other => Unusable::of(other),
    };
    let listed = client.models().map_err(missing)?;
    let names = listed.iter().map(|model| model.name.clone()).collect();
    let model = choose(&client.base, names, named).map_err(Unusable::Never)?;
    let chosen = listed.iter().find(|listed| listed.name == model);
    let context = chosen.and_then(|listed| listed.context);
    let mut ways = Ways {
        model,
        completions: None,
        channels: false,
        logprobs: false,
        stream: true,
    };
    completions(client, harmony, &mut ways)?;
    reasoned(client, harmony, &mut ways)?;
    Ok((ways, context))
}

fn choose(base: &str, models: Vec<String>, named: Option<&str>) -> Result<String, BackendError> {
    let listed = || match models.is_empty() {
        true => "none".to_owned(),
        false => models[..models.len().min(NAMES_SHOWN)].join(", "),
    };
    if let Some(name) = named {
        return match models.iter().any(|model| model == name) {
            true => Ok(name.to_owned()),
            false => Err(BackendError::NoModel(format!(
                "{base} has no model \"{name}\"; it has {}",
                listed()
            ))),
        };
    }
    let of = |word: &str| -> Vec<&String> {
        let family = models.iter().filter(|model| model.contains(word));
        family.collect()
    };
    let candidates = [models.iter().collect(), of(SAFEGUARD), of(FAMILY)];
    let only = candidates.iter().find(|found| found.len() == 1);
    only.map(|found| found[0].clone()).ok_or_else(|| {
        BackendError::NoModel(format!("{base} has {}; say which: {base}#NAME", listed()))
    })
}

/// Tries prompts of ours: ids before text, with probabilities before without.
fn completions(client: &Client, harmony: &Harmony, ways: &mut Ways) -> Result<(), Unusable> {
    let Some((ids, text)) = prompts(harmony) else {
        return Ok(());
    };
    for (put, form) in [
        (Put::Ids(ids.clone()), Form::Ids),
        (Put::Text(text), Form::Text),
    ] {
        for logprobs in [true, false] {
            let want = Want {
                logprobs,
                ..Want::next()
            };
            let said = match client
                .post_now(put.path(), &put.body(&ways.model, harmony.stop_ids(), want))
            {
                Ok(said) => said,
                Err(
                    fault @ Fault::Final {
                        kind: Refusal::Key, ..
                    },
                ) => return Err(Unusable::of(fault)),
                Err(fault @ (Fault::Busy { .. } | Fault::Slow(_))) => {
                    return Err(Unusable::of(fault));
                }
                Err(fault @ Fault::Untrusted(_)) => return Err(Unusable::of(fault)),
                // Servers say in many ways that they do not do this.
                Err(_) => continue,
            };
            if !reads_alike(&said, ids.len(), form, &ways.model) {
                continue;
            }
            ways.completions = Some(form);
            ways.logprobs = !said.first.is_empty();
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a server has read as many tokens as were sent. One that counts none is believed for ids alone, and only where
/// its model's name says which tokens these are.
fn reads_alike(said: &Said, sent: usize, form: Form, model: &str) -> bool {
    match said.tokens_in {
        Some(read) => read == sent as u64 && (form == Form::Text || model.contains(FAMILY)),
        None => form == Form::Ids && model.contains(FAMILY),
    }
}

/// One prompt in both forms; behind it nothing but an empty analysis and the header of the answer may stand.
fn prompts(harmony: &Harmony) -> Option<(Vec<u32>, String)> {
    let mut ids = harmony.prefix(&escape(POLICY), Effort::Low).ok()?;
    ids.extend(harmony.suffix(&escape(TEXT)).ok()?);
    ids.extend(harmony.empty_analysis());
    let text = harmony.text(&ids);
    Some((ids, text))
}

/// Tries how a reasoned answer can be read: from the first tokens of a completion, whose channel must show, else by chat.
fn reasoned(client: &Client, harmony: &Harmony, ways: &mut Ways) -> Result<(), Unusable> {
    let first = |ways: &Ways, put: &Put, stream: bool| {
        let want = Want {
            tokens: 3,
            stream,
            logprobs: false,
        };
        client.post_now(put.path(), &put.body(&ways.model, harmony.stop_ids(), want))
    };
    let opened = harmony
        .prefix(&escape(POLICY), Effort::Low)
        .and_then(|mut ids| {
            ids.extend(harmony.suffix(&escape(TEXT))?);
            Ok(ids)
        });
    if let (Some(form), Ok(ids)) = (ways.completions, opened) {
        let put = match form {
            Form::Ids => Put::Ids(ids),
            _ => Put::Text(harmony.text(&ids)),
        };
        for stream in [true, false] {
            if let Ok(said) = first(ways, &put, stream) {
                (ways.stream, ways.channels) = (stream, harmony.is_written(&said.content));
                break;
            }
        }
        if ways.channels {
            return Ok(());
        }
    }
    let chat = Put::Chat {
        policy: POLICY.to_owned(),
        text: TEXT.to_owned(),
        effort: "low",
    };
    ways.stream = true;
    let streamed = first(ways, &chat, true);
    if matches!(
        &streamed,
        Err(Fault::Final {
            kind: Refusal::Other,
            ..
        })
    ) {
        ways.stream = false;
    }
    let said = match ways.stream {
        true => streamed,
        false => first(ways, &chat, false),
    };
    match said {
        Ok(_) => Ok(()),
        Err(Fault::Final {
            kind: Refusal::Missing | Refusal::Other,
            why,
        }) => Err(Unusable::Never(BackendError::Protocol(format!(
            "{} can be asked neither by /completions nor by /chat/completions: {why}",
            client.base
        )))),
        Err(fault) => Err(Unusable::of(fault)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_model_of_the_family_is_meant() {
        for (models, named, expected) in [
            (&["any"][..], None, Ok("any")),
            (&["a", "gpt-oss:20b"], None, Ok("gpt-oss:20b")),
            (
                &["openai/gpt-oss-20b", "openai/gpt-oss-safeguard-20b"],
                None,
                Ok("openai/gpt-oss-safeguard-20b"),
            ),
            (&["a", "b"], Some("b"), Ok("b")),
            (&["a", "b"], None, Err("u has a, b; say which: u#NAME")),
            (
                &["a", "b"],
                Some("c"),
                Err("u has no model \"c\"; it has a, b"),
            ),
            (&[], None, Err("u has none; say which: u#NAME")),
        ] {
            let models = models.iter().map(|&model| model.to_owned()).collect();
            let chosen = choose("u", models, named).map_err(|e| e.to_string());
            assert_eq!(chosen.as_deref().map_err(|e| &**e), expected, "{named:?}");
        }
    }
}
