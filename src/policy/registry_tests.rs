//! Cases for `registry.rs`.

use super::*;

fn policy(name: &str, text: &str) -> Policy {
    Policy::parse_as(
        name,
        &format!("---\nlabels: [allowed, violates]\n---\n{text}"),
    )
    .unwrap()
}

fn registry() -> Registry {
    let registry = Registry::new();
    for (name, text) in [
        ("hate", "one"),
        ("hate", "two"),
        ("harassment", "h"),
        ("self-harm", "s"),
        ("spam", "m"),
    ] {
        assert!(
            registry
                .publish(policy(name, text), "why", "ada", 7)
                .unwrap()
                .new
        );
    }
    registry
}

#[test]
fn resolves_every_form_of_reference() {
    let registry = registry();
    let digests: Vec<Arc<str>> = registry
        .versions()
        .into_iter()
        .map(|version| Arc::clone(&version.digest))
        .collect();
    let (old, new) = (&digests[1], &digests[2]); // harassment, hate@1, hate@2, ..
    for (reference, wanted) in [
        ("hate".to_owned(), "hate@2"),
        ("hate@1".to_owned(), "hate@1"),
        ("hate@02".to_owned(), "hate@2"),
        (format!("hate@{old}"), "hate@1"),
        (format!("hate@{}", &old[..6]), "hate@1"),
        (format!("hate@{}", new[..10].to_uppercase()), "hate@2"),
        ("self-harm".to_owned(), "self-harm@1"),
    ] {
        assert_eq!(
            &*registry.resolve(&reference).unwrap().reference(),
            wanted,
            "{reference}"
        );
    }
}

#[test]
fn an_inline_text_is_not_kept() {
    let registry = registry();
    let text = "---\nname: mine\nlabels: [allowed, violates]\n---\ntwo";
    let version = registry.resolve(text).unwrap();
    assert_eq!((&*version.name, version.number), (INLINE, 0));
    assert_eq!(*version.digest, *registry.resolve("hate").unwrap().digest);
    assert_eq!(
        *version.reference(),
        format!("inline@{}", &version.digest[..12])
    );
    assert_eq!(registry.versions().len(), 5);
}

#[test]
fn unknown_references_name_what_is_near() {
    let registry = registry();
    let digest = registry.resolve("hate@1").unwrap().digest.to_string();
    let long = "x".repeat(100);
    let cases: [(&str, &[&str]); 11] = [
        ("hte", &["hate"]),
        ("Hate", &["hate", "harassment"]),
        ("self harm", &["self-harm"]),
        ("hte@1", &["hate"]),
        ("hate@3", &["hate@2", "hate@1"]),
        ("hate@latest", &["hate@2", "hate@1"]),
        ("hate@", &["hate@2", "hate@1"]),
        (&format!("hate@{}", &digest[..5]), &["hate@2", "hate@1"]),
        ("hate@000000", &["hate@2", "hate@1"]),
        ("", &[]),
        (&long, &[]),
    ];
    for (reference, wanted) in cases {
        match registry.resolve(reference) {
            Err(PolicyError::Unknown { name, near }) => {
                assert_eq!(near, wanted, "{reference}");
                assert_eq!(
                    name,
                    if reference == long {
                        format!("{}..", "x".repeat(80))
                    } else {
                        reference.to_owned()
                    }
                );
            }
            other => panic!("{reference}: {other:?}"),
        }
    }
    let error = registry.resolve("zzz").unwrap_err();
    assert_eq!(error.to_string(), "policy \"zzz\" does not exist");
    let error = registry.resolve(&"find spam ".repeat(10)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "policy \"inline\" is not usable: a policy text must hold a newline, anything else is read as a policy's name"
    );
}

#[test]
fn publishing_numbers_new_texts_only() {
    let registry = registry();
    let again = registry
        .publish(policy("hate", "two"), "other", "bob", 8)
        .unwrap();
    assert!(!again.new);
    assert_eq!((again.version.number, &*again.version.note), (2, "why"));
    let back = registry
        .publish(policy("hate", "one"), "roll back", "bob", 9)
        .unwrap();
    assert!(back.new);
    assert_eq!(
        (
            back.version.number,
            back.version.published_at,
            &*back.version.published_by
        ),
        (3, 9, "bob")
    );
    let first = registry.resolve("hate@1").unwrap();
    assert_eq!(first.digest, back.version.digest);
    // The prefix of a text that was published twice is not ambiguous: it is the newest.
    assert_eq!(
        registry
            .resolve(&format!("hate@{}", first.digest))
            .unwrap()
            .number,
        3
    );
    let current: Vec<String> = registry
        .current()
        .iter()
        .map(|version| version.reference().to_string())
        .collect();
    assert_eq!(current, ["harassment@1", "hate@3", "self-harm@1", "spam@1"]);
    let unnamed = Policy {
        name: Arc::from(INLINE),
        ..policy("hate", "x")
    };
    assert_eq!(
        registry
            .publish(unnamed, "", "", 0)
            .unwrap_err()
            .to_string(),
        "policy \"inline\" is not usable: the name \"inline\" is kept for texts that are not registered"
    );
}

#[test]
fn a_prefix_of_two_texts_is_refused() {
    let version = |number: u32, digest: &str| {
        Arc::new(Version {
            number,
            digest: Arc::from(digest),
            name: Arc::from("p"),
            ..Version::inline(policy("p", "x"))
        })
    };
    let known = [version(1, "abcdef00"), version(2, "abcdef11")];
    assert_eq!(pinned(&known, "abcdef1").unwrap().unwrap().number, 2);
    assert_eq!(
        pinned(&known, "abcdef").unwrap_err().to_string(),
        "policy \"p@abcdef\" is not usable: the digest prefix is that of p@2 and of p@1"
    );
}

#[test]
fn loads_what_was_kept() {
    let kept: Vec<Version> = registry()
        .versions()
        .iter()
        .rev()
        .map(|version| (**version).clone())
        .collect();
    let loaded = Registry::load(kept.clone()).unwrap();
    assert_eq!(loaded.versions(), registry().versions());
    assert_eq!(
        loaded
            .publish(policy("hate", "three"), "", "", 1)
            .unwrap()
            .version
            .number,
        3
    );
    let hate = kept
        .iter()
        .find(|version| &*version.name == "hate")
        .cloned()
        .unwrap();
    for (bad, wanted) in [
        (
            vec![hate.clone(), hate.clone()],
            "policy \"hate@2\" is not usable: its number stands twice",
        ),
        (
            vec![Version {
                digest: Arc::from("0".repeat(64)),
                ..hate.clone()
            }],
            "policy \"hate@2\" is not usable: its digest is not that of its text and labels",
        ),
        (
            vec![Version {
                number: 0,
                ..hate.clone()
            }],
            &*format!(
                "policy \"inline@{}\" is not usable: versions are numbered from 1",
                &hate.digest[..12]
            ),
        ),
    ] {
        assert_eq!(Registry::load(bad).unwrap_err().to_string(), wanted);
    }
}

#[test]
fn is_shared_by_threads() {
    let registry = registry();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let registry = &registry;
            scope.spawn(move || {
                for text in 0..25 {
                    registry
                        .publish(policy("spam", &format!("{thread} {text}")), "", "", 0)
                        .unwrap();
                    registry.resolve("spam").unwrap();
                }
            });
        }
    });
    let numbers: Vec<u32> = registry
        .versions()
        .iter()
        .filter(|version| &*version.name == "spam")
        .map(|version| version.number)
        .collect();
    assert_eq!(numbers, (1..=101).collect::<Vec<u32>>());
}
