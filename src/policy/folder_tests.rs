//! Cases for `folder.rs`, and what the shipped policies promise.

use super::*;
use std::collections::HashSet;
use std::fs;

#[test]
fn one_bad_file_names_itself_and_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    for (path, bytes) in [
        (
            "good/policy.md",
            &b"---\nlabels: [allowed, bad]\n---\nFind it."[..],
        ),
        ("good/golden.csv", b"text,label\na,bad\n"),
        (
            "no-golden/policy.md",
            b"---\nname: no-golden\nlabels: [allowed, bad]\n---\nFind it.",
        ),
        (
            "bad-golden/policy.md",
            b"---\nlabels: [allowed, bad]\n---\nFind it.",
        ),
        ("bad-golden/golden.csv", b"text,label\na,worse\n"),
        ("bytes/policy.md", b"---\n\xff"),
        ("empty/notes.txt", b""),
        (
            "other/policy.md",
            b"---\nname: another\nlabels: [allowed, bad]\n---\nFind it.",
        ),
        (".git/config", b""),
        ("README.md", b""),
        ("notes.txt", b""),
        ("plain.md", b"---\nlabels: [allowed, bad]\n---\nFind it."),
        ("plain/golden.csv", b"text,label\na,bad\nb,allowed\n"),
        (
            "twice/policy.md",
            b"---\nlabels: [allowed, bad]\n---\nFind it.",
        ),
        ("twice.md", b"---\nlabels: [allowed, bad]\n---\nFind it."),
    ] {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs::write(at(path), bytes).unwrap();
    }
    let found = load(dir.path()).unwrap();
    let loaded: Vec<(&str, usize)> = found
        .loaded
        .iter()
        .map(|file| (&*file.policy.name, file.golden.len()))
        .collect();
    assert_eq!(
        loaded,
        [
            ("bad-golden", 0),
            ("good", 1),
            ("no-golden", 0),
            ("plain", 2)
        ]
    );
    let failed: Vec<String> = found.failed.iter().map(PolicyError::to_string).collect();
    let root = dir.path().display();
    assert_eq!(
        failed,
        [
            format!(
                "{root}/bad-golden/golden.csv: golden set of policy \"bad-golden\", line 2: label \"worse\" is not one of: allowed, bad"
            ),
            format!("{root}/bytes/policy.md: it is not UTF-8 (byte 4)"),
            format!("{root}/empty/policy.md: there is no such file"),
            format!(
                "{root}/other/policy.md: policy \"other\" is not usable: its front matter names it \"another\""
            ),
            format!("{root}/twice.md: {root}/twice/policy.md has the same name"),
        ]
    );
}

#[test]
fn one_folder_is_called_as_it_says_or_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("mine");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("policy.md");
    for (front, wanted) in [("", "mine"), ("name: draft\n", "draft")] {
        fs::write(
            &path,
            format!("---\n{front}labels: [allowed, bad]\n---\nFind it."),
        )
        .unwrap();
        let file = open(&folder).unwrap();
        assert_eq!((&*file.policy.name, file.golden.len()), (wanted, 0));
    }
    fs::write(folder.join("golden.csv"), "text,label\na,bad\n").unwrap();
    assert_eq!(open(&folder).unwrap().golden.len(), 1);
    fs::write(folder.join("golden.csv"), "text,label\na,worse\n").unwrap();
    let error = open(&folder).unwrap_err().to_string();
    assert!(error.contains("label \"worse\" is not one of"), "{error}");
    fs::write(&path, "x").unwrap();
    let error = open(&folder).unwrap_err().to_string();
    assert!(
        error.contains("mine/policy.md: policy \"mine\" is not usable"),
        "{error}"
    );
}

#[test]
fn a_missing_folder_names_itself() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none");
    assert_eq!(
        load(&missing).unwrap_err().to_string(),
        format!(
            "{}: No such file or directory (os error 2)",
            missing.display()
        )
    );
}

#[test]
fn the_shipped_policies_are_the_folder() {
    let folder = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")).unwrap();
    assert_eq!(folder.failed, []);
    assert_eq!(folder.loaded, shipped());
}

/// The embedded model was trained on these words: a policy that departs from them is judged worse.
#[test]
fn the_shipped_texts_are_the_models_own_words() {
    for PolicyFile { policy, golden } in shipped() {
        assert_eq!(
            policy
                .labels
                .iter()
                .map(|label| &**label)
                .collect::<Vec<_>>(),
            ["allowed", "violates"]
        );
        assert_eq!(policy.allowed, 0);
        assert_eq!(
            policy.prompt_text(),
            policy.text,
            "{} ends with the contract",
            policy.name
        );
        assert!(!policy.rules.is_empty(), "{}", policy.name);
        assert!(
            (40..=200).contains(&golden.len()),
            "{}: {} golden rows",
            policy.name,
            golden.len()
        );
        let labels: HashSet<&str> = golden.iter().map(|row| &*row.label).collect();
        assert_eq!(labels.len(), 2, "{}", policy.name);
        let limit = if &*policy.name == "spam" { 600 } else { 400 };
        assert!(
            golden.iter().all(|row| row.text.chars().count() <= limit),
            "{}",
            policy.name
        );
        if &*policy.name != "keywords" {
            let path = format!("src/backend/nano/policies/{}.md", policy.name);
            let trained =
                fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
            assert_eq!(
                policy.text,
                trained.trim_end_matches('\n'),
                "{}",
                policy.name
            );
        }
    }
}

#[test]
fn the_keyword_golden_set_is_what_its_rule_says() {
    let shipped = shipped();
    let file = shipped
        .iter()
        .find(|file| &*file.policy.name == "keywords")
        .unwrap();
    let (_, list) = file.policy.text.split_once("any of: ").unwrap();
    let words: Vec<&str> = list.split_once(';').unwrap().0.split(", ").collect();
    for row in &file.golden {
        let named = row
            .text
            .split(|c: char| !c.is_alphanumeric())
            .any(|word| words.contains(&word));
        assert_eq!(&*row.label == "violates", named, "{:.40}", row.text);
    }
}

#[test]
fn the_example_messages_are_whole() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/messages.csv");
    let mut reader = csv::Reader::from_path(path).unwrap();
    assert_eq!(
        reader.headers().unwrap(),
        vec!["id", "body", "surface", "lang", "source"]
    );
    let mut ids = HashSet::new();
    for record in reader.records() {
        let record = record.unwrap();
        assert!(
            ids.insert(record[0].to_owned()),
            "{} stands twice",
            &record[0]
        );
        assert!(
            (1..=600).contains(&record[1].chars().count()),
            "{}",
            &record[0]
        );
        assert!(
            ["mail", "comment", "prompt"].contains(&&record[2]),
            "{}",
            &record[0]
        );
    }
    assert!(ids.len() >= 500, "{} rows", ids.len());
}
