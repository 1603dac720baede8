//! Cases for `lint.rs`.

use super::*;

const FRONT: &str = "---\nlabels: [allowed, violates]\n---\n";
const NO_EXAMPLES: &str =
    "warning: it has no examples: four to six near the boundary, of every label, help most";

fn check(source: &str, tokens: usize, wanted: &[&str]) {
    let found: Vec<String> = lint(source, |_| tokens)
        .iter()
        .map(Finding::to_string)
        .collect();
    assert_eq!(found, wanted, "{source}");
}

#[test]
fn says_nothing_of_a_good_policy() {
    check(
        &format!(
            "{FRONT}Find spam.\n- SP1: adverts\n\nExamples\n\"buy now\" -> violates (SP1)\n\"hello\" -> allowed"
        ),
        400,
        &[],
    );
    check(
        &format!("{FRONT}Find spam.\n\nText: \"buy now\"\nLabel: violates\n"),
        400,
        &[],
    );
}

#[test]
fn lists_every_fault_of_the_labels() {
    check(
        "---\nlabels: [undecided, \"a,b\", \"a,b\"]\n---\n\n",
        400,
        &[
            "error: label \"undecided\" is declared; it is kept for texts without a verdict",
            "error: label \"a,b\" holds a comma or a control character",
            "error: label \"a,b\" holds a comma or a control character",
            "error: label \"a,b\" is declared twice",
            "error: none of its labels is the allowed one: call it allowed, or mark it in the front matter as {name: .., allowed: true}",
            "error: its text is empty",
        ],
    );
    check(
        "---\nlabels: [allowed]\n---\nx",
        400,
        &["error: 1 label declared, at least two are needed"],
    );
    check(
        "---\nlabels: [{name: a, allowed: true}, {name: b, allowed: true}]\n---\nx",
        400,
        &["error: more than one label is marked as allowed: \"a\" and \"b\""],
    );
    check(
        "---\nlabels: [allowed, bad]\nrules: {H: x}\n---\nx",
        400,
        &[
            "error: rule code \"H\" is not a letter, then letters and digits with at least one digit (H1, H2.c), within 16 bytes",
        ],
    );
    check(
        "---\nlabels: [a",
        400,
        &["error: its front matter is not closed with a line ---"],
    );
}

#[test]
fn labels_that_are_named_must_be_declared() {
    for (text, wanted) in [
        (
            "Examples\n\"a\" -> spam\n\"b\" => spam",
            &["error: it names the label \"spam\", which is not declared"][..],
        ),
        (
            "Examples\n- 'a' → **BAD** (SP1)",
            &["error: it names the label \"BAD\", which is not declared"],
        ),
        (
            "Examples\nText: b\nAnswer: SAFE.",
            &["error: it names the label \"SAFE\", which is not declared"],
        ),
        (
            "Examples\n\"a\" -> Violates\n\"b\" -> allowed, harmless\nLabel: {label}",
            &[],
        ),
        (
            "Examples\nclick -> buy\nOutput: one word and nothing more",
            &[],
        ),
        (
            "Examples: see below\n\nAnswer with exactly one of: violates, allowed. Do not include any explanation or punctuation in the final answer.",
            &[
                "error: it ends with a contract for violates, allowed, its front matter declares allowed, violates",
            ],
        ),
    ] {
        check(
            &format!("{FRONT}{text}\nEnd.").replace("answer.\nEnd.", "answer."),
            400,
            wanted,
        );
    }
}

#[test]
fn rule_codes_must_agree() {
    let front = |rules: &str| {
        format!("---\nlabels: [allowed, violates]\nrules: {rules}\n---\nExamples below. ")
    };
    for (source, wanted) in [
        (front("{SP1: a, SP2: b}") + "SP1 and SP2.", &[][..]),
        (
            front("{SP1: a, SP2: b}") + "SP1.",
            &["error: rule SP2 is declared, but the text never names it"],
        ),
        (
            front("{SP1: a}") + "SP1, SP3, SP3, MP3.",
            &["error: the text names rule SP3, which is not declared"],
        ),
        (
            front("{SP2: a}") + "SP2 or D-S2.",
            &["warning: the text names S2, which is not declared: is it rule SP2?"],
        ),
        (
            format!("{FRONT}Examples\n- H1: a\n- H2: b; not H4."),
            &["error: the text names rule H4, which is not declared"],
        ),
        (
            format!("{FRONT}Examples\nSP2.a Cold calls.\nSP2.b Ads.\nSP2 is worse than SP0."),
            &["error: the text names rule SP0, which is not declared"],
        ),
        (
            format!("{FRONT}Examples of G20, COVID19 and A4 paper."),
            &[],
        ),
        (
            "---\nlabels: [H0, H1]\nrules: {}\n---\nExample: H0. Or H2."
                .replace("H0, H1", "{name: H0, allowed: true}, H1"),
            &[],
        ),
    ] {
        check(&source, 400, wanted);
    }
}

#[test]
fn a_stub_at_the_end_is_refused() {
    for (text, stub) in [
        ("Content:", Some("Content:")),
        (
            "Content: [INSERT]\nAnswer (allowed or violates):",
            Some("Answer (allowed or violates):"),
        ),
        ("**Label:** {label}", Some("**Label:** {label}")),
        ("## Input: <text>\n\n", Some("## Input: <text>")),
        ("Answer: allowed/violates", Some("Answer: allowed/violates")),
        ("Answer: allowed", None),
        ("Text: hello there", None),
        ("Note:", None),
    ] {
        let wanted = stub.map(|line| {
            format!("error: it ends with the stub \"{line}\", which makes the model repeat the text: remove it")
        });
        let wanted: Vec<&str> = wanted.iter().map(|line| &**line).collect();
        let contract = "Answer with exactly one of: allowed, violates. Do not include any explanation or punctuation in the final answer.";
        check(&format!("{FRONT}Examples.\n{text}"), 400, &wanted);
        check(
            &format!("{FRONT}Examples.\n{text}\n\n{contract}"),
            400,
            &wanted,
        );
    }
}

#[test]
fn length_and_examples() {
    let source = format!("{FRONT}Find spam.");
    for (tokens, wanted) in [
        (
            99,
            Some("warning: it has 99 tokens, fewer than 100: it may say too little to judge by"),
        ),
        (100, None),
        (2000, None),
        (
            2001,
            Some(
                "warning: it has 2001 tokens, more than 2000: several shorter policies judge better",
            ),
        ),
        (
            16384,
            Some(
                "warning: it has 16384 tokens, more than 2000: several shorter policies judge better",
            ),
        ),
        (
            16385,
            Some("error: it has 16385 tokens, the limit is 16384"),
        ),
    ] {
        let mut lines: Vec<&str> = wanted.into_iter().collect();
        lines.push(NO_EXAMPLES);
        check(&source, tokens, &lines);
    }
    // What is counted is what the model reads, the contract included.
    let words = lint(&source, |text| text.split(' ').count());
    assert_eq!(
        words[0].message,
        "it has 19 tokens, fewer than 100: it may say too little to judge by"
    );
}

#[test]
fn shipped_policies_have_no_errors() {
    for file in crate::policy::folder::shipped() {
        let errors: Vec<Finding> = lint(&file.policy.source, |_| 400)
            .into_iter()
            .filter(|finding| finding.level == Level::Error)
            .collect();
        assert_eq!(errors, [], "{}", file.policy.name);
    }
}
