//! Rules: the numbered clauses of a policy.
//!
//! Takes a policy's text and gives the rules it defines (`- H1: ..`, `K1: violates if ..`, `H2.c (violates): ..`, a line
//! `SP2.a Cold promotion ..`), or
//! a rationale and gives the codes it names, or two policies and gives the rules that differ. A code is found by its
//! shape only; what a clause means is the model's business.

use super::Policy;
use crate::config::POLICY_RULE_CODE_BYTES_MAX;
use std::cmp::Reverse;
use std::sync::Arc;

/// A numbered clause of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Such as `H1`, `SP0`, `H2.c`.
    pub code: Arc<str>,
    /// What it says, on one line; may be empty when the front matter gives the code alone.
    pub clause: String,
}

/// Whether a front matter may declare this code: a letter first, a digit somewhere, nothing but letters, digits, `.`,
/// `_` and `-`. Without a digit a code could be a word of any rationale.
pub(super) fn is_code(code: &str) -> bool {
    code.len() <= POLICY_RULE_CODE_BYTES_MAX
        && code.starts_with(|c: char| c.is_ascii_alphabetic())
        && code.ends_with(|c: char| c.is_ascii_alphanumeric())
        && code.contains(|c: char| c.is_ascii_digit())
        && code
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// Rules that a text defines: a code at the start of a line or sentence, then a colon. The first definition counts.
pub(super) fn defined_in(text: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for line in text.lines() {
        let heads = definitions(line);
        for (index, head) in heads.iter().enumerate() {
            let end = heads.get(index + 1).map_or(line.len(), |next| next.start);
            if rules.iter().all(|rule| *rule.code != *head.code) {
                let clause = line[head.clause..end].trim().to_owned();
                rules.push(Rule {
                    code: Arc::from(head.code),
                    clause,
                });
            }
        }
    }
    rules
}

/// Words of a text that are shaped like a rule's code, in order, with repeats.
pub(super) fn codes_in(text: &str) -> Vec<&str> {
    let mut codes = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if word_starts(text, at) {
            let length = code_length(&text.as_bytes()[at..]);
            if length > 0 {
                codes.push(&text[at..at + length]);
                at += length;
                continue;
            }
        }
        at += 1;
    }
    codes
}

/// Codes of `rules` that a rationale names as whole words, in the order of `rules`.
pub(super) fn cited(rules: &[Rule], rationale: &str) -> Vec<Arc<str>> {
    // Longest first, so that D-SP2 is not read as SP2.
    let mut order: Vec<usize> = (0..rules.len()).collect();
    order.sort_by_key(|&rule| Reverse(rules[rule].code.len()));
    let mut named = vec![false; rules.len()];
    let mut at = 0;
    while at < rationale.len() {
        let found = order.iter().find(|&&rule| {
            word_starts(rationale, at)
                && rationale.as_bytes()[at..].starts_with(rules[rule].code.as_bytes())
                && word_ends(rationale, at + rules[rule].code.len())
        });
        match found {
            Some(&rule) => {
                named[rule] = true;
                at += rules[rule].code.len();
            }
            None => at += 1,
        }
    }
    rules
        .iter()
        .zip(named)
        .filter(|(_, named)| *named)
        .map(|(rule, _)| Arc::clone(&rule.code))
        .collect()
}

/// Rules that differ between two policies, by code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedRules {
    /// Only the new policy has them; in its order.
    pub added: Vec<Rule>,
    /// Only the old policy has them; in its order.
    pub removed: Vec<Rule>,
    /// Both have them and say different things, old first; in the new one's order.
    pub reworded: Vec<(Rule, Rule)>,
    /// Whether something beside the rules differs: text around them, labels, which of these is allowed. Then a verdict
    /// that cites no changed rule can be another one too.
    pub rest: bool,
}

impl ChangedRules {
    /// The codes, of all three kinds, each once.
    pub fn codes(&self) -> impl Iterator<Item = &Arc<str>> {
        let reworded = self.reworded.iter().map(|(_, new)| &new.code);
        let others = self.added.iter().chain(&self.removed);
        reworded.chain(others.map(|rule| &rule.code))
    }

    /// Whether the rules are the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.reworded.is_empty()
    }
}

