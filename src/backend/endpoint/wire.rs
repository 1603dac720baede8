//! Requests and replies of OpenAI-compatible servers, as JSON.
//!
//! Takes a rendered prompt or a conversation, gives a request's body; takes replies, whole or event by event, gives what
//! was said. Knows the names that vLLM, SGLang, llama-server and Ollama give to things; knows no policy and no network.

use crate::config::{ENDPOINT_LOGPROBS, ENDPOINT_REPLY_TOKENS_MAX};
use serde_json::{Value, json};

/// How a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `completions`, with the prompt as token ids.
    Ids,
    /// `completions`, with the prompt as text in which the server finds control tokens.
    Text,
    /// `chat/completions`: the server renders the prompt.
    Chat,
}

impl Form {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Form::Ids => "token ids to /completions",
            Form::Text => "rendered text to /completions",
            Form::Chat => "messages to /chat/completions",
        }
    }
}

/// A prompt as a server of some form takes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Put {
    Ids(Vec<u32>),
    Text(String),
    Chat {
        policy: String,
        text: String,
        effort: &'static str,
    },
}

/// What is wanted of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) tokens: usize,
    pub(super) stream: bool,
    pub(super) logprobs: bool,
}

impl Want {
    /// A whole reply.
    pub(super) fn reply(stream: bool) -> Want {
        Want {
            tokens: ENDPOINT_REPLY_TOKENS_MAX,
            stream,
            logprobs: false,
        }
    }

    /// Whether a server that is at work on it is heard of soon: by the events of a stream, or by a reply of one token. A whole
    /// analysis in one piece may take long.
    pub(super) fn shows_life(self) -> bool {
        self.stream || self.tokens == 1
    }

    /// One token and what else it might have been.
    pub(super) fn next() -> Want {
        Want {
            tokens: 1,
            stream: false,
            logprobs: true,
        }
    }
}

impl Put {
    pub(super) fn path(&self) -> &'static str {
        match self {
            Put::Ids(_) | Put::Text(_) => "completions",
            Put::Chat { .. } => "chat/completions",
        }
    }

    /// The request. What all requests under a policy share stands in front, and nothing in it changes from day to day.
    pub(super) fn body(&self, model: &str, stops: &[u32], want: Want) -> Value {
        let mut body = json!({
            "model": model, "max_tokens": want.tokens, "temperature": 0, "stream": want.stream,
        });
        match self {
            Put::Ids(ids) => body["prompt"] = json!(ids),
            Put::Text(text) => body["prompt"] = json!(text),
            Put::Chat {
                policy,
                text,
                effort,
            } => {
                body["messages"] = json!([
                    {"role": "system", "content": policy},
                    {"role": "user", "content": text},
                ]);
                body["reasoning_effort"] = json!(effort);
            }
        }
        if !matches!(self, Put::Chat { .. }) {
            // Channels are told apart by control tokens, which servers leave out where nobody asks for them.
            body["skip_special_tokens"] = json!(false);
            body["spaces_between_special_tokens"] = json!(false);
            body["stop_token_ids"] = json!(stops);
            if want.logprobs {
                body["logprobs"] = json!(ENDPOINT_LOGPROBS);
            }
        }
        if want.stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }
}

/// What a server said, as far as it was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Said {
    pub(super) content: String,
    pub(super) reasoning: String,
    /// `stop`, `length`, ..; `None` while more is to come.
    pub(super) finish: Option<String>,
    pub(super) refused: bool,
    pub(super) model: Option<String>,
    pub(super) tokens_in: Option<u64>,
    pub(super) tokens_out: Option<u64>,
    /// The most probable first tokens with their logarithms, where they were told.
    pub(super) first: Vec<(String, f64)>,
}

impl Said {
    /// Adds a whole reply or one event of it. The error is what is wrong with it.
    pub(super) fn add(&mut self, reply: &Value) -> Result<(), String> {
        if let Some(error) = reply.get("error").filter(|error| !error.is_null()) {
            let message = error.get("message").and_then(Value::as_str);
            let said = message.map_or_else(|| error.to_string(), str::to_owned);
            return Err(format!("an error instead of a reply: {said}"));
        }
        let Some(choices) = reply.get("choices").and_then(Value::as_array) else {
            return Err("the reply has no choices".to_owned());
        };
        if let Some(model) = reply.get("model").and_then(Value::as_str) {
            self.model = Some(model.to_owned());
        }
        let usage = |key| reply.get("usage")?.get(key)?.as_u64();
        self.tokens_in = usage("prompt_tokens").or(self.tokens_in);
        self.tokens_out = usage("completion_tokens").or(self.tokens_out);
        // The event that tells the usage has no choice.
        let Some(choice) = choices.first() else {
            return Ok(());
        };
        let message = choice.get("message").or_else(|| choice.get("delta"));
        let part = |key| message.and_then(|m| m.get(key)).and_then(Value::as_str);
        let text = choice.get("text").and_then(Value::as_str);
        self.content
            .push_str(text.or(part("content")).unwrap_or(""));
        let reasoning = part("reasoning_content").or(part("reasoning"));
        self.reasoning.push_str(reasoning.unwrap_or(""));
        self.refused |= part("refusal").is_some_and(|said| !said.is_empty());
        if let Some(finish) = choice.get("finish_reason").and_then(Value::as_str) {
            self.finish = Some(finish.to_owned());
        }
        if self.first.is_empty() {
            self.first = choice.get("logprobs").map(first).unwrap_or_default();
        }
        Ok(())
    }
}

