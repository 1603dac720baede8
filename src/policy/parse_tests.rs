//! Cases for `parse.rs`.

use super::*;

const CONTRACT: &str = "Answer with exactly one of: allowed, violates. Do not include any explanation or punctuation in the final answer.";

#[test]
fn reads_a_whole_file() {
    let source = "---\nname: hate\ntitle: Hate\nlabels:\n  - name: fine\n    allowed: true\n  - bad\nrules:\n  H1: insults\n    people\n  H2.c: threats\nlanguages: [en, de]\nowner: trust team\n---\n\nFind hate.\n\n- H9: not read\n\n";
    let policy = Policy::parse(source).unwrap();
    assert_eq!(
        policy,
        Policy {
            thresholds: Vec::new(),
            screen: ScreenUse::Clear,
            name: Arc::from("hate"),
            title: "Hate".to_owned(),
            labels: vec![Arc::from("fine"), Arc::from("bad")],
            allowed: 0,
            rules: vec![
                Rule {
                    code: Arc::from("H1"),
                    clause: "insults people".to_owned()
                },
                Rule {
                    code: Arc::from("H2.c"),
                    clause: "threats".to_owned()
                },
            ],
            languages: vec!["en".to_owned(), "de".to_owned()],
            owner: Some("trust team".to_owned()),
            provenance: None,
            text: "Find hate.\n\n- H9: not read".to_owned(),
            source: source.to_owned(),
        }
    );
    assert_eq!(&**policy.allowed_label(), "fine");
    let windows = Policy::parse(&format!("\u{feff}{}", source.replace('\n', "\r\n"))).unwrap();
    assert_eq!(
        (windows.digest(), windows.text),
        (policy.digest(), policy.text)
    );
}

