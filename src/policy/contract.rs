//! The contract: the sentence appended to every policy that fixes the form of the answer.
//!
//! Takes labels and gives the sentence, or a text and gives the labels of the sentence it ends with. The wording is
//! part of every verdict's key, so a change of it is a new [`CONTRACT_VERSION`].

use std::sync::Arc;

/// Version of the contract's wording; part of every verdict's key.
pub const CONTRACT_VERSION: u32 = 1;

const BEFORE: &str = "Answer with exactly one of: ";
const AFTER: &str = ". Do not include any explanation or punctuation in the final answer.";

/// The contract for labels in this order.
pub(super) fn sentence(labels: &[Arc<str>]) -> String {
    format!("{BEFORE}{}{AFTER}", labels.join(", "))
}

/// A text without the contract it ends with, whatever its labels, and those labels.
pub(super) fn split(text: &str) -> Option<(&str, Vec<&str>)> {
    let rest = text.trim_end().strip_suffix(AFTER)?;
    let start = rest.rfind(BEFORE)?;
    let list = &rest[start + BEFORE.len()..];
    if list.contains('\n') {
        return None;
    }
    Some((text[..start].trim_end(), list.split(", ").collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        for labels in [
            &["allowed", "violates"][..],
            &["0", "1"],
            &["H0", "H2.c", "not sure"],
        ] {
            let owned: Vec<Arc<str>> = labels.iter().map(|label| Arc::from(*label)).collect();
            let text = format!("Rules.\n\n{}\n", sentence(&owned));
            assert_eq!(split(&text), Some(("Rules.", labels.to_vec())));
        }
    }

    #[test]
    fn is_found_only_at_the_end() {
        let contract = sentence(&[Arc::from("a"), Arc::from("b")]);
        for text in [
            "",
            "Rules.",
            "Answer with exactly one of: a, b.",
            ". Do not include any explanation or punctuation in the final answer.",
            &format!("{contract} Thanks."),
        ] {
            assert_eq!(split(text), None, "{text:?}");
        }
    }
}