/// What changed between two policies, rule by rule, as the model reads them: a clause of the text counts before one of the
/// front matter. Clauses are compared but for their white space; a clause ends with its line; a rule that was given
/// another code was removed and added.
pub fn changed_rules(old: &Policy, new: &Policy) -> ChangedRules {
    let ((old_rules, old_rest), (new_rules, new_rest)) = (read(old), read(new));
    let find =
        |rules: &[(Rule, &str)], code: &str| rules.iter().position(|(rule, _)| *rule.code == *code);
    let mut changed = ChangedRules {
        rest: old_rest != new_rest || old.labels != new.labels || old.allowed != new.allowed,
        ..ChangedRules::default()
    };
    for (rule, note) in &new_rules {
        let Some(at) = find(&old_rules, &rule.code) else {
            changed.added.push(rule.clone());
            continue;
        };
        let (before, note_before) = &old_rules[at];
        if words(&before.clause) != words(&rule.clause) || words(note_before) != words(note) {
            changed.reworded.push((before.clone(), rule.clone()));
        }
    }
    let gone = old_rules
        .into_iter()
        .filter(|(rule, _)| find(&new_rules, &rule.code).is_none());
    changed.removed = gone.map(|(rule, _)| rule).collect();
    changed
}

fn words(clause: &str) -> Vec<&str> {
    clause.split_whitespace().collect()
}

/// A policy's rules, each with what stands between its code and its clause, and the words of its text that belong to
/// none: marks of lists do not count.
fn read(policy: &Policy) -> (Vec<(Rule, &str)>, Vec<&str>) {
    let mut rules: Vec<(Rule, &str)> = Vec::new();
    let mut rest = Vec::new();
    for line in policy.text.lines() {
        let heads = definitions(line);
        let first = heads.first().map_or(line.len(), |head| head.start);
        rest.extend(words(&line[..first]));
        for (index, head) in heads.iter().enumerate() {
            let end = heads.get(index + 1).map_or(line.len(), |next| next.start);
            if rules.iter().any(|(rule, _)| *rule.code == *head.code) {
                rest.extend(words(&line[head.start..end]));
                continue;
            }
            let rule = Rule {
                code: Arc::from(head.code),
                clause: line[head.clause..end].trim().to_owned(),
            };
            rules.push((rule, &line[head.start + head.code.len()..head.clause]));
        }
    }
    for rule in &policy.rules {
        if rules.iter().all(|(known, _)| known.code != rule.code) {
            rules.push((rule.clone(), ""));
        }
    }
    rest.retain(|word| word.contains(char::is_alphanumeric));
    (rules, rest)
}

struct Definition<'a> {
    code: &'a str,
    start: usize,
    clause: usize,
}

fn definitions(line: &str) -> Vec<Definition<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < line.len() {
        let length = if word_starts(line, at) {
            code_length(&line.as_bytes()[at..])
        } else {
            0
        };
        if length == 0 {
            at += 1;
            continue;
        }
        let end = at + length;
        if sentence_starts(&line[..at])
            && let Some(clause) = after_colon(&line[end..])
                .or_else(|| titled(&line[..at], &line[at..end], &line[end..]))
        {
            found.push(Definition {
                code: &line[at..end],
                start: at,
                clause: end + clause,
            });
        }
        at = end;
    }
    found
}

/// Whether what stands before a code leaves it at the start of a line, list item or sentence.
fn sentence_starts(before: &str) -> bool {
    let marks: &[char] = &['-', '*', '#', '>', '•', '`', '_', ' ', '\t', '(', '['];
    before
        .trim_end_matches(marks)
        .chars()
        .next_back()
        .is_none_or(|last| matches!(last, '.' | ';' | ':' | '!' | '?'))
}

/// Where the clause begins after a code: past its closing marks, an optional note in brackets, and a colon.
fn after_colon(rest: &str) -> Option<usize> {
    let closings: &[char] = &['*', '`', '_', ')', ']'];
    let mut tail = rest.trim_start_matches(closings);
    if let Some(note) = tail.trim_start().strip_prefix('(') {
        tail = note[note.find(')')? + 1..].trim_start_matches(closings);
    }
    let tail = tail.strip_prefix(':')?.trim_start_matches(closings);
    Some(rest.len() - tail.len())
}

