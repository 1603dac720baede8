//! From a policy's source to a [`Policy`].
//!
//! Takes the bytes of a policy file or an inline text. YAML front matter between `---` lines declares name, title,
//! labels, rules, thresholds, screen, languages, owner and provenance, and nothing else; a source without it must end with the contract. Refuses what
//! could not be judged under: labels that cannot be told apart or written into the contract, an empty text.

use super::{INLINE, Policy, PolicyError, Rule, ScreenUse, contract, rules, thresholds};
use crate::config::{
    POLICY_BYTES_MAX, POLICY_LABEL_BYTES_MAX, POLICY_LABELS_MAX, POLICY_NAME_BYTES_MAX,
    POLICY_RULE_CODE_BYTES_MAX, POLICY_RULES_MAX,
};
use serde::Deserialize;
use serde_norway::Value;
use std::sync::Arc;

/// The front matter, as typed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Front {
    name: Option<String>,
    title: Option<String>,
    labels: Option<Vec<Value>>,
    rules: Option<Value>,
    thresholds: Option<Value>,
    screen: Option<String>,
    #[serde(default)]
    languages: Vec<String>,
    owner: Option<String>,
    provenance: Option<String>,
}

/// A label as declared: its word, and whether it is marked as the allowed one.
pub(super) struct Declared {
    pub(super) word: String,
    pub(super) allowed: bool,
}

/// What is known of a source before its labels are checked; lint wants all faults, not the first.
pub(super) struct Draft {
    pub(super) name: Arc<str>,
    front: Front,
    pub(super) labels: Vec<Declared>,
    pub(super) text: String,
}

pub(super) fn parse(name: Option<&str>, source: &str) -> Result<Policy, PolicyError> {
    let draft = draft(name, source)?;
    let invalid = |why: String| PolicyError::invalid(&*draft.name, why);
    if let Some(fault) = label_faults(&draft.labels).into_iter().next() {
        return Err(invalid(fault));
    }
    let allowed = allowed(&draft.labels).map_err(invalid)?;
    if without_contract(&draft.text).is_empty() {
        return Err(invalid("its text is empty".to_owned()));
    }
    let rules = match &draft.front.rules {
        Some(declared) => declared_rules(declared).map_err(invalid)?,
        None => rules::defined_in(&draft.text),
    };
    let thresholds = match &draft.front.thresholds {
        Some(declared) => {
            let labels: Vec<&str> = draft.labels.iter().map(|label| &*label.word).collect();
            thresholds::declared(declared, &labels).map_err(invalid)?
        }
        None => Vec::new(),
    };
    let screen = screen_use(draft.front.screen.as_deref()).map_err(invalid)?;
    Ok(Policy {
        thresholds,
        screen,
        title: draft.front.title.unwrap_or_else(|| draft.name.to_string()),
        name: draft.name,
        labels: draft
            .labels
            .iter()
            .map(|label| Arc::from(&*label.word))
            .collect(),
        allowed,
        rules,
        languages: draft.front.languages,
        owner: draft.front.owner,
        provenance: draft.front.provenance,
        text: draft.text,
        source: source.to_owned(),
    })
}

/// What the front matter lets a screen do.
fn screen_use(said: Option<&str>) -> Result<ScreenUse, String> {
    match said {
        None | Some("clear") => Ok(ScreenUse::Clear),
        Some("convict") => Ok(ScreenUse::Convict),
        Some("never") => Ok(ScreenUse::Never),
        Some(other) => Err(format!(
            "front matter: screen: \"{}\" is not one of: never, clear, convict",
            other.escape_debug()
        )),
    }
}

