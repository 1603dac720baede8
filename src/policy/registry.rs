//! The registered policies: every version, in memory, and what a reference in SQL means.
//!
//! Takes versions that were kept elsewhere and policies to publish; gives the one version that `hate`, `hate@3`,
//! `hate@<digest prefix>` or an inline text names. Versions are immutable and numbered from 1 for each name; the
//! current one has the highest number. It writes nothing to disk and knows no clock: times are arguments.
//!
//! Publishing what is current already changes nothing. Publishing an older text makes it current again under a new
//! number, so that "the highest number is current" and "what was current when" stay readable from the list alone.

use super::{INLINE, Policy, PolicyError, parse};
use crate::config::{POLICY_DIGEST_PREFIX_MIN, POLICY_NAME_BYTES_MAX, POLICY_NEAR_MAX};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// Names less alike than this (Jaro-Winkler, 0 to 1) are no help.
const NEAR_ENOUGH: f64 = 0.6;

/// One text of a policy, as it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The policy's name; `inline` for a text that is not registered.
    pub name: Arc<str>,
    /// From 1 for each name; 0 for an inline text.
    pub number: u32,
    /// [`Policy::digest`] of `policy`.
    pub digest: Arc<str>,
    /// The policy itself.
    pub policy: Arc<Policy>,
    /// Microseconds since 1970-01-01 UTC; 0 for an inline text.
    pub published_at: i64,
    /// Who published it; empty for an inline text.
    pub published_by: String,
    /// Why it was published.
    pub note: String,
}

impl Version {
    /// What a verdict's provenance calls it: `hate@3`, or `inline@<first 12 digits of the digest>`.
    pub fn reference(&self) -> Arc<str> {
        if self.number == 0 {
            return Arc::from(format!("{INLINE}@{}", &self.digest[..12]));
        }
        Arc::from(format!("{}@{}", self.name, self.number))
    }

    fn inline(policy: Policy) -> Version {
        Version {
            name: Arc::from(INLINE),
            number: 0,
            digest: Arc::from(policy.digest()),
            policy: Arc::new(policy),
            published_at: 0,
            published_by: String::new(),
            note: String::new(),
        }
    }
}

/// What publishing did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The version that is current now.
    pub version: Arc<Version>,
    /// Whether it was made by this call; `false` when the same text was current already.
    pub new: bool,
}

/// All versions by name. Shared by every session.
#[derive(Debug, Default)]
pub struct Registry {
    /// Versions of each name, by ascending number, never empty.
    versions: RwLock<BTreeMap<Arc<str>, Vec<Arc<Version>>>>,
}

impl Registry {
    /// A registry without policies.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// The registry of versions that were kept elsewhere, in any order.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] when a name cannot be registered, a number is 0 or stands twice under one name, or a
    /// digest is not its policy's.
    pub fn load(versions: Vec<Version>) -> Result<Registry, PolicyError> {
        let mut by_name: BTreeMap<Arc<str>, Vec<Arc<Version>>> = BTreeMap::new();
        for version in versions {
            parse::check_name(&version.name)?;
            let invalid = |why: &str| Err(PolicyError::invalid(&*version.reference(), why));
            let known = by_name.entry(Arc::clone(&version.name)).or_default();
            if version.number == 0 {
                return invalid("versions are numbered from 1");
            }
            if known.iter().any(|other| other.number == version.number) {
                return invalid("its number stands twice");
            }
            if *version.digest != *version.policy.digest() {
                return invalid("its digest is not that of its text and labels");
            }
            known.push(Arc::new(version));
        }
        for known in by_name.values_mut() {
            known.sort_by_key(|version| version.number);
        }
        Ok(Registry {
            versions: RwLock::new(by_name),
        })
    }

    /// The version that a reference names: `hate` (current), `hate@3`, `hate@<6 or more digits of the digest>`, or, if
    /// it holds a newline, an inline policy text, which is parsed anew and not kept.
    ///
    /// # Errors
    /// [`PolicyError::Unknown`] with the nearest names, or with the latest versions where the name exists;
    /// [`PolicyError::Invalid`] for an inline text that cannot be used and a digest prefix of two different texts.
    pub fn resolve(&self, reference: &str) -> Result<Arc<Version>, PolicyError> {
        if reference.contains('\n') {
            return Ok(Arc::new(Version::inline(Policy::parse(reference)?)));
        }
        if reference.len() > POLICY_NAME_BYTES_MAX && reference.contains(' ') {
            let why = "a policy text must hold a newline, anything else is read as a policy's name";
            return Err(PolicyError::invalid(INLINE, why));
        }
        let versions = self.read();
        let (name, pin) = match reference.split_once('@') {
            Some((name, pin)) => (name, Some(pin)),
            None => (reference, None),
        };
        let unknown = |near| {
            Err(PolicyError::Unknown {
                name: shorten(reference),
                near,
            })
        };
        let Some(known) = versions.get(name) else {
            return unknown(nearest(name, versions.keys()));
        };
        let Some(pin) = pin else {
            return Ok(Arc::clone(latest(known)));
        };
        match pinned(known, pin)? {
            Some(version) => Ok(version),
            None => unknown(
                known
                    .iter()
                    .rev()
                    .take(POLICY_NEAR_MAX)
                    .map(|version| version.reference().to_string())
                    .collect(),
            ),
        }
    }