/// Where the clause begins after a code with a part (`SP2.a`) that is the first of its line and is followed by a title
/// instead of a colon. A code without a part, or before a small letter, is as likely to be spoken of as defined.
fn titled(before: &str, code: &str, rest: &str) -> Option<usize> {
    let first = before.chars().all(|c| !c.is_alphanumeric());
    let title = rest.strip_prefix(' ')?.trim_start();
    let shaped = code.contains('.') && title.starts_with(char::is_uppercase);
    (first && shaped).then(|| rest.len() - title.len())
}

/// Length of the code at the front: capital letters, digits, then parts such as `.c`. 0 where there is none.
fn code_length(bytes: &[u8]) -> usize {
    let run = |from: usize, wanted: fn(&u8) -> bool| {
        bytes[from..].iter().take_while(|byte| wanted(byte)).count()
    };
    let letters = run(0, u8::is_ascii_uppercase);
    let digits = run(letters, u8::is_ascii_digit);
    let mut length = letters + digits;
    let ends = |at: usize| {
        bytes
            .get(at)
            .is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_')
    };
    if !(1..=8).contains(&letters) || !(1..=3).contains(&digits) || !ends(length) {
        return 0;
    }
    while bytes.get(length) == Some(&b'.') {
        let part = run(length + 1, |byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit()
        });
        if !(1..=2).contains(&part) || !ends(length + 1 + part) {
            break;
        }
        length += 1 + part;
    }
    if length > POLICY_RULE_CODE_BYTES_MAX {
        0
    } else {
        length
    }
}

fn word_starts(text: &str, at: usize) -> bool {
    text.is_char_boundary(at)
        && text[..at]
            .chars()
            .next_back()
            .is_none_or(|before| !joins(before))
}

fn word_ends(text: &str, at: usize) -> bool {
    let mut after = text[at..].chars();
    match after.next() {
        // H2 is no citation in H2.c, but is one at the end of a sentence.
        Some('.') => after
            .next()
            .is_none_or(|next| !next.is_ascii_lowercase() && !next.is_ascii_digit()),
        Some(next) => !joins(next),
        None => true,
    }
}

