//! Policies: texts that define labels, their versions and their golden sets.
//!
//! Takes policy files (YAML front matter, then the text the model reads) or bare texts that end with the contract;
//! gives a [`Policy`], the words for the prompt, its digest, lint findings, golden rows, and a [`Registry`] that turns
//! what SQL names into one [`Version`]. It reads a folder of policies and no other disk, counts tokens only through a
//! closure it is handed, and knows nothing of models, SQL, verdicts or how versions are kept.
//!
//! A policy's digest covers what can change a verdict: the model's text and the labels with the allowed one marked.
//! Edits of title, rules, thresholds, screen, languages, owner or provenance in the front matter make no new version.

mod contract;
mod error;
pub mod folder;
pub mod golden;
pub mod import;
pub mod lint;
mod parse;
mod registry;
mod rules;
mod thresholds;

pub use contract::CONTRACT_VERSION;
pub use error::PolicyError;
pub use registry::{Published, Registry, Version};
pub use rules::{ChangedRules, Rule, changed_rules};
pub use thresholds::{Figure, Threshold};

use std::sync::Arc;

/// The name of a policy that was given as a text and not registered.
pub const INLINE: &str = "inline";

/// A text that defines labels, with what its front matter says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Lower-case letters, digits, `-` and `_`; [`INLINE`] where the source gives none.
    pub name: Arc<str>,
    /// For people; the name where the source gives none.
    pub title: String,
    /// At least two, distinct whatever their case, in the order of the contract.
    pub labels: Vec<Arc<str>>,
    /// Index in `labels` of the one that does not violate.
    pub allowed: usize,
    /// Numbered clauses in the source's order; from the front matter, else found in the text.
    pub rules: Vec<Rule>,
    /// What its golden set must show, before it is trusted: figures that a test of the policy checks.
    pub thresholds: Vec<Threshold>,
    /// What a screen may do before the model is asked.
    pub screen: ScreenUse,
    /// Languages (ISO 639-1) it was written and tested for; empty when not said.
    pub languages: Vec<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Where it came from, where somebody else wrote it.
    pub provenance: Option<String>,
    /// What the model reads before the contract: no front matter, `\n` line ends, no leading or trailing newlines.
    pub text: String,
    /// As typed, front matter included.
    pub source: String,
}

/// What a certified screen may do with a text under a policy. Whether one is certified is the store's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScreenUse {
    /// Nothing: every text goes to the model.
    Never,
    /// Clear it, or pass it on.
    #[default]
    Clear,
    /// Clear or convict it, or pass it on. Convicts only under a policy with one label that violates.
    Convict,
}

