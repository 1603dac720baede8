//! The screens that come with the program, put into a store that does not know them yet.
//!
//! Takes weights and certificates from [`crate::policy::folder`], appends them as events `shipped`. They were certified on
//! labels of public data sets, for the embedded demonstration model: beside any other model they are not in force, and
//! `safeguard_train_screen` makes one that is. Knows nothing of how they decide.

use crate::backend::ModelIdentity;
use crate::error::Error;
use crate::policy::{Registry, folder};
use crate::store::{ScreenEvent, Store, now};
use serde::Deserialize;

/// What `policies/<name>/screen.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    /// Of the policy's version that the labels belong to.
    policy_digest: String,
    /// BLAKE3 of `screen.bin`.
    screen_digest: String,
    target: f64,
    delta: f64,
    clear_below: Option<f64>,
    recall_bound: Option<f64>,
    precision_target: Option<f64>,
    convict_above: Option<f64>,
    precision_bound: Option<f64>,
    texts: u64,
    cleared: u64,
    convicted: u64,
    labels: u64,
    violating: u64,
    trained_on: u64,
    finding: String,
}

/// Appends what the store does not know. What was trained or turned off in it stays the latest.
///
/// # Errors
/// The store fails.
pub(super) async fn ship(
    store: &Store,
    policies: &Registry,
    model: &ModelIdentity,
) -> Result<(), Error> {
    if !model.demonstration {
        return Ok(());
    }
    for shipped in folder::SCREENS {
        let certificate: Certificate =
            toml::from_str(shipped.certificate).expect("bug: a shipped certificate cannot be read");
        let digest = blake3::hash(shipped.weights);
        assert_eq!(
            digest.to_hex().as_str(),
            certificate.screen_digest,
            "bug: the shipped screen of {} is not the certified one",
            shipped.policy
        );
        // Of all versions of this name, the one that the certificate is about.
        let versions = policies.versions_of(shipped.policy);
        let Some(version) = versions
            .iter()
            .find(|version| *version.digest == *certificate.policy_digest)
        else {
            continue;
        };
        let known = store.knows_screen(*digest.as_bytes(), &version.digest, &model.digest);
        if known.await? {
            continue;
        }
        let latest = store.latest_screen(&version.digest, &model.digest).await?;
        if latest.is_some_and(|latest| latest.event != "shipped") {
            continue;
        }
        let event = ScreenEvent {
            event: "shipped".into(),
            at: now(),
            policy: shipped.policy.into(),
            policy_version: version.number,
            policy_digest: version.digest.to_string(),
            screen_digest: *digest.as_bytes(),
            reasoner: model.name.to_string(),
            reasoner_digest: model.digest.to_string(),
            basis: "gold".into(),
            source: None,
            slice: None,
            on: certificate.clear_below.is_some() || certificate.convict_above.is_some(),
            target: certificate.target,
            delta: certificate.delta,
            clear_below: certificate.clear_below,
            recall_bound: certificate.recall_bound,
            precision_target: certificate.precision_target,
            convict_above: certificate.convict_above,
            precision_bound: certificate.precision_bound,
            texts: certificate.texts,
            cleared: certificate.cleared,
            convicted: certificate.convicted,
            labels: certificate.labels,
            violating: certificate.violating,
            trained_on: certificate.trained_on,
            more_labels: None,
            finding: certificate.finding,
        };
        let weights = Some(shipped.weights.to_vec());
        store.append_screen(vec![event], weights).await?;
    }
    Ok(())
}