fn joins(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_rules_a_text_defines() {
        let cases: [(&str, &[(&str, &str)]); 10] = [
            ("no rules here", &[]),
            (
                "- H1: insults.\n- H2: threats.",
                &[("H1", "insults."), ("H2", "threats.")],
            ),
            (
                "K1: violates if a, b; everything else is allowed. A1: mentions of c are allowed.",
                &[
                    ("K1", "violates if a, b; everything else is allowed."),
                    ("A1", "mentions of c are allowed."),
                ],
            ),
            (
                "## **H2.c** (violates): identity attack",
                &[("H2.c", "identity attack")],
            ),
            ("**HR1:** bullies", &[("HR1", "bullies")]),
            ("true when: H1: a H2: b", &[("H1", "a H2: b")]),
            ("- H1: first\n- H1: again", &[("H1", "first")]),
            (
                "see H1: nothing\nratio 3:1, at 10H1: no, Ä1: no, é H1x: no",
                &[],
            ),
            (
                "1) text\nSP0 : no colon at once\nTVEC6: yes",
                &[("TVEC6", "yes")],
            ),
            (
                "SP2.a Cold promotion – “look”\n- SP2.b Ads: buy\nSP2.c if it links\nas SP2.d Says\nSP3 High",
                &[("SP2.a", "Cold promotion – “look”"), ("SP2.b", "Ads: buy")],
            ),
        ];
        for (text, wanted) in cases {
            let found = defined_in(text);
            let found: Vec<(&str, &str)> = found
                .iter()
                .map(|rule| (&*rule.code, &*rule.clause))
                .collect();
            assert_eq!(found, wanted, "{text:?}");
        }
    }

    #[test]
    fn tells_which_rules_changed() {
        let policy = |text: &str| {
            Policy::parse(&format!("---\nlabels: [allowed, bad]\n---\n{text}")).unwrap()
        };
        let old = "Find it.\n- H1: insults.\n- H2: threats,  of any kind.\n- H3: mockery.";
        // A new text; the codes added, removed and reworded; whether anything else changed.
        type Case = (
            &'static str,
            &'static [&'static str],
            &'static [&'static str],
            &'static [&'static str],
            bool,
        );
        let cases: [Case; 10] = [
            (
                "Find it.\n- H1 (allowed): insults.\n- H2: threats, of any kind.\n- H3: mockery.",
                &[],
                &[],
                &["H1"],
                false,
            ),
            (
                "Find it.\n- H1: insults.\n- H1: more.\n- H2: threats, of any kind.\n- H3: mockery.",
                &[],
                &[],
                &[],
                true,
            ),
            (old, &[], &[], &[], false),
            (
                "Find it.\n- H1: insults.\n- H2: threats, of any kind.\n- H3: mockery.",
                &[],
                &[],
                &[],
                false,
            ),
            (
                "Find it.\n- H1: insults, slurs.\n- H2: threats, of any kind.\n- H3: mockery.",
                &[],
                &[],
                &["H1"],
                false,
            ),
            (
                "Find it.\n- H1: insults.\n- H3: mockery.",
                &[],
                &["H2"],
                &[],
                false,
            ),
            (
                "Find it.\n- H1: insults.\n- H2: threats, of any kind.\n- H3: mockery.\n- H4: lies.",
                &["H4"],
                &[],
                &[],
                false,
            ),
            (
                "Find it.\n- H1: insults.\n- H2: threats, of any kind.\n- H5: mockery.",
                &["H5"],
                &["H3"],
                &[],
                false,
            ),
            (
                "Find all of it.\n- H1: insults.\n- H2: threats, of any kind.\n- H3: mockery.",
                &[],
                &[],
                &[],
                true,
            ),
            (
                "Find it.\n- H3: mockery.\n- H2: threats, of any kind.\n- H1: insults.",
                &[],
                &[],
                &[],
                false,
            ),
        ];
        for (new, added, removed, reworded, rest) in cases {
            let changed = changed_rules(&policy(old), &policy(new));
            let codes = |rules: &[Rule]| -> Vec<String> {
                rules.iter().map(|rule| rule.code.to_string()).collect()
            };
            assert_eq!(codes(&changed.added), added, "{new}");
            assert_eq!(codes(&changed.removed), removed, "{new}");
            let new_ones: Vec<Rule> = changed
                .reworded
                .iter()
                .map(|(_, new)| new.clone())
                .collect();
            assert_eq!(codes(&new_ones), reworded, "{new}");
            assert_eq!(changed.rest, rest, "{new}");
            let all = added.len() + removed.len() + reworded.len();
            assert_eq!(changed.codes().count(), all);
            assert_eq!(changed.is_empty(), all == 0);
        }
        let relabelled = Policy::parse("---\nlabels: [bad, allowed]\n---\nH1: a").unwrap();
        assert!(changed_rules(&policy("H1: a"), &relabelled).rest);
    }

    #[test]
    fn cites_whole_words_in_the_policys_order() {
        let rules: Vec<Rule> = ["H0", "H1", "H2", "H2.c", "SP2", "D-SP2"]
            .into_iter()
            .map(|code| Rule {
                code: Arc::from(code),
                clause: String::new(),
            })
            .collect();
        let cases: [(&str, &[&str]); 11] = [
            ("", &[]),
            ("H2 and H1, then H2 again.", &["H1", "H2"]),
            ("It breaks H2.c.", &["H2.c"]),
            ("It breaks H2. Clearly.", &["H2"]),
            ("It breaks H2.d", &[]),
            ("H12 xH1 H1x _H1 h1", &[]),
            ("(H1), \"H2\"; H0: fine", &["H0", "H1", "H2"]),
            ("H1/H2", &["H1", "H2"]),
            ("D-SP2", &["D-SP2"]),
            ("R-SP2", &["SP2"]),
            ("naïve H1… é", &["H1"]),
        ];
        for (rationale, wanted) in cases {
            let found = cited(&rules, rationale);
            assert_eq!(
                found.iter().map(|code| &**code).collect::<Vec<_>>(),
                wanted,
                "{rationale:?}"
            );
        }
    }

    #[test]
    fn knows_a_code_by_its_shape() {
        for (code, wanted) in [
            ("H1", true),
            ("H2.c", true),
            ("D-SP2", true),
            ("rule_3", true),
            ("H", false),
            ("1H", false),
            ("H1.", false),
            ("H 1", false),
            ("", false),
        ] {
            assert_eq!(is_code(code), wanted, "{code:?}");
        }
        assert_eq!(
            codes_in("D-SP2 then (H2.c), H3. COVID-19 a H1234 B2B"),
            ["SP2", "H2.c", "H3"]
        );
    }
}