impl Policy {
    /// Reads a policy file or an inline text. A source without front matter must end with the contract, which then
    /// declares the labels; its name is [`INLINE`].
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] with what is wrong: unknown front matter keys, unusable labels, an empty text.
    pub fn parse(source: &str) -> Result<Policy, PolicyError> {
        parse::parse(None, source)
    }

    /// The same for a source that has a place, such as a folder or a name to publish under. The front matter may leave
    /// the name out; it may not give another one.
    ///
    /// # Errors
    /// As [`Policy::parse`], and for a name that cannot be registered.
    pub fn parse_as(name: &str, source: &str) -> Result<Policy, PolicyError> {
        parse::parse(Some(name), source)
    }

    /// The label that does not violate.
    pub fn allowed_label(&self) -> &Arc<str> {
        &self.labels[self.allowed]
    }

    /// The one label that violates; `None` where there are several, so that violating alone does not say which.
    pub fn violating_label(&self) -> Option<&Arc<str>> {
        let mut others = self
            .labels
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != self.allowed);
        match (others.next(), others.next()) {
            (Some((_, only)), None) => Some(only),
            _ => None,
        }
    }

    /// The contract: the sentence that fixes the form of the answer.
    pub fn contract(&self) -> String {
        contract::sentence(&self.labels)
    }

    /// All that the model reads of the policy: the text, a blank line, the contract. A text that already ends with
    /// the contract is given as it is.
    pub fn prompt_text(&self) -> String {
        let contract = self.contract();
        if self.text.ends_with(&contract) {
            return self.text.clone();
        }
        format!("{}\n\n{contract}", self.text)
    }

    /// BLAKE3, in hexadecimal, of the text and of the labels with the allowed one marked. Two policies with the same
    /// digest are the same version, whatever their title, rules, thresholds, screen, languages, owner or provenance say.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"safeguard policy\n");
        hasher.update(&(self.text.len() as u64).to_le_bytes());
        hasher.update(self.text.as_bytes());
        for (index, label) in self.labels.iter().enumerate() {
            // No label holds a newline, so the list reads back in one way only.
            hasher.update(if index == self.allowed { b"+" } else { b"-" });
            hasher.update(label.as_bytes());
            hasher.update(b"\n");
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Codes of this policy's rules that a rationale names as whole words, in the policy's order, each once.
    pub fn rules_cited(&self, rationale: &str) -> Vec<Arc<str>> {
        rules::cited(&self.rules, rationale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(front: &str, text: &str) -> Policy {
        Policy::parse(&format!("---\n{front}\n---\n{text}")).unwrap()
    }

    #[test]
    fn the_contract_is_appended_once() {
        let contract = "Answer with exactly one of: allowed, violates. Do not include any explanation or punctuation in the final answer.";
        let bare = policy("labels: [allowed, violates]", "Find spam.\n");
        assert_eq!(bare.prompt_text(), format!("Find spam.\n\n{contract}"));
        let ended = policy(
            "labels: [allowed, violates]",
            &format!("Find spam.\n\n{contract}\n"),
        );
        assert_eq!(ended.prompt_text(), bare.prompt_text());
        let other = policy(
            "labels: [allowed, spam]",
            &format!("Find spam.\n\n{contract}\n"),
        );
        assert_eq!(
            other.prompt_text(),
            format!(
                "Find spam.\n\n{contract}\n\nAnswer with exactly one of: allowed, spam. Do not include any explanation or punctuation in the final answer."
            )
        );
    }

    #[test]
    fn the_digest_covers_what_can_change_a_verdict() {
        let base = policy("labels: [allowed, violates]", "Find spam.").digest();
        assert_eq!(base.len(), 64);
        let cases = [
            (
                "labels: [allowed, violates]\nowner: mail team\ntitle: Spam\nlanguages: [en]",
                "Find spam.\n\n",
                true,
            ),
            (
                "labels: [{name: allowed, allowed: true}, violates]",
                "\nFind spam.",
                true,
            ),
            (
                "labels: [allowed, violates]\nrules: {S1: bulk mail}",
                "Find spam.",
                true,
            ),
            ("labels: [allowed, violates]", "Find spam!", false),
            ("labels: [violates, allowed]", "Find spam.", false),
            (
                "labels: [allowed, {name: violates, allowed: true}]",
                "Find spam.",
                false,
            ),
            (
                "labels: [allowed, violates, borderline]",
                "Find spam.",
                false,
            ),
        ];
        for (front, text, same) in cases {
            assert_eq!(
                policy(front, text).digest() == base,
                same,
                "{front} {text:?}"
            );
        }
    }

    proptest::proptest! {
        /// Policy texts come from anyone with a psql: whatever they hold is a policy or an error.
        #[test]
        fn no_source_panics(front in "[\\PC\n]{0,80}", text in "[\\PC\nH1.: (->\"*]{0,120}") {
            let contract = contract::sentence(&[Arc::from("allowed"), Arc::from("violates")]);
            for source in [
                text.clone(),
                format!("---\n{front}\n---\n{text}"),
                format!("---\nlabels: [allowed, violates]\n---\n{text}"),
                format!("{text}\n\n{contract}"),
            ] {
                lint::lint(&source, str::len);
                if let Ok(policy) = Policy::parse(&source) {
                    policy.rules_cited(&text);
                    let again = Policy::parse(&policy.source);
                    proptest::prop_assert_eq!(again, Ok(policy));
                }
            }
        }
    }
}
