//! The label in an answer that a model wrote freely.
//!
//! Takes what stands in the final channel, with the policy and the text that were asked about; gives the label's number
//! or why there is none. In this order: the label and nothing else; JSON; a refusal; else the last word of the answer,
//! once echoes of the prompt are taken out. Texts are echoed before the answer and can spell any label, so the first
//! match never counts; two different labels contradict each other, and a negated one is none. Pure.

use crate::backend::{NoAnswer, PromptPolicy};
use serde_json::Value;
use std::sync::Arc;

/// How refusals begin, in lower case with straight apostrophes.
const REFUSALS: [&str; 12] = [
    "i'm sorry",
    "i am sorry",
    "sorry",
    "i apologize",
    "i can't",
    "i cannot",
    "i can not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i won't",
    "i must decline",
];
/// Words that turn the label behind them into its opposite.
const NEGATIONS: [&str; 7] = ["not", "never", "no", "non", "cannot", "neither", "nor"];
/// Keys under which a label stands in JSON; where none of them is there, any value counts.
const KEYS: [&str; 6] = [
    "label",
    "answer",
    "verdict",
    "violation",
    "classification",
    "decision",
];
/// Shorter echoes are taken for words of the answer.
const ECHO_BYTES_MIN: usize = 3;

/// The number of the answer's label.
pub(super) fn read(answer: &str, policy: &PromptPolicy, text: &str) -> Result<usize, NoAnswer> {
    let said = answer.trim();
    if let Some(index) = policy.labels.iter().position(|label| **label == *said) {
        return Ok(index);
    }
    if let Some(values) = json(said) {
        let labels = policy.labels.iter().enumerate();
        let named: Vec<usize> = labels
            .filter(|(_, label)| values.iter().any(|value| value == &***label))
            .map(|(index, _)| index)
            .collect();
        return only(&named);
    }
    if said.starts_with('{') {
        return Err(NoAnswer::Unparsed);
    }
    if refuses(said) {
        return Err(NoAnswer::Refused);
    }
    let left = without_echoes(said, policy, text);
    match last(&left, &policy.labels) {
        Err(NoAnswer::Unparsed) => {
            let lower: Vec<Arc<str>> = policy
                .labels
                .iter()
                .map(|label| label.to_lowercase().into())
                .collect();
            let distinct = (1..lower.len()).all(|i| !lower[..i].contains(&lower[i]));
            match distinct && found(&left, &policy.labels).is_empty() {
                true => last(&left.to_lowercase(), &lower),
                false => Err(NoAnswer::Unparsed),
            }
        }
        found => found,
    }
}

fn only(named: &[usize]) -> Result<usize, NoAnswer> {
    match named {
        [index] => Ok(*index),
        [] => Err(NoAnswer::Unparsed),
        _ => Err(NoAnswer::Contradictory),
    }
}