/// `{"top_logprobs": [{token: logprob}]}`, or `{"content": [{"top_logprobs": [{"token", "logprob"}]}]}`.
fn first(logprobs: &Value) -> Vec<(String, f64)> {
    if let Some(told) = logprobs
        .pointer("/top_logprobs/0")
        .and_then(Value::as_object)
    {
        let pair = |(token, logprob): (&String, &Value)| Some((token.clone(), logprob.as_f64()?));
        return told.iter().filter_map(pair).collect();
    }
    let told = logprobs.pointer("/content/0/top_logprobs");
    let pair = |entry: &Value| {
        let token = entry.get("token")?.as_str()?.to_owned();
        Some((token, entry.get("logprob")?.as_f64()?))
    };
    let told = told.and_then(Value::as_array);
    told.map(|all| all.iter().filter_map(pair).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_policy_shares_stands_in_front_and_nothing_changes_daily() {
        let put = |text: &str| Put::Chat {
            policy: "P".to_owned(),
            text: text.to_owned(),
            effort: "low",
        };
        let body = put("one").body("m", &[7], Want::reply(true));
        assert_eq!(
            body,
            json!({
                "model": "m", "max_tokens": ENDPOINT_REPLY_TOKENS_MAX, "temperature": 0, "stream": true,
                "messages": [{"role": "system", "content": "P"}, {"role": "user", "content": "one"}],
                "reasoning_effort": "low", "stream_options": {"include_usage": true},
            })
        );
        let ids = Put::Ids(vec![1, 2]).body("m", &[7], Want::next());
        assert_eq!(
            ids,
            json!({
                "model": "m", "max_tokens": 1, "temperature": 0, "stream": false, "prompt": [1, 2],
                "skip_special_tokens": false, "spaces_between_special_tokens": false,
                "stop_token_ids": [7], "logprobs": ENDPOINT_LOGPROBS,
            })
        );
    }

    #[test]
    fn replies_are_read_in_every_dialect() {
        let usage = json!({"prompt_tokens": 9, "completion_tokens": 2});
        let read = |events: &[Value]| {
            let mut said = Said::default();
            for event in events {
                said.add(event).expect("a reply");
            }
            said
        };
        let whole = read(&[json!({"model": "m", "usage": usage, "choices": [
            {"message": {"content": "allowed", "reasoning_content": "why"}, "finish_reason": "stop"}]})]);
        assert_eq!((&*whole.content, &*whole.reasoning), ("allowed", "why"));
        let events = read(&[
            json!({"model": "m", "choices": [{"delta": {"role": "assistant", "content": null, "reasoning": "w"}}]}),
            json!({"choices": [{"delta": {"reasoning": "hy"}}]}),
            json!({"choices": [{"delta": {"content": "allo"}, "finish_reason": null}]}),
            json!({"choices": [{"delta": {"content": "wed"}, "finish_reason": "stop"}]}),
            json!({"choices": [], "usage": usage}),
        ]);
        assert_eq!(events, whole);
        let vllm = read(
            &[json!({"choices": [{"text": "1", "finish_reason": "length",
            "logprobs": {"tokens": ["1"], "top_logprobs": [{"1": -0.1, "0": -2.5}]}}]})],
        );
        let llama = read(
            &[json!({"choices": [{"text": "1", "finish_reason": "length",
            "logprobs": {"content": [{"token": "1", "top_logprobs": [
                {"token": "1", "logprob": -0.1}, {"token": "0", "logprob": -2.5}]}]}}]})],
        );
        let sorted = |mut said: Said| {
            said.first.sort_by(|a, b| a.0.cmp(&b.0));
            said
        };
        assert_eq!(sorted(vllm), sorted(llama));
        for (reply, why) in [
            (
                json!({"error": {"message": "no room"}}),
                "an error instead of a reply: no room",
            ),
            (
                json!({"error": "no room"}),
                "an error instead of a reply: \"no room\"",
            ),
            (json!({"detail": "x"}), "the reply has no choices"),
        ] {
            assert_eq!(Said::default().add(&reply), Err(why.to_owned()));
        }
    }
}