/// Splits and reads a source without judging its labels.
pub(super) fn draft(name: Option<&str>, source: &str) -> Result<Draft, PolicyError> {
    let called = name.unwrap_or(INLINE);
    let invalid = |why: String| PolicyError::invalid(called, why);
    if source.len() > POLICY_BYTES_MAX {
        return Err(invalid(format!(
            "{} bytes, the limit is {POLICY_BYTES_MAX}",
            source.len()
        )));
    }
    // No database keeps it in a text.
    if let Some(place) = source.find('\0') {
        return Err(invalid(format!("character U+0000 at byte {}", place + 1)));
    }
    let unix = source
        .strip_prefix('\u{feff}')
        .unwrap_or(source)
        .replace("\r\n", "\n");
    let (front, text) = match split_front(&unix).map_err(invalid)? {
        Some((yaml, text)) => {
            // The line of `---` goes first, so that the YAML reader counts the file's lines.
            let front: Option<Front> = serde_norway::from_str(&format!("\n{yaml}"))
                .map_err(|error| invalid(format!("front matter: {error}")))?;
            (front.unwrap_or_default(), text)
        }
        None => (Front::default(), &*unix),
    };
    let called = name.or(front.name.as_deref()).unwrap_or(INLINE);
    let invalid = |why: String| PolicyError::invalid(called, why);
    let text = text.trim_matches('\n').to_owned();
    let labels = match &front.labels {
        Some(labels) => labels
            .iter()
            .map(declared_label)
            .collect::<Result<_, _>>()
            .map_err(invalid)?,
        None => match contract::split(&text) {
            Some((_, labels)) => labels
                .into_iter()
                .map(|word| Declared {
                    word: word.to_owned(),
                    allowed: false,
                })
                .collect(),
            None => return Err(invalid(no_labels())),
        },
    };
    let name = match (name, &front.name) {
        (Some(place), Some(own)) if place != own => {
            return Err(invalid(format!("its front matter names it \"{own}\"")));
        }
        (Some(place), _) => check_name(place).map(|()| place)?,
        (None, Some(own)) => check_name(own).map(|()| &**own)?,
        (None, None) => INLINE,
    };
    Ok(Draft {
        name: Arc::from(name),
        labels,
        text,
        front,
    })
}

/// Whether a policy may be registered under this name.
pub(super) fn check_name(name: &str) -> Result<(), PolicyError> {
    let shaped = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
    let why = if name == INLINE {
        format!("the name \"{INLINE}\" is kept for texts that are not registered")
    } else if name.len() > POLICY_NAME_BYTES_MAX {
        format!(
            "its name has {} bytes, the limit is {POLICY_NAME_BYTES_MAX}",
            name.len()
        )
    } else if !shaped {
        "a name is a lower-case letter, then lower-case letters, digits, - and _".to_owned()
    } else {
        return Ok(());
    };
    Err(PolicyError::invalid(name, why))
}

/// A text without the contract it may end with.
pub(super) fn without_contract(text: &str) -> &str {
    contract::split(text).map_or(text, |(body, _)| body).trim()
}

/// Everything wrong with labels apart from which one is allowed.
pub(super) fn label_faults(labels: &[Declared]) -> Vec<String> {
    let mut faults = Vec::new();
    if labels.len() < 2 {
        faults.push(format!(
            "{} label declared, at least two are needed",
            labels.len()
        ));
    }
    if labels.len() > POLICY_LABELS_MAX {
        faults.push(format!(
            "{} labels declared, the limit is {POLICY_LABELS_MAX}",
            labels.len()
        ));
    }
    for (index, Declared { word, .. }) in labels.iter().enumerate() {
        let shown = word.escape_debug();
        if word.trim().is_empty() {
            faults.push(format!("label {} is empty", index + 1));
        } else if word.trim() != word {
            faults.push(format!("label \"{shown}\" begins or ends with white space"));
        }
        if word.contains(|c: char| c == ',' || c.is_control()) {
            faults.push(format!(
                "label \"{shown}\" holds a comma or a control character"
            ));
        }
        if word.len() > POLICY_LABEL_BYTES_MAX {
            faults.push(format!(
                "label \"{shown}\" has {} bytes, the limit is {POLICY_LABEL_BYTES_MAX}",
                word.len()
            ));
        }
        if word.to_lowercase() == "undecided" {
            faults.push(
                "label \"undecided\" is declared; it is kept for texts without a verdict"
                    .to_owned(),
            );
        }
        if labels[..index]
            .iter()
            .any(|other| other.word.to_lowercase() == word.to_lowercase())
        {
            faults.push(format!("label \"{shown}\" is declared twice"));
        }
    }
    faults
}