#[test]
fn reads_labels_from_the_contract() {
    let ending = "Do not include any explanation or punctuation in the final answer.";
    let cases = [
        (
            format!("Find spam.\n\n{CONTRACT}"),
            vec!["allowed", "violates"],
            0,
        ),
        (
            format!("Find spam.\n\n{CONTRACT}\n\n"),
            vec!["allowed", "violates"],
            0,
        ),
        (
            format!("Find spam. Answer with exactly one of: INVALID, VALID. {ending}"),
            vec!["INVALID", "VALID"],
            1,
        ),
        (
            format!("a\nAnswer with exactly one of: unsafe, Safe. {ending}"),
            vec!["unsafe", "Safe"],
            1,
        ),
        (
            format!("a\nAnswer with exactly one of: safe, allowed, bad one. {ending}"),
            vec!["safe", "allowed", "bad one"],
            1,
        ),
        (
            format!("---\nowner: me\n---\na\n{CONTRACT}"),
            vec!["allowed", "violates"],
            0,
        ),
        (
            format!("---\n---\na\n{CONTRACT}"),
            vec!["allowed", "violates"],
            0,
        ),
        (
            format!(
                "---\nlabels: [good, {{name: bad, allowed: false}}, {{name: fine, allowed: true}}]\n---\na\n{CONTRACT}"
            ),
            vec!["good", "bad", "fine"],
            2,
        ),
    ];
    for (source, labels, allowed) in cases {
        let policy = Policy::parse(&source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(
            policy
                .labels
                .iter()
                .map(|label| &**label)
                .collect::<Vec<_>>(),
            labels,
            "{source}"
        );
        assert_eq!(policy.allowed, allowed, "{source}");
        assert_eq!(
            (&*policy.name, &*policy.title),
            (INLINE, INLINE),
            "{source}"
        );
    }
}

#[test]
fn finds_rules_in_the_text_and_reads_them_from_lists() {
    let cases = [
        ("labels: [allowed, bad]", vec![("K1", "a"), ("K2", "b")]),
        (
            "labels: [allowed, bad]\nrules: [{R1: c}, {R2: }]",
            vec![("R1", "c"), ("R2", "")],
        ),
        ("labels: [allowed, bad]\nrules: {}", vec![]),
    ];
    for (front, wanted) in cases {
        let policy = Policy::parse(&format!("---\n{front}\n---\nK1: a\nK2: b")).unwrap();
        let rules: Vec<(&str, &str)> = policy
            .rules
            .iter()
            .map(|rule| (&*rule.code, &*rule.clause))
            .collect();
        assert_eq!(rules, wanted, "{front}");
    }
}

#[test]
fn refuses_and_names_what_is_wrong() {
    let check = |name: Option<&str>, source: &str, wanted: &str| {
        let error = parse(name, source).expect_err(source).to_string();
        assert_eq!(error, wanted, "{source}");
    };
    let front = |front: &str, wanted: &str| {
        check(
            None,
            &format!("---\n{front}\n---\nFind spam."),
            &format!("policy \"inline\" is not usable: {wanted}"),
        );
    };
    check(
        None,
        "Find spam.\nAllowed or not?",
        &format!(
            "policy \"inline\" is not usable: it declares no labels: begin it with front matter (a line ---, labels: [allowed, violates], a line ---) or end it with \"{CONTRACT}\""
        ),
    );
    check(
        None,
        "---\nlabels: [a, b]\n",
        "policy \"inline\" is not usable: its front matter is not closed with a line ---",
    );
    check(
        None,
        &format!("\n{CONTRACT}\n"),
        "policy \"inline\" is not usable: its text is empty",
    );
    check(
        None,
        "---\nlabels: [allowed, b]\n---\n \n",
        "policy \"inline\" is not usable: its text is empty",
    );
    check(
        Some("spam"),
        "---\nname: ham\nlabels: [allowed, b]\n---\na",
        "policy \"spam\" is not usable: its front matter names it \"ham\"",
    );
    check(
        None,
        &"x".repeat(POLICY_BYTES_MAX + 1),
        "policy \"inline\" is not usable: 1048577 bytes, the limit is 1048576",
    );
    check(
        None,
        &format!("no \0\n\n{CONTRACT}"),
        "policy \"inline\" is not usable: character U+0000 at byte 4",
    );
    front(
        "labels: [allowed]",
        "1 label declared, at least two are needed",
    );
    front("labels: []", "0 label declared, at least two are needed");
    front(
        "labels: [allowed, Undecided]",
        "label \"undecided\" is declared; it is kept for texts without a verdict",
    );
    front(
        "labels: [allowed, bad, Bad]",
        "label \"Bad\" is declared twice",
    );
    front(
        "labels: [allowed, \"a,b\"]",
        "label \"a,b\" holds a comma or a control character",
    );
    front(
        "labels: [allowed, \"a\\nb\"]",
        "label \"a\\nb\" holds a comma or a control character",
    );
    front("labels: [allowed, \"\"]", "label 2 is empty");
    front(
        "labels: [allowed, \" b\"]",
        "label \" b\" begins or ends with white space",
    );
    front(
        "labels: [allowed, 1]",
        "front matter: labels: write 1 in quotation marks",
    );
    front(
        "labels: [allowed, true]",
        "front matter: labels: write true in quotation marks",
    );
    front(
        "labels: [allowed, [b]]",
        "front matter: labels: each is a word or {name: .., allowed: true}",
    );
    front(
        "labels: [allowed, {name: b, color: red}]",
        "front matter: labels: unknown key \"color\"",
    );
    front(
        "labels: [good, bad]",
        "none of its labels is the allowed one: call it allowed, or mark it in the front matter as {name: .., allowed: true}",
    );
    front(
        "labels: [safe, valid, bad]",
        "which of its labels is the allowed one, \"safe\" and \"valid\": mark it in the front matter",
    );
    front(
        "labels: [{name: a, allowed: true}, {name: b, allowed: true}]",
        "more than one label is marked as allowed: \"a\" and \"b\"",
    );
    front(
        &format!("labels: [allowed, {}]", "b".repeat(65)),
        &format!("label \"{}\" has 65 bytes, the limit is 64", "b".repeat(65)),
    );
    front(
        "labels: [allowed, b]\nrules: {H: c}",
        "rule code \"H\" is not a letter, then letters and digits with at least one digit (H1, H2.c), within 16 bytes",
    );
    front(
        "labels: [allowed, b]\nrules: [{H1: a}, {H1: b}]",
        "rule H1 is declared twice",
    );
    front(
        "labels: [allowed, b]\nrules: H1",
        "front matter: rules: write code: clause",
    );
    front(
        "labels: [allowed, b]\nrules: [H1]",
        "front matter: rules: write code: clause",
    );
    front(
        "labels: [allowed, b]\nlabel: c",
        "front matter: unknown field `label`, expected one of `name`, `title`, `labels`, `rules`, `thresholds`, `screen`, `languages`, `owner`, `provenance` at line 3 column 1",
    );
    front(
        "labels: [allowed, b]\nscreen: on",
        "front matter: screen: \"on\" is not one of: never, clear, convict",
    );
    front(
        "labels: allowed",
        "front matter: labels: invalid type: string \"allowed\", expected a sequence at line 2 column 9",
    );
}

#[test]
fn what_a_screen_may_do_is_declared() {
    let cases = [
        ("", ScreenUse::Clear),
        ("\nscreen: clear", ScreenUse::Clear),
        ("\nscreen: convict", ScreenUse::Convict),
        ("\nscreen: never", ScreenUse::Never),
    ];
    for (said, want) in cases {
        let source = format!("---\nlabels: [allowed, b]{said}\n---\nFind b.");
        let policy = Policy::parse(&source).unwrap();
        assert_eq!(policy.screen, want, "{said}");
        assert_eq!(policy.violating_label().map(|l| &**l), Some("b"));
    }
    let several = Policy::parse("---\nlabels: [allowed, b, c]\n---\nFind b and c.").unwrap();
    assert_eq!(several.violating_label(), None);
}

#[test]
fn names_are_checked() {
    let text = format!("a\n{CONTRACT}");
    for name in ["hate", "self-harm", "a", "h_2"] {
        assert_eq!(&*Policy::parse_as(name, &text).unwrap().name, name);
    }
    let shape = "a name is a lower-case letter, then lower-case letters, digits, - and _";
    for (name, why) in [
        ("Hate", shape),
        ("hate@3", shape),
        ("", shape),
        ("2hate", shape),
        ("hass\u{df}", shape),
        (
            "inline",
            "the name \"inline\" is kept for texts that are not registered",
        ),
    ] {
        let error = Policy::parse_as(name, &text).unwrap_err().to_string();
        assert_eq!(error, format!("policy \"{name}\" is not usable: {why}"));
    }
    let long = "a".repeat(64);
    assert_eq!(
        Policy::parse_as(&long, &text).unwrap_err().to_string(),
        format!("policy \"{long}\" is not usable: its name has 64 bytes, the limit is 63")
    );
}
