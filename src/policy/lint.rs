//! What is likely to make a policy judge badly, said before it is published.
//!
//! Takes a policy's source and a closure that counts tokens, gives findings in the order of the file. An error means
//! that verdicts would be wrong or missing; a warning means that they are likely to be worse than they could be. Its
//! readings of the text (stubs, examples, codes) are by shape, so it says what it saw and changes nothing.

use super::parse::{Draft, allowed, draft, label_faults, without_contract};
use super::{Policy, PolicyError, contract, rules};
use crate::config::{POLICY_TOKENS_ADVISED_MAX, POLICY_TOKENS_ADVISED_MIN, POLICY_TOKENS_MAX};
use std::fmt;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Not fit to be published.
    Error,
    /// Can be published; likely to be better once it is mended.
    Warn,
}

/// One thing that lint saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is; names the thing and the limit.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warn => "warning",
        };
        write!(f, "{level}: {}", self.message)
    }
}

/// Findings for a source, usable or not; empty when there is nothing to say. `tokens` counts the tokens of a text as
/// the model does.
pub fn lint(source: &str, tokens: impl Fn(&str) -> usize) -> Vec<Finding> {
    let mut findings = Findings::default();
    match draft(None, source) {
        Err(error) => findings.error(why(error)),
        Ok(draft) => {
            findings.labels(&draft);
            match Policy::parse(source) {
                Ok(policy) => findings.usable(&policy, tokens),
                // Label faults were listed above, all of them; parsing stops at the first.
                Err(error) if findings.0.is_empty() => findings.error(why(error)),
                Err(_) => {}
            }
        }
    }
    findings.0
}

fn why(error: PolicyError) -> String {
    match error {
        PolicyError::Invalid { why, .. } => why,
        other => other.to_string(),
    }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, message: String) {
        self.0.push(Finding {
            level: Level::Error,
            message,
        });
    }

    fn warn(&mut self, message: String) {
        self.0.push(Finding {
            level: Level::Warn,
            message,
        });
    }

    fn labels(&mut self, draft: &Draft) {
        for fault in label_faults(&draft.labels) {
            self.error(fault);
        }
        if let Err(fault) = allowed(&draft.labels) {
            self.error(fault);
        }
        if without_contract(&draft.text).is_empty() {
            self.error("its text is empty".to_owned());
        }
    }

    fn usable(&mut self, policy: &Policy, tokens: impl Fn(&str) -> usize) {
        let body = without_contract(&policy.text);
        self.ending(policy);
        self.outcomes(policy, body);
        self.codes(policy, body);
        if let Some(line) = stub(policy, body) {
            self.error(format!(
                "it ends with the stub \"{line}\", which makes the model repeat the text: remove it"
            ));
        }
        self.length(tokens(&policy.prompt_text()));
        if !has_examples(policy, body) {
            self.warn(
                "it has no examples: four to six near the boundary, of every label, help most"
                    .to_owned(),
            );
        }
    }

    /// The contract that the text ends with must be the one that its labels make.
    fn ending(&mut self, policy: &Policy) {
        if let Some((_, words)) = contract::split(&policy.text)
            && words
                .iter()
                .copied()
                .ne(policy.labels.iter().map(|label| &**label))
        {
            self.error(format!(
                "it ends with a contract for {}, its front matter declares {}",
                words.join(", "),
                policy.labels.join(", ")
            ));
        }
    }

    /// Examples and output lines must name labels that exist.
    fn outcomes(&mut self, policy: &Policy, body: &str) {
        let mut named: Vec<String> = Vec::new();
        for line in body.lines() {
            let Some(word) = outcome(line).and_then(|outcome| undeclared(policy, outcome)) else {
                continue;
            };
            if !named.contains(&word) {
                self.error(format!(
                    "it names the label \"{word}\", which is not declared"
                ));
                named.push(word);
            }
        }
    }

    /// Codes that are declared, defined and named must be the same.
    fn codes(&mut self, policy: &Policy, body: &str) {
        let used = rules::codes_in(body);
        let declared = |code: &str| policy.rules.iter().any(|rule| *rule.code == *code);
        for rule in &policy.rules {
            if rules::cited(std::slice::from_ref(rule), body).is_empty() {
                self.error(format!(
                    "rule {} is declared, but the text never names it",
                    rule.code
                ));
            }
        }
        // SP2 of SP2.a and SP2.b: the level that they stand in.
        let level = |code: &str| {
            let parts = policy
                .rules
                .iter()
                .filter_map(|rule| rule.code.strip_prefix(code));
            parts.into_iter().any(|part| part.starts_with('.'))
        };
        let mut seen: Vec<&str> = Vec::new();
        for code in used {
            if declared(code)
                || level(code)
                || seen.contains(&code)
                || policy.labels.iter().any(|label| &**label == code)
            {
                continue;
            }
            seen.push(code);
            match family(policy, code) {
                Some(Family::Same) => {
                    self.error(format!("the text names rule {code}, which is not declared"))
                }
                Some(Family::Like(rule)) => {
                    self.warn(format!(
                        "the text names {code}, which is not declared: is it rule {rule}?"
                    ));
                }
                None => {}
            }
        }
    }

    fn length(&mut self, tokens: usize) {
        if tokens > POLICY_TOKENS_MAX {
            self.error(format!(
                "it has {tokens} tokens, the limit is {POLICY_TOKENS_MAX}"
            ));
        } else if tokens > POLICY_TOKENS_ADVISED_MAX {
            self.warn(format!(
                "it has {tokens} tokens, more than {POLICY_TOKENS_ADVISED_MAX}: several shorter policies judge better"
            ));
        } else if tokens < POLICY_TOKENS_ADVISED_MIN {
            self.warn(format!(
                "it has {tokens} tokens, fewer than {POLICY_TOKENS_ADVISED_MIN}: it may say too little to judge by"
            ));
        }
    }
}