/// Which label is the allowed one: the one marked, else the one called so.
pub(super) fn allowed(labels: &[Declared]) -> Result<usize, String> {
    let indices = |wanted: &dyn Fn(&Declared) -> bool| -> Vec<usize> {
        labels
            .iter()
            .enumerate()
            .filter(|(_, label)| wanted(label))
            .map(|(index, _)| index)
            .collect()
    };
    let words = |found: &[usize]| {
        found
            .iter()
            .map(|&index| format!("\"{}\"", labels[index].word))
            .collect::<Vec<_>>()
            .join(" and ")
    };
    match indices(&|label| label.allowed)[..] {
        [one] => return Ok(one),
        [] => {}
        ref many => {
            return Err(format!(
                "more than one label is marked as allowed: {}",
                words(many)
            ));
        }
    }
    if let [one, ..] = indices(&|label| label.word == "allowed")[..] {
        return Ok(one);
    }
    match indices(&|label| matches!(&*label.word.to_lowercase(), "allowed" | "safe" | "valid"))[..] {
        [one] => Ok(one),
        [] => Err(
            "none of its labels is the allowed one: call it allowed, or mark it in the front matter as {name: .., allowed: true}"
                .to_owned(),
        ),
        ref many => Err(format!("which of its labels is the allowed one, {}: mark it in the front matter", words(many))),
    }
}

fn no_labels() -> String {
    let example = contract::sentence(&[Arc::from("allowed"), Arc::from("violates")]);
    format!(
        "it declares no labels: begin it with front matter (a line ---, labels: [allowed, violates], a line ---) or end it with \"{example}\""
    )
}

/// The YAML between `---` lines and the text after them; `None` when the source does not begin with `---`.
fn split_front(source: &str) -> Result<Option<(&str, &str)>, String> {
    let is_fence = |line: &str| line.trim_end() == "---";
    let mut lines = source.split_inclusive('\n');
    let Some(first) = lines.next().filter(|line| is_fence(line)) else {
        return Ok(None);
    };
    let mut end = first.len();
    for line in lines {
        if is_fence(line) {
            return Ok(Some((
                &source[first.len()..end],
                &source[end + line.len()..],
            )));
        }
        end += line.len();
    }
    Err("its front matter is not closed with a line ---".to_owned())
}

fn declared_label(value: &Value) -> Result<Declared, String> {
    let shape = "front matter: labels: each is a word or {name: .., allowed: true}";
    match value {
        Value::String(word) => Ok(Declared {
            word: word.clone(),
            allowed: false,
        }),
        Value::Number(number) => Err(format!(
            "front matter: labels: write {number} in quotation marks"
        )),
        Value::Bool(word) => Err(format!(
            "front matter: labels: write {word} in quotation marks"
        )),
        Value::Mapping(fields) => {
            let mut label = Declared {
                word: String::new(),
                allowed: false,
            };
            for (key, value) in fields {
                match (key.as_str(), value) {
                    (Some("name"), Value::String(word)) => label.word = word.clone(),
                    (Some("allowed"), Value::Bool(allowed)) => label.allowed = *allowed,
                    (Some("name" | "allowed") | None, _) => return Err(shape.to_owned()),
                    (Some(other), _) => {
                        return Err(format!("front matter: labels: unknown key \"{other}\""));
                    }
                }
            }
            Ok(label)
        }
        _ => Err(shape.to_owned()),
    }
}

/// `rules` as a map of code to clause, or a list of such maps of one.
fn declared_rules(declared: &Value) -> Result<Vec<Rule>, String> {
    let shape = || "front matter: rules: write code: clause".to_owned();
    let pairs: Vec<(&Value, &Value)> = match declared {
        Value::Mapping(map) => map.iter().collect(),
        Value::Sequence(list) => list
            .iter()
            .map(|item| match item {
                Value::Mapping(map) if map.len() == 1 => map.iter().next().ok_or_else(shape),
                _ => Err(shape()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(shape()),
    };
    if pairs.len() > POLICY_RULES_MAX {
        return Err(format!(
            "{} rules, the limit is {POLICY_RULES_MAX}",
            pairs.len()
        ));
    }
    let mut rules: Vec<Rule> = Vec::with_capacity(pairs.len());
    for (code, clause) in pairs {
        let code = code.as_str().ok_or_else(shape)?;
        let clause = match clause {
            Value::String(clause) => clause.split_whitespace().collect::<Vec<_>>().join(" "),
            Value::Null => String::new(),
            _ => return Err(shape()),
        };
        if !rules::is_code(code) {
            return Err(format!(
                "rule code \"{}\" is not a letter, then letters and digits with at least one digit (H1, H2.c), within {POLICY_RULE_CODE_BYTES_MAX} bytes",
                code.escape_debug()
            ));
        }
        if rules.iter().any(|rule| *rule.code == *code) {
            return Err(format!("rule {code} is declared twice"));
        }
        rules.push(Rule {
            code: Arc::from(code),
            clause,
        });
    }
    Ok(rules)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