    /// Makes a policy the current version of its name. It gets a new number unless its digest is that of the current
    /// version; then nothing changes, and title, rules, languages, owner and note stay as first published.
    /// `now` in microseconds since 1970-01-01 UTC.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] for a policy without a name that can be registered.
    pub fn publish(
        &self,
        policy: Policy,
        note: &str,
        by: &str,
        now: i64,
    ) -> Result<Published, PolicyError> {
        parse::check_name(&policy.name)?;
        let digest: Arc<str> = Arc::from(policy.digest());
        let mut versions = self
            .versions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let known = versions.entry(Arc::clone(&policy.name)).or_default();
        if let Some(current) = known.last()
            && current.digest == digest
        {
            return Ok(Published {
                version: Arc::clone(current),
                new: false,
            });
        }
        let version = Arc::new(Version {
            name: Arc::clone(&policy.name),
            number: known.last().map_or(1, |current| current.number + 1),
            digest,
            policy: Arc::new(policy),
            published_at: now,
            published_by: by.to_owned(),
            note: note.to_owned(),
        });
        known.push(Arc::clone(&version));
        Ok(Published { version, new: true })
    }

    /// Every version, by name and number.
    pub fn versions(&self) -> Vec<Arc<Version>> {
        self.read().values().flatten().cloned().collect()
    }

    /// The current version of every name, by name.
    pub fn current(&self) -> Vec<Arc<Version>> {
        self.read()
            .values()
            .map(|known| Arc::clone(latest(known)))
            .collect()
    }

    // The map is consistent between any two statements of `publish`, so a panic elsewhere leaves nothing half done.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Arc<str>, Vec<Arc<Version>>>> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn latest(known: &[Arc<Version>]) -> &Arc<Version> {
    known
        .last()
        .expect("bug: a name without versions is registered")
}

/// The version with this number, else the newest whose digest begins so.
fn pinned(known: &[Arc<Version>], pin: &str) -> Result<Option<Arc<Version>>, PolicyError> {
    if !pin.is_empty() && pin.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = pin.parse().ok();
        if let Some(version) = known.iter().find(|version| Some(version.number) == number) {
            return Ok(Some(Arc::clone(version)));
        }
    }
    if pin.len() < POLICY_DIGEST_PREFIX_MIN || !pin.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let prefix = pin.to_ascii_lowercase();
    let mut found = known
        .iter()
        .rev()
        .filter(|version| version.digest.starts_with(&prefix));
    let Some(newest) = found.next() else {
        return Ok(None);
    };
    if let Some(other) = found.find(|other| other.digest != newest.digest) {
        let why = format!(
            "the digest prefix is that of {} and of {}",
            newest.reference(),
            other.reference()
        );
        return Err(PolicyError::invalid(format!("{}@{pin}", newest.name), why));
    }
    Ok(Some(Arc::clone(newest)))
}

fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a Arc<str>>) -> Vec<String> {
    let wanted = name.to_lowercase();
    let mut scored: Vec<(f64, &Arc<str>)> = names
        .map(|known| (strsim::jaro_winkler(&wanted, known), known))
        .filter(|(score, _)| *score >= NEAR_ENOUGH)
        .collect();
    scored.sort_by(|(a, a_name), (b, b_name)| b.total_cmp(a).then_with(|| a_name.cmp(b_name)));
    scored
        .into_iter()
        .take(POLICY_NEAR_MAX)
        .map(|(_, known)| known.to_string())
        .collect()
}

/// A wrong name as it fits in a message.
fn shorten(reference: &str) -> String {
    let limit = POLICY_NAME_BYTES_MAX + 17; // a name, @ and 16 digits
    match reference.char_indices().nth(limit) {
        Some((end, _)) => format!("{}..", &reference[..end]),
        None => reference.to_owned(),
    }
}

#[cfg(test)]
mod tests {
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
}
