//! Whether a model on servers can be asked, and how.
//!
//! Takes addresses, tells one finding after another: what each server has and how it is asked, then a few questions put
//! in earnest. Knows nothing of the servers' weights, which cannot be looked at from here.

use super::verify::{Finding, LABELS, Level, POLICY, TEXTS, finding};
use crate::backend::endpoint::{Endpoint, Ways};
use crate::backend::{Answer, Backend, BackendError, Prompt, PromptPolicy, Reply};
use crate::config::{
    ENDPOINT_REPLY_TOKENS_MAX, EndpointAccess, POLICY_TOKENS_MAX, TEXT_TOKENS_MAX,
};
use safeguard_udfs::{Effort, Lane, Mode};
use std::sync::Arc;
use std::time::Instant;

/// Tokens of the longest question with its reply, without the few of the template.
const NEEDED: u64 = (POLICY_TOKENS_MAX + TEXT_TOKENS_MAX + ENDPOINT_REPLY_TOKENS_MAX) as u64;

/// Looks at the servers behind addresses; whether nothing failed. Waits for the network; to be called in a tokio runtime.
pub fn verify_address(said: &str, access: EndpointAccess, told: &mut dyn FnMut(Finding)) -> bool {
    let mut sound = true;
    let mut tell = |check, level, detail| {
        sound &= level != Level::Fail;
        told(finding(check, level, detail));
    };
    let endpoint = match Endpoint::open(said, access) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            tell("server", Level::Fail, error.to_string());
            return false;
        }
    };
    let mut scores = false;
    for found in endpoint.found() {
        match &found.ways {
            Err(why) => tell("server", Level::Fail, why.clone()),
            Ok(ways) => {
                let has = format!("{} has {}", found.address, ways.model);
                tell("server", Level::Ok, has);
                (scores, ()) = (ways.logprobs, describe(ways, &mut tell));
                if let Some(context) = found.context.filter(|context| *context < NEEDED) {
                    let detail = format!(
                        "{context} tokens for a policy, a text and an analysis, of which the longest that are put have \
                         {NEEDED}: what does not fit is undecided"
                    );
                    tell("context", Level::Note, detail);
                }
            }
        }
    }
    for mode in [Mode::Reason, Mode::Score] {
        if mode == Mode::Reason || scores {
            let (level, detail) = questions(&endpoint, mode);
            tell("self-test", level, detail);
        }
    }
    sound
}

fn describe(ways: &Ways, tell: &mut impl FnMut(&'static str, Level, String)) {
    let whole = if ways.stream { "as it comes" } else { "whole" };
    let reason = format!("{}, the reply read {whole}", ways.reason().as_str());
    tell("reason", Level::Ok, reason);
    match ways.completions.filter(|_| ways.logprobs) {
        Some(form) => tell(
            "score",
            Level::Ok,
            format!("{}, with probabilities", form.as_str()),
        ),
        None => {
            let why = "no probabilities behind prompts of ours: modes reason and auto alone";
            tell("score", Level::Note, why.to_owned());
        }
    }
}

/// Questions with plain answers. Without a label to any, something is wrong; wrong labels are for golden sets to judge.
fn questions(endpoint: &Endpoint, mode: Mode) -> (Level, String) {
    let policy = Arc::new(PromptPolicy {
        digest: blake3::hash(POLICY.as_bytes()).to_hex().as_str().into(),
        text: POLICY.into(),
        labels: LABELS.map(Arc::from).to_vec(),
    });
    let ask = |text: &str| {
        endpoint.ask(Prompt {
            policy: Arc::clone(&policy),
            text: text.into(),
            mode,
            effort: Effort::Low,
            lane: Lane::Interactive,
        })
    };
    let begun = Instant::now();
    let replies = futures::future::join_all(TEXTS.map(|(text, _)| ask(text)));
    let replies = futures::executor::block_on(replies);
    let seconds = begun.elapsed().as_secs_f64();
    let (mut labels, mut expected, mut tokens) = (0, 0, (0, 0));
    let mut others: Vec<String> = Vec::new();
    for ((_, right), reply) in TEXTS.into_iter().zip(replies) {
        match reply {
            Ok(Reply {
                answer: Answer::Label { index, .. },
                tokens_in,
                tokens_out,
            }) => {
                labels += 1;
                expected += usize::from(index == right);
                tokens = (tokens.0 + tokens_in, tokens.1 + tokens_out);
            }
            Ok(reply) => others.push(format!("{:?}", reply.answer)),
            Err(error) => others.push(BackendError::to_string(&error)),
        }
    }
    let mode = if mode == Mode::Score {
        "score"
    } else {
        "reason"
    };
    let mut said = format!(
        "mode {mode}: {labels} labels to {} questions in {seconds:.1} s, {expected} as a person would; {} tokens read, {} \
         decoded",
        TEXTS.len(),
        tokens.0,
        tokens.1
    );
    if let Some(first) = others.first() {
        said.push_str(&format!(
            "; {} without one, the first: {first}",
            others.len()
        ));
    }
    let level = match (labels, others.is_empty()) {
        (0, _) => Level::Fail,
        (_, true) => Level::Ok,
        (_, false) => Level::Note,
    };
    (level, said)
}