enum Family {
    /// The letters of a declared rule.
    Same,
    /// The number of this declared rule, and letters that begin alike (SP2 and S2).
    Like(String),
}

fn family(policy: &Policy, code: &str) -> Option<Family> {
    let parts = |code: &str| {
        let at = code
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(code.len());
        (code[..at].to_owned(), code[at..].to_owned())
    };
    let (letters, number) = parts(code);
    let rules: Vec<_> = policy
        .rules
        .iter()
        .map(|rule| (&rule.code, parts(&rule.code)))
        .collect();
    if rules.iter().any(|(_, (own, _))| *own == letters) {
        return Some(Family::Same);
    }
    rules
        .iter()
        .find(|(_, (own, digits))| {
            *digits == number && (own.starts_with(&letters) || letters.starts_with(own.as_str()))
        })
        .map(|(rule, _)| Family::Like(rule.to_string()))
}

/// What a line says the outcome is: after an arrow that follows a quoted text, or after `Label:` and the like.
fn outcome(line: &str) -> Option<&str> {
    for arrow in ["->", "=>", "→", "⇒"] {
        if let Some((before, after)) = line.rsplit_once(arrow)
            && before.trim_end().ends_with(['"', '\'', '”', '’', '`', '»'])
        {
            return Some(after);
        }
    }
    let (head, after) = heading(line)?;
    ANSWERS.contains(&&*head).then_some(after)
}

/// The first word of an outcome when no label, rule code or list of choices stands there.
fn undeclared(policy: &Policy, outcome: &str) -> Option<String> {
    let trimmed = outcome.trim_matches(|c: char| !c.is_alphanumeric());
    let lower = trimmed.to_lowercase();
    let known = |label: &str| {
        lower
            .strip_prefix(&label.to_lowercase())
            .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    if trimmed.is_empty()
        || is_placeholder(outcome.trim())
        || policy.labels.iter().any(|label| known(label))
    {
        return None;
    }
    if policy.rules.iter().any(|rule| known(&rule.code)) {
        return None;
    }
    let mut words = trimmed.split_whitespace();
    let first = words.next()?.trim_matches(|c: char| !c.is_alphanumeric());
    // A sentence is prose about the answer, not an answer.
    (words.count() < 3).then(|| first.to_owned())
}

const TEXTS: &[&str] = &[
    "content",
    "text",
    "message",
    "input",
    "post",
    "comment",
    "content to classify",
];
const ANSWERS: &[&str] = &[
    "answer",
    "label",
    "output",
    "classification",
    "verdict",
    "response",
    "your answer",
];

/// The last line, when it is a slot for the text or for the answer.
fn stub<'a>(policy: &Policy, body: &'a str) -> Option<&'a str> {
    let line = body
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())?
        .trim();
    let (head, after) = heading(line)?;
    let open = after.trim().is_empty() || is_placeholder(after.trim());
    let choices = || {
        let words: Vec<&str> = after
            .split(['/', '|', ' '])
            .filter(|word| !matches!(*word, "" | "or"))
            .collect();
        words.len() > 1
            && words.iter().all(|word| {
                policy
                    .labels
                    .iter()
                    .any(|label| label.eq_ignore_ascii_case(word))
            })
    };
    let slot = TEXTS.contains(&&*head) || ANSWERS.contains(&&*head);
    (slot && (open || choices())).then_some(line)
}

/// The lower-case words before a line's colon, without list marks and a note in brackets, and what follows the colon.
fn heading(line: &str) -> Option<(String, &str)> {
    let marks = |c: char| matches!(c, '*' | '#' | '-' | '>' | '_' | '`') || c.is_whitespace();
    let (head, after) = line.split_once(':')?;
    let head = head
        .split(['(', '['])
        .next()
        .unwrap_or(head)
        .trim_matches(marks);
    Some((
        head.to_lowercase(),
        after.trim_start_matches(marks).trim_end(),
    ))
}

fn is_placeholder(word: &str) -> bool {
    [('{', '}'), ('[', ']'), ('<', '>'), ('(', ')')]
        .iter()
        .any(|(open, close)| word.starts_with(*open) && word.ends_with(*close))
}

fn has_examples(policy: &Policy, body: &str) -> bool {
    let lower = body.to_lowercase();
    let says = lower
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| matches!(word, "example" | "examples"));
    says || body.lines().any(|line| {
        outcome(line)
            .is_some_and(|word| !word.trim().is_empty() && undeclared(policy, word).is_none())
    })
}

#[cfg(test)]
#[path = "lint_tests.rs"]
mod tests;