/// The values that may be labels, where the answer is JSON, fenced or not.
fn json(said: &str) -> Option<Vec<String>> {
    let bare = said
        .strip_prefix("```json")
        .or_else(|| said.strip_prefix("```"))
        .and_then(|rest| rest.strip_suffix("```"))
        .unwrap_or(said)
        .trim();
    let value: Value = serde_json::from_str(bare).ok()?;
    let values: Vec<&Value> = match &value {
        Value::Object(all) => {
            let keyed: Vec<&Value> = KEYS.iter().filter_map(|key| all.get(*key)).collect();
            match keyed.is_empty() {
                true => all.values().collect(),
                false => keyed,
            }
        }
        Value::Array(all) => all.iter().collect(),
        one => vec![one],
    };
    let spelled = |value: &&Value| match value {
        Value::String(said) => Some(said.trim().to_owned()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    Some(values.iter().filter_map(spelled).collect())
}

fn refuses(said: &str) -> bool {
    let lower = said.to_lowercase().replace('\u{2019}', "'");
    REFUSALS.iter().any(|begin| {
        let rest = lower.strip_prefix(begin);
        rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    })
}

/// The answer without the text and the policy's lines that name labels or ask for one.
fn without_echoes(said: &str, policy: &PromptPolicy, text: &str) -> String {
    let mut echoes = vec![text.trim()];
    for line in policy.text.lines().map(str::trim) {
        let ahead = line.rfind(':').map(|colon| &line[..=colon]);
        for part in [Some(line), ahead].into_iter().flatten() {
            let labels = found(part, &policy.labels).len();
            if labels > 1 || part.ends_with(':') && labels == 0 || part == line && labels == 1 {
                echoes.push(part);
            }
        }
    }
    // What is a part of a label would cut it.
    let inside = |echo: &str| policy.labels.iter().any(|label| label.contains(echo));
    echoes.retain(|echo| echo.len() >= ECHO_BYTES_MIN && !inside(echo));
    echoes.sort_by_key(|echo| std::cmp::Reverse(echo.len()));
    let mut left = said.to_owned();
    for echo in echoes {
        left = left.replace(echo, "\n");
    }
    left
}

/// The one label in a text, which must be its last word.
fn last(text: &str, labels: &[Arc<str>]) -> Result<usize, NoAnswer> {
    let found = found(text, labels);
    let mut named: Vec<usize> = found.iter().map(|place| place.index).collect();
    named.sort_unstable();
    named.dedup();
    let index = only(&named)?;
    let end = found.last().map_or(0, |place| place.end);
    let ends = !text[end..].contains(char::is_alphanumeric);
    let negated = found.iter().any(|place| is_negated(&text[..place.begin]));
    match ends && !negated {
        true => Ok(index),
        false => Err(NoAnswer::Unparsed),
    }
}

fn is_negated(before: &str) -> bool {
    let trimmed = before.trim_end_matches(|c: char| !c.is_alphanumeric());
    // A sentence or a line that ended says nothing of the next one.
    if before[trimmed.len()..].contains(['.', ':', ';', '\n', '!', '?', '=']) {
        return false;
    }
    let word = trimmed
        .rsplit(|c: char| !c.is_alphanumeric() && c != '\'' && c != '\u{2019}')
        .next()
        .unwrap_or_default()
        .to_lowercase();
    NEGATIONS.contains(&word.as_str()) || word.ends_with("n't") || word.ends_with("n\u{2019}t")
}

struct Place {
    begin: usize,
    end: usize,
    index: usize,
}

/// Where labels stand as words of their own; where several begin, the longest.
fn found(text: &str, labels: &[Arc<str>]) -> Vec<Place> {
    let mut places = Vec::new();
    let mut past = 0;
    for (begin, _) in text.char_indices() {
        if begin < past || joins_before(&text[..begin]) {
            continue;
        }
        let here = |(_, label): &(usize, &Arc<str>)| {
            let rest = text[begin..].strip_prefix(&***label);
            rest.is_some_and(|rest| !joins_behind(rest))
        };
        let all = labels.iter().enumerate().filter(here);
        if let Some((index, label)) = all.max_by_key(|(_, label)| label.len()) {
            past = begin + label.len();
            places.push(Place {
                begin,
                end: past,
                index,
            });
        }
    }
    places
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether a word goes on: `SP2` is not in `SP2.a`, nor `safe` in `un-safe`.
fn joins_behind(rest: &str) -> bool {
    let mut chars = rest.chars();
    match chars.next() {
        Some('.' | '-') => chars.next().is_some_and(is_word),
        next => next.is_some_and(is_word),
    }
}

fn joins_before(before: &str) -> bool {
    let mut chars = before.chars().rev();
    match chars.next() {
        Some('.' | '-') => chars.next().is_some_and(is_word),
        last => last.is_some_and(is_word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NoAnswer::{Contradictory, Refused, Unparsed};

    fn policy(text: &str, labels: &[&str]) -> PromptPolicy {
        PromptPolicy {
            digest: "d".into(),
            text: text.into(),
            labels: labels.iter().map(|&label| label.into()).collect(),
        }
    }

    /// The shapes recorded of gpt-oss-safeguard-20b, in other words: most policies there ended with a line of this form.
    #[test]
    fn recorded_shapes_are_read() {
        let policy = policy(
            "Judge the message.\n\nMessage: [message]\nAnswer (VALID or INVALID): [answer]",
            &["VALID", "INVALID"],
        );
        let text = "Win a prize, this is VALID";
        for (shape, answer, expected) in [
            ("the bare label", "INVALID", Ok(1)),
            ("with space around it", "\n VALID \n", Ok(0)),
            (
                "the closing line with its options",
                "Answer (VALID or INVALID): INVALID",
                Ok(1),
            ),
            ("a short closing line", "Answer: VALID", Ok(0)),
            ("a short closing line in two", "Answer:\nVALID", Ok(0)),
            (
                "an echo of the text and the closing line",
                "Message: Win a prize, this is VALID\nAnswer (VALID or INVALID): INVALID",
                Ok(1),
            ),
            (
                "a bare echo",
                "Win a prize, this is VALID\n\nINVALID",
                Ok(1),
            ),
            ("brackets", "Answer: [INVALID]", Ok(1)),
            ("marks", "**INVALID**.", Ok(1)),
            (
                "a polite refusal",
                "I\u{2019}m sorry, but I can\u{2019}t help with that.",
                Err(Refused),
            ),
            (
                "a refusal with a label",
                "I'm sorry, this is VALID",
                Err(Refused),
            ),
            (
                "a label, an echo, another label",
                "VALID\nWin a prize, this is VALID\nAnswer (VALID or INVALID): INVALID",
                Err(Contradictory),
            ),
            (
                "an answer to the text",
                "Congratulations on the prize!",
                Err(Unparsed),
            ),
            (
                "an echo and no answer",
                "Win a prize, this is VALID",
                Err(Unparsed),
            ),
            ("nothing", " \n", Err(Unparsed)),
            ("both", "VALID or INVALID", Err(Contradictory)),
            ("lower case", "Answer: invalid", Ok(1)),
        ] {
            assert_eq!(read(answer, &policy, text), expected, "{shape}: {answer}");
        }
    }

    #[test]
    fn what_is_no_plain_label_is_never_one() {
        let two = policy(
            "P\n\nAnswer with exactly one of: safe, unsafe.",
            &["safe", "unsafe"],
        );
        for (answer, expected) in [
            ("Not safe.", Err(Unparsed)),
            ("It isn't safe", Err(Unparsed)),
            ("This isn\u{2019}t safe", Err(Unparsed)),
            ("non-safe", Err(Unparsed)),
            ("safe to say that it breaks the rule", Err(Unparsed)),
            ("Is it? No. unsafe", Ok(1)),
            ("The answer is: unsafe", Ok(1)),
            ("Answer with exactly one of: safe, unsafe.\nunsafe", Ok(1)),
            ("safe\nunsafe", Err(Contradictory)),
            ("Sorry state of affairs", Err(Refused)),
            ("failsafe", Err(Unparsed)),
        ] {
            assert_eq!(read(answer, &two, "some text"), expected, "{answer}");
        }
        let codes = policy("P", &["SP0", "SP2", "SP2.a", "violates", "violates badly"]);
        for (answer, text, expected) in [
            ("Label: SP2.a", "x", Ok(2)),
            ("Label: SP2.", "x", Ok(1)),
            ("Label: SP2.b", "x", Err(Unparsed)),
            ("It violates badly", "badly", Ok(4)),
            ("It violates", "x", Ok(3)),
        ] {
            assert_eq!(read(answer, &codes, text), expected, "{answer}");
        }
    }

    #[test]
    fn json_is_read_by_its_values() {
        let two = policy("P", &["0", "1"]);
        for (answer, expected) in [
            (
                r#"{"violation": 1, "policy_category": "H2.c", "confidence": 0}"#,
                Ok(1),
            ),
            (r#"{"label": "0"}"#, Ok(0)),
            ("```json\n{\"label\": \"1\"}\n```", Ok(1)),
            (r#"{"is": "1", "was": "0"}"#, Err(Contradictory)),
            (r#"{"label": "0", "verdict": "1"}"#, Err(Contradictory)),
            (r#"{"label": "2"}"#, Err(Unparsed)),
            (r#"["1"]"#, Ok(1)),
            ("\"1\"", Ok(1)),
            ("{\"confidence\": 1", Err(Unparsed)),
        ] {
            assert_eq!(read(answer, &two, "x"), expected, "{answer}");
        }
    }

    #[test]
    fn a_text_cannot_take_a_label_out_of_an_answer() {
        let two = policy("P", &["allowed", "violates"]);
        for text in ["violates", "late", "v", "", "Answer: violates", "allowed"] {
            let read = read("Answer: violates", &two, text);
            // An answer that is the text and no more is an echo.
            let expected = match text {
                "Answer: violates" => Err(Unparsed),
                _ => Ok(1),
            };
            assert_eq!(read, expected, "{text}");
        }
    }
}
