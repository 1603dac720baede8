//! Policies as they are kept: read from the store, published into it, taken from the program and from a user's folder.
//!
//! Takes a store, gives a [`Registry`] that knows every version in it. Several processes may publish into one store: a
//! version is numbered after what the store holds, kept there, and only then known here; what others published is read
//! when it is asked for by a name that is not known, when something is published, and by [`refresh`].

use super::Engine;
use crate::config::PUBLISH_TRIES_MAX;
use crate::error::Error;
use crate::policy::{Policy, Published, Registry, Version, folder};
use crate::store::{Store, StoreError, VersionRow, now};
use std::path::Path;
use std::sync::Arc;

/// Who published the policies that come with the program.
const SHIPPED_BY: &str = "safeguard";
/// Who published the policies of a user's folder.
const FOLDER_BY: &str = "folder";

/// What the store holds, and what the program brings that was never published.
///
/// # Errors
/// The store fails, or holds a policy that cannot be used.
pub async fn registry(store: &Store) -> Result<Registry, Error> {
    let registry = Registry::new();
    refresh(&registry, store).await?;
    for file in folder::shipped() {
        let known = registry.versions_of(&file.policy.name);
        // A shipped text takes the place of a shipped one, never of what somebody here published.
        let ours = known
            .last()
            .is_none_or(|current| current.published_by == SHIPPED_BY);
        let digest = file.policy.digest();
        if ours && !known.iter().any(|v| *v.digest == *digest) {
            publish(&registry, store, file.policy, ("shipped", SHIPPED_BY)).await?;
        }
    }
    let kept = store.clone();
    registry.look_elsewhere(move |registry| {
        let found = kept.versions_now().map_err(Error::from);
        if let Err(error) = found.and_then(|rows| learn(registry, rows)) {
            tracing::error!("policies of other processes: {error}");
        }
    });
    Ok(registry)
}

/// Learns what other processes published.
///
/// # Errors
/// The store fails; a policy in it cannot be used, which keeps no other from being learned.
pub async fn refresh(registry: &Registry, store: &Store) -> Result<(), Error> {
    learn(registry, store.versions().await?)
}

fn learn(registry: &Registry, rows: Vec<VersionRow>) -> Result<(), Error> {
    let mut failed = Ok(());
    for row in rows {
        if registry.knows(&row.name, row.version) {
            continue;
        }
        let learned = version(row).and_then(|version| Ok(registry.learn(version)?));
        if failed.is_ok() {
            failed = learned;
        }
    }
    failed
}

/// Publishes and keeps: a version that is not stored is not published.
///
/// # Errors
/// The policy has no name that can be registered, the store fails, or others publish under the name all the time.
pub async fn publish(
    registry: &Registry,
    store: &Store,
    policy: Policy,
    (note, by): (&str, &str),
) -> Result<Published, Error> {
    let mut tries = 0;
    loop {
        refresh(registry, store).await?;
        let published = registry.draft(policy.clone(), note, by, now())?;
        if !published.new {
            return Ok(published);
        }
        tries += 1;
        match store.append_version(version_row(&published.version)).await {
            // Another process was quicker; its version is in the store now.
            Err(StoreError::VersionTaken { .. }) if tries < PUBLISH_TRIES_MAX => {}
            Err(error) => return Err(error.into()),
            Ok(()) => {
                registry.learn(Version::clone(&published.version))?;
                return Ok(published);
            }
        }
    }
}

/// Publishes what is new in a folder of policies; gives a line for each policy that was published or cannot be used. A
/// version that a person published gives way only to a file that changed since it was last published from the folder.
///
/// # Errors
/// The folder cannot be read.
pub async fn publish_folder(
    registry: &Registry,
    store: &Store,
    dir: &Path,
) -> Result<Vec<String>, Error> {
    let place = dir.to_owned();
    let read = tokio::task::spawn_blocking(move || folder::load(&place));
    let found = read.await.expect("bug: reading a folder panicked")?;
    let mut lines: Vec<String> = found.failed.iter().map(ToString::to_string).collect();
    for file in found.loaded {
        if !is_new(&registry.versions_of(&file.policy.name), &file.policy) {
            continue;
        }
        let path = folder::policy_file(dir, &file.policy.name);
        let path = path.display().to_string();
        let published = publish(registry, store, file.policy, (&path, FOLDER_BY)).await;
        match published {
            Ok(Published { new: false, .. }) => {}
            Ok(published) => lines.push(format!(
                "published {} from {path}",
                published.version.reference()
            )),
            Err(error) => lines.push(format!("{path}: {error}")),
        }
    }
    Ok(lines)
}

/// Whether a file says something that was not published from its folder last.
fn is_new(known: &[Arc<Version>], policy: &Policy) -> bool {
    let digest = policy.digest();
    let current = known.last().is_some_and(|v| *v.digest == *digest);
    let last = known.iter().rev().find(|v| v.published_by == FOLDER_BY);
    !current && last.is_none_or(|last| *last.digest != *digest)
}

impl Engine {
    /// The same engine, with a folder of the user's: its golden sets count, and [`Engine::take_policies`] publishes from
    /// it.
    #[must_use]
    pub fn with_policies(mut self, folder: Option<&Path>) -> Engine {
        self.folder = folder.map(Arc::from);
        self
    }

    /// Learns what other processes published, and publishes what is new in the user's folder; gives a line for each
    /// policy that was published or cannot be used.
    ///
    /// # Errors
    /// The store fails, or the folder cannot be read.
    pub async fn take_policies(&self) -> Result<Vec<String>, Error> {
        refresh(&self.policies, &self.store).await?;
        match &self.folder {
            Some(dir) => publish_folder(&self.policies, &self.store, dir).await,
            None => Ok(Vec::new()),
        }
    }
}

/// A version as the store keeps it.
fn version_row(version: &Version) -> VersionRow {
    let labels: Vec<&str> = version.policy.labels.iter().map(AsRef::as_ref).collect();
    VersionRow {
        name: version.name.to_string(),
        version: version.number,
        digest: version.digest.to_string(),
        text: version.policy.source.clone(),
        labels: serde_json::Value::from(labels).to_string(),
        title: Some(version.policy.title.clone()),
        published_at: version.published_at,
        published_by: Some(version.published_by.clone()),
        note: Some(version.note.clone()),
    }
}

fn version(row: VersionRow) -> Result<Version, Error> {
    let policy = Arc::new(Policy::parse_as(&row.name, &row.text)?);
    Ok(Version {
        name: row.name.into(),
        number: row.version,
        digest: row.digest.into(),
        policy,
        published_at: row.published_at,
        published_by: row.published_by.unwrap_or_default(),
        note: row.note.unwrap_or_default(),
    })
}

#[cfg(test)]
#[path = "policies_tests.rs"]
mod tests;
