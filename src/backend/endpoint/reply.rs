//! Replies of servers, read as decisions.
//!
//! Takes a prompt, asks for a whole reply or for the probabilities of its first tokens, gives the label or why there is
//! none. Only the final channel of a whole reply counts.

use super::wire::{Form, Said, Want};
use super::{Endpoint, Unput, answer};
use crate::backend::harmony::final_part;
use crate::backend::labels::{LabelTrie, most_probable, shares};
use crate::backend::{Answer, BackendError, NoAnswer, Prompt, PromptPolicy, Reply};
use crate::config::POLICY_TOKENS_MAX;

impl Endpoint {
    /// One request, answered after an analysis.
    pub(super) async fn reason(
        &self,
        prompt: &Prompt,
        counted: u64,
    ) -> Result<Reply, BackendError> {
        let form = self.ways.reason();
        let header = match form {
            Form::Chat => Vec::new(),
            _ => self.harmony.analysis_header(),
        };
        let put = self.put(prompt, form, &header).map_err(unput)?;
        let said = self
            .send(&put, Want::reply(self.ways.stream), prompt.lane)
            .await?;
        let forced = header.len() as u64;
        let tokens_in = said
            .tokens_in
            .map_or(counted, |all| all.saturating_sub(forced));
        let decoded = || {
            let all = format!("{}{}", said.reasoning, said.content);
            self.harmony.ids(&all).len() as u64
        };
        Ok(Reply {
            tokens_in,
            tokens_out: said.tokens_out.unwrap_or_else(decoded),
            answer: self.read(form, header, said, &prompt.policy, &prompt.text),
        })
    }

    fn read(
        &self,
        form: Form,
        header: Vec<u32>,
        said: Said,
        policy: &PromptPolicy,
        text: &str,
    ) -> Answer {
        let none = |why| Answer::None(why);
        match said.finish.as_deref() {
            Some("length") => return none(NoAnswer::Truncated),
            Some("content_filter") => return none(NoAnswer::Refused),
            _ if said.refused => return none(NoAnswer::Refused),
            Some("stop") => {}
            // Calls of tools and whatever else ends a reply without an answer.
            _ => return none(NoAnswer::Unparsed),
        }
        let (analysis, last) = match form == Form::Chat && !self.harmony.is_written(&said.content) {
            true => (said.reasoning, final_part(&said.content).map(str::to_owned)),
            false => {
                let parsed = self.harmony.parse_written(header, &said.content, true);
                (parsed.analysis.unwrap_or(said.reasoning), parsed.answer)
            }
        };
        let read = last.ok_or(NoAnswer::Unparsed);
        match read.and_then(|last| answer::read(&last, policy, text)) {
            Err(why) => none(why),
            Ok(index) => Answer::Label {
                index,
                probabilities: Vec::new(),
                analysis: Some(analysis),
                reasoned: true,
            },
        }
    }

    /// The labels' probabilities behind an empty analysis: one request, and one for each place where labels part later.
    pub(super) async fn score(
        &self,
        prompt: &Prompt,
        labels: &LabelTrie,
        tokens_in: u64,
    ) -> Result<Reply, BackendError> {
        let (Some(form), true) = (self.ways.completions, self.ways.logprobs) else {
            return Err(BackendError::Unsupported(format!(
                "model \"{}\" is on a server that tells no probabilities, which mode score needs; \
                 SET safeguard.mode = 'reason'",
                self.ways.model
            )));
        };
        let behind = |path: &[u32]| {
            let mut forced = self.harmony.empty_analysis();
            forced.extend(path);
            self.put(prompt, form, &forced).map_err(unput)
        };
        let reply = |answer| Reply {
            answer,
            tokens_in,
            tokens_out: 0,
        };
        let put = behind(&[])?;
        let root = Told(self.send(&put, Want::next(), prompt.lane).await?.first);
        let firsts = labels.first_tokens();
        if !firsts.iter().any(|&id| root.exactly(self, id).is_some()) {
            return Ok(reply(Answer::None(NoAnswer::Unparsed)));
        }
        let logits: Vec<f32> = firsts
            .iter()
            .map(|&id| root.at_most(self, id) as f32)
            .collect();
        let mut scores = labels.root(&logits);
        let stops = self.harmony.stop_ids();
        for (number, path) in labels.inner().iter().enumerate() {
            let put = behind(path)?;
            let told = Told(self.send(&put, Want::next(), prompt.lane).await?.first);
            labels.step(&mut scores, number, stops, |id| {
                match stops[1..].contains(&id) {
                    true => told.exactly(self, id).unwrap_or(f64::NEG_INFINITY),
                    false => told.at_most(self, id),
                }
            });
        }
        let Some(probabilities) = shares(&scores) else {
            let why = "the server tells probabilities that are no numbers";
            return Err(BackendError::Model(why.to_owned()));
        };
        Ok(reply(Answer::Label {
            index: most_probable(&probabilities),
            probabilities,
            analysis: None,
            reasoned: false,
        }))
    }
}

fn unput(why: Unput) -> BackendError {
    match why {
        Unput::Policy => BackendError::PolicyTooLong {
            limit: POLICY_TOKENS_MAX,
        },
        Unput::Text(tokens) => BackendError::Model(format!("the text has {tokens} tokens")),
    }
}

/// The most probable tokens at one place, with their logarithms.
struct Told(Vec<(String, f64)>);

impl Told {
    fn exactly(&self, endpoint: &Endpoint, id: u32) -> Option<f64> {
        let token = endpoint.harmony.text(&[id]);
        let told = self.0.iter().find(|(said, _)| *said == token);
        told.map(|(_, logprob)| *logprob)
    }

    /// A token that was not told is no more probable than the last one that was.
    fn at_most(&self, endpoint: &Endpoint, id: u32) -> f64 {
        let least = || self.0.iter().map(|(_, logprob)| *logprob).reduce(f64::min);
        let exactly = self.exactly(endpoint, id);
        exactly.or_else(least).unwrap_or(f64::NEG_INFINITY)
    }
}
