//! The registered policies: every version, in memory, and what a reference in SQL means.
//!
//! Takes versions that were kept elsewhere and policies to publish; gives the one version that `hate`, `hate@3`,
//! `hate@<digest prefix>` or an inline text names. Versions are immutable and numbered from 1 for each name; the
//! current one has the highest number. It writes nothing to disk and knows no clock: times are arguments. Where it is
//! told how, it looks for what others published before it says that a name or version does not exist.
//!
//! Publishing what is current already changes nothing. Publishing an older text makes it current again under a new
//! number, so that "the highest number is current" and "what was current when" stay readable from the list alone.

use super::{INLINE, Policy, PolicyError, parse};
use crate::config::{POLICY_DIGEST_PREFIX_MIN, POLICY_NAME_BYTES_MAX, POLICY_NEAR_MAX};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

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
            let prefix = self.digest.get(..12).unwrap_or(&self.digest);
            return Arc::from(format!("{INLINE}@{prefix}"));
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
    elsewhere: Elsewhere,
}

/// Teaches a registry what others published.
#[derive(Default)]
struct Elsewhere(OnceLock<Box<Look>>);

/// See [`Registry::look_elsewhere`].
type Look = dyn Fn(&Registry) + Send + Sync;

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Elsewhere")
    }
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
            check(&version)?;
            let known = by_name.entry(Arc::clone(&version.name)).or_default();
            if known.iter().any(|other| other.number == version.number) {
                let why = "its number stands twice";
                return Err(PolicyError::invalid(&*version.reference(), why));
            }
            known.push(Arc::new(version));
        }
        for known in by_name.values_mut() {
            known.sort_by_key(|version| version.number);
        }
        Ok(Registry {
            versions: RwLock::new(by_name),
            elsewhere: Elsewhere::default(),
        })
    }

    /// How to look for what others published, once, before a name or a version is unknown. `look` may block for as long
    /// as a read of a file takes; it [`learn`](Registry::learn)s what it finds.
    pub fn look_elsewhere(&self, look: impl Fn(&Registry) + Send + Sync + 'static) {
        // Only the first counts.
        let _ = self.elsewhere.0.set(Box::new(look));
    }

    /// Takes a version that was kept elsewhere; one whose number is known changes nothing.
    ///
    /// # Errors
    /// As [`Registry::load`], of this version alone.
    pub fn learn(&self, version: Version) -> Result<(), PolicyError> {
        check(&version)?;
        let mut versions = self
            .versions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let known = versions.entry(Arc::clone(&version.name)).or_default();
        if let Err(place) = known.binary_search_by_key(&version.number, |known| known.number) {
            known.insert(place, Arc::new(version));
        }
        Ok(())
    }

    /// Whether there is a version of this number.
    pub fn knows(&self, name: &str, number: u32) -> bool {
        let versions = self.read();
        let known = versions.get(name).map_or(&[][..], Vec::as_slice);
        known.iter().any(|version| version.number == number)
    }

    /// The versions of a name by number; none where the name is not known.
    pub fn versions_of(&self, name: &str) -> Vec<Arc<Version>> {
        self.read().get(name).cloned().unwrap_or_default()
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
        match (self.registered(reference), self.elsewhere.0.get()) {
            (Err(PolicyError::Unknown { .. }), Some(look)) => {
                look(self);
                self.registered(reference)
            }
            (found, _) => found,
        }
    }

    /// As [`Registry::resolve`], for a name.
    fn registered(&self, reference: &str) -> Result<Arc<Version>, PolicyError> {
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
        let mut versions = self
            .versions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let known = versions.entry(Arc::clone(&policy.name)).or_default();
        let published = after(known.last(), policy, (note, by, now));
        if published.new {
            known.push(Arc::clone(&published.version));
        }
        Ok(published)
    }

    /// What [`Registry::publish`] would do, without doing it.
    ///
    /// # Errors
    /// As [`Registry::publish`].
    pub fn draft(
        &self,
        policy: Policy,
        note: &str,
        by: &str,
        now: i64,
    ) -> Result<Published, PolicyError> {
        parse::check_name(&policy.name)?;
        let versions = self.read();
        let current = versions.get(&policy.name).map(|known| latest(known));
        Ok(after(current, policy, (note, by, now)))
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

/// What is current once a policy is published where `current` was.
fn after(
    current: Option<&Arc<Version>>,
    policy: Policy,
    (note, by, now): (&str, &str, i64),
) -> Published {
    let digest: Arc<str> = Arc::from(policy.digest());
    if let Some(current) = current
        && current.digest == digest
    {
        return Published {
            version: Arc::clone(current),
            new: false,
        };
    }
    let version = Arc::new(Version {
        name: Arc::clone(&policy.name),
        number: current.map_or(1, |current| current.number + 1),
        digest,
        policy: Arc::new(policy),
        published_at: now,
        published_by: by.to_owned(),
        note: note.to_owned(),
    });
    Published { version, new: true }
}

fn check(version: &Version) -> Result<(), PolicyError> {
    parse::check_name(&version.name)?;
    let invalid = |why: &str| Err(PolicyError::invalid(&*version.reference(), why));
    if version.number == 0 {
        return invalid("versions are numbered from 1");
    }
    if *version.digest != *version.policy.digest() {
        return invalid("its digest is not that of its text and labels");
    }
    Ok(())
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
#[path = "registry_tests.rs"]
mod tests;
