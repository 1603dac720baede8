//! Packs in the shapes in which others publish them, made up here.

use super::*;
use std::fs;

/// Names and texts.
type Files<'a> = &'a [(&'a str, &'a str)];

/// A folder with these files.
fn pack(files: Files) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

const LEVELS: &str = "Noise Policy (#NO)\nClassify each EXAMPLE as VALID (quiet) or INVALID (noise).\n\nNO0.a a question\nNO2.a a call to buy\nNO3.a a chain letter\nOutput: INVALID\n";

fn rows(imported: &Imported) -> Vec<(String, String)> {
    let csv = imported.golden.as_deref().unwrap_or("text,label\n");
    let rows = golden::parse(csv, &imported.policy).unwrap();
    rows.iter()
        .map(|r| (r.text.to_string(), r.label.to_string()))
        .collect()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

#[test]
fn a_sheet_of_sections_is_read_by_its_sections() {
    let sheet = ",,model says,\nNO0,,,\n1,how do I do this,NO0,\n2,\"hello, you\",NO0,\nNO2 ,,,\n1,buy it here,NO2,\n2,look at this,NO0,\n,,Accuracy,0.9\n,,Precision,1\n";
    let dir = pack(&[
        ("noise/policy.txt", LEVELS),
        ("noise/golden_dataset.csv", sheet),
    ]);
    let found = import(&dir.path().join("noise"), &Wish::default()).unwrap();
    assert_eq!(found.len(), 1);
    let one = &found[0];
    assert_eq!(
        (&*one.policy.name, one.policy.title.as_str()),
        ("noise", "Noise Policy (#NO)")
    );
    assert_eq!(one.policy.labels.join(" "), "VALID INVALID");
    assert_eq!(&**one.policy.allowed_label(), "VALID");
    // The text is as it was.
    assert_eq!(one.policy.text, LEVELS.trim_matches('\n'));
    let want = [
        ("how do I do this", "VALID"),
        ("hello, you", "VALID"),
        ("buy it here", "INVALID"),
        ("look at this", "INVALID"),
    ];
    assert_eq!(rows(one), pairs(&want));
    assert_eq!(
        one.notes,
        ["rows with another code than their section, which counts: 1"]
    );
    let levels = Wish {
        levels: true,
        ..Wish::default()
    };
    let found = import(&dir.path().join("noise"), &levels).unwrap();
    assert_eq!(found[0].policy.labels.join(" "), "NO0 NO2 NO3");
    let want = [
        ("how do I do this", "NO0"),
        ("hello, you", "NO0"),
        ("buy it here", "NO2"),
        ("look at this", "NO2"),
    ];
    assert_eq!(rows(&found[0]), pairs(&want));
}

#[test]
fn a_pack_is_read_with_its_sets() {
    let set = "These are made up.,  ,  ,\nexample,classification,Responses,Response Label\nhow loud,NO0,\"very, very\",NO2\nbuy,NO2,no,NO0\nbuy,NO2,,\nhow loud,NO3,,\nwhat,unclear,,\n";
    let dir = pack(&[
        ("README.md", "about the pack"),
        ("LICENSE", "free"),
        ("example_policies/README.md", "about policies"),
        ("example_policies/Loud Noise/policy.md", LEVELS),
        (
            "example_policies/silence/policy.md",
            "# Silence\n\nSay nothing.\n",
        ),
        ("datasets/loud-noise.csv", set),
        (".git/policy.md", "not a policy"),
    ]);
    let found = import(dir.path(), &Wish::default()).unwrap();
    let names: Vec<&str> = found.iter().map(|one| &*one.policy.name).collect();
    assert_eq!(names, ["loud-noise", "silence"]);
    let want = [
        ("how loud", "VALID"),
        ("very, very", "INVALID"),
        ("buy", "INVALID"),
        ("no", "VALID"),
    ];
    assert_eq!(rows(&found[0]), pairs(&want));
    assert_eq!(found[0].golden_rows, 4);
    let notes = [
        "rows left out, without a label of the policy: 1",
        "rows left out, with a text that was there before: 1",
        "rows left out, with another label for a text than before: 1",
    ];
    assert_eq!(found[0].notes, notes);
    assert_eq!(found[1].policy.labels.join(" "), "allowed violates");
    assert_eq!(found[1].notes, ["no golden sheet beside it"]);
}

#[test]
fn where_a_policy_came_from_is_kept() {
    let dir = pack(&[(
        "tvec-policy",
        "# Template\n\n**XV1: this.** No.\n\n**XV0: that.** Yes.\n",
    )]);
    let file = dir.path().join("tvec-policy");
    let wish = Wish {
        provenance: Some("https://example.org/pack at 1f2e".into()),
        name: Some("xv".into()),
        levels: true,
    };
    let found = import(&file, &wish).unwrap();
    let policy = &found[0].policy;
    assert_eq!(
        (&*policy.name, policy.labels.join(" ")),
        ("xv", "XV0 XV1".to_owned())
    );
    let digest = blake3::hash(&fs::read(&file).unwrap()).to_hex();
    let kept = format!("https://example.org/pack at 1f2e (BLAKE3 {digest})");
    assert_eq!(policy.provenance, Some(kept));
    // What is in the house's own layout stays as it is.
    let own = "---\nlabels: [allowed, b]\n---\nFind b.\n";
    let dir = pack(&[("b/policy.md", own), ("b/golden.csv", "text,label\nx,b\n")]);
    let found = import(dir.path(), &Wish::default()).unwrap();
    assert_eq!(
        (found[0].policy.source.as_str(), found[0].golden_rows),
        (own, 1)
    );
}

#[test]
fn what_cannot_be_imported_says_why() {
    let long = "x".repeat(POLICY_BYTES_MAX + 1);
    // Files, what is imported, the wish, what is said.
    let none = Wish::default;
    let levels = || Wish {
        levels: true,
        ..Wish::default()
    };
    let named = || Wish {
        name: Some("one".into()),
        ..Wish::default()
    };
    let cases: [(Files, &str, Wish, &str); 7] = [
        (
            &[("a.txt", "x")],
            "",
            none(),
            "there is no policy.md, policy.txt or other .md file with a policy in it",
        ),
        (&[("a.md", "x")], "b.md", none(), "there is no such file"),
        (
            &[("a.md", "x"), ("b.md", "y")],
            "",
            named(),
            "2 policies cannot have one name",
        ),
        (
            &[("a/x.md", "x"), ("b/x.md", "y")],
            "",
            none(),
            "another file is called \"x\" too",
        ),
        (
            &[("a.md", "no codes here")],
            "",
            levels(),
            "it defines no levels such as SP0, SP1, SP2, one of them ending with 0",
        ),
        (
            &[("a.md", &long)],
            "",
            none(),
            "it has more than 1048576 bytes",
        ),
        (
            &[("a.md", "---\nlabels: [a, b]\nwhat: ever\n---\nx")],
            "",
            none(),
            "unknown field `what`",
        ),
    ];
    for (files, at, wish, why) in cases {
        let dir = pack(files);
        let error = import(&dir.path().join(at), &wish).unwrap_err().to_string();
        assert!(error.contains(why), "{files:?}: {error}");
    }
}
