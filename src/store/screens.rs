//! Screens as they are kept: weights by digest, and what was certified of them.
//!
//! Takes events with their weights, stores them whole or not at all; gives the screen that is in force for a policy's text
//! beside a reasoner. Knows nothing of what weights mean or how a bound is found.

use super::db::{self, Connection, Optional, Row, params};
use super::facts::count;
use super::records::Digest;
use super::{Store, StoreError};

/// Something that happened to a screen, for all texts or those of one slice. Appended, never updated.
#[derive(Debug, Clone, PartialEq)]
pub struct ScreenEvent {
    /// `shipped`, `trained`, `audited` or `turned_off`.
    pub event: String,
    /// Microseconds since 1970-01-01 UTC.
    pub at: i64,
    /// The policy's name.
    pub policy: String,
    /// Its version, from 1; 0 for an inline policy.
    pub policy_version: u32,
    /// See [`super::Record::policy_digest`].
    pub policy_digest: String,
    /// BLAKE3 of the weights.
    pub screen_digest: Digest,
    /// The name of the model that the screen stands in front of.
    pub reasoner: String,
    /// Weights and numerics class of that model.
    pub reasoner_digest: String,
    /// Whose labels the certificate rests on: `reasoner` or `gold`.
    pub basis: String,
    /// The table or query that the texts came from; `None` for golden texts.
    pub source: Option<String>,
    /// `None` for all texts.
    pub slice: Option<String>,
    /// Whether the screen may decide from now on.
    pub on: bool,
    /// Recall that was asked for, between 0 and 1.
    pub target: f64,
    /// Probability that a bound may be wrong, between 0 and 1.
    pub delta: f64,
    /// Texts that score less are cleared; `None` where none are.
    pub clear_below: Option<f64>,
    /// Lower bound on the share of violating texts that are not cleared.
    pub recall_bound: Option<f64>,
    /// Precision that was asked for, where convicting was.
    pub precision_target: Option<f64>,
    /// Texts that score this or more are convicted; `None` where none are.
    pub convict_above: Option<f64>,
    /// Lower bound on the share of violating texts among the convicted.
    pub precision_bound: Option<f64>,
    /// Distinct texts that the certificate is about.
    pub texts: u64,
    /// Those of them that the screen clears.
    pub cleared: u64,
    /// Those of them that the screen convicts.
    pub convicted: u64,
    /// Labels that the bounds rest on.
    pub labels: u64,
    /// Those of them that violate.
    pub violating: u64,
    /// Labels that the weights were made from.
    pub trained_on: u64,
    /// How many labels more would do, where the target was not reached; `None` where it was, or where no number would.
    pub more_labels: Option<u64>,
    /// All this in words.
    pub finding: String,
}

/// A screen that may decide.
#[derive(Debug, Clone, PartialEq)]
pub struct ScreenInForce {
    /// BLAKE3 of the weights.
    pub digest: Digest,
    /// See [`ScreenEvent::clear_below`].
    pub clear_below: Option<f64>,
    /// See [`ScreenEvent::convict_above`].
    pub convict_above: Option<f64>,
}

impl Store {
    /// Stores what happened to one screen: a row for all texts and one for each slice, and the weights where they are new.
    /// Gives the certificate's number. What is stored last counts.
    pub async fn append_screen(
        &self,
        events: Vec<ScreenEvent>,
        weights: Option<Vec<u8>>,
    ) -> Result<i64, StoreError> {
        self.transact(move |writer| {
            if let (Some(bytes), Some(event)) = (&weights, events.first()) {
                let sql = "INSERT INTO screen_weights (digest, bytes) VALUES (?1, ?2)
                           ON CONFLICT (digest) DO NOTHING";
                writer
                    .prepare_cached(sql)?
                    .execute(params![event.screen_digest, bytes])?;
            }
            let last = "SELECT coalesce(max(certificate), 0) + 1 FROM screens";
            let certificate = writer.query_row(last, (), |row| row.get(0))?;
            for event in &events {
                append(writer, certificate, event)?;
            }
            Ok(certificate)
        })
        .await
    }

    /// The screen that may decide for this text of a policy before this model is asked; `None` where none may.
    pub async fn screen_in_force(
        &self,
        policy_digest: &str,
        reasoner_digest: &str,
    ) -> Result<Option<ScreenInForce>, StoreError> {
        let latest = self.latest_screen(policy_digest, reasoner_digest).await?;
        Ok(latest.filter(|event| event.on).map(|event| ScreenInForce {
            digest: event.screen_digest,
            clear_below: event.clear_below,
            convict_above: event.convict_above,
        }))
    }

    /// What happened last to the screen of this text of a policy before this model, over all texts.
    pub async fn latest_screen(
        &self,
        policy_digest: &str,
        reasoner_digest: &str,
    ) -> Result<Option<ScreenEvent>, StoreError> {
        let by = [policy_digest.to_owned(), reasoner_digest.to_owned()];
        self.read(move |reader| {
            let mut select = reader.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM screens
                 WHERE policy_digest = ?1 AND reasoner_digest = ?2 AND slice IS NULL
                 ORDER BY certificate DESC LIMIT 1"
            ))?;
            let [policy, reasoner] = &by;
            select.query_row([policy, reasoner], event).optional()
        })
        .await
    }

    /// Whether something is known of these weights for this text of a policy before this model, whatever came after.
    pub async fn knows_screen(
        &self,
        screen_digest: Digest,
        policy_digest: &str,
        reasoner_digest: &str,
    ) -> Result<bool, StoreError> {
        let (policy, reasoner) = (policy_digest.to_owned(), reasoner_digest.to_owned());
        self.read(move |reader| {
            let sql = "SELECT EXISTS (SELECT 1 FROM screens WHERE screen_digest = ?1
                       AND policy_digest = ?2 AND reasoner_digest = ?3)";
            let values = params![screen_digest, policy, reasoner];
            reader
                .prepare_cached(sql)?
                .query_row(values, |row| row.get(0))
        })
        .await
    }

    /// The weights with this digest.
    pub async fn screen_weights(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |reader| {
            let sql = "SELECT bytes FROM screen_weights WHERE digest = ?1";
            let mut select = reader.prepare_cached(sql)?;
            select.query_row([digest], |row| row.get(0)).optional()
        })
        .await
    }
}

const COLUMNS: &str = "event, at, policy, policy_version, policy_digest, screen_digest, reasoner,
    reasoner_digest, basis, source, slice, state, target, delta, clear_below, recall_bound,
    precision_target, convict_above, precision_bound, texts, cleared, convicted, labels, violating,
    trained_on, more_labels, finding";

fn append(writer: &Connection, certificate: i64, e: &ScreenEvent) -> db::Result<()> {
    let sql = format!(
        "INSERT INTO screens (certificate, {COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
                 ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28)"
    );
    let values = params![
        certificate,
        e.event,
        e.at,
        e.policy,
        e.policy_version,
        e.policy_digest,
        e.screen_digest,
        e.reasoner,
        e.reasoner_digest,
        e.basis,
        e.source,
        e.slice,
        if e.on { "on" } else { "off" },
        e.target,
        e.delta,
        e.clear_below,
        e.recall_bound,
        e.precision_target,
        e.convict_above,
        e.precision_bound,
        count(e.texts),
        count(e.cleared),
        count(e.convicted),
        count(e.labels),
        count(e.violating),
        count(e.trained_on),
        e.more_labels.map(count),
        e.finding,
    ];
    writer.prepare_cached(&sql)?.execute(values).map(drop)
}

/// A row of [`COLUMNS`].
fn event(row: &Row<'_>) -> db::Result<ScreenEvent> {
    let whole = |at| row.get::<i64>(at).map(|n| u64::try_from(n).unwrap_or(0));
    Ok(ScreenEvent {
        event: row.get(0)?,
        at: row.get(1)?,
        policy: row.get(2)?,
        policy_version: row.get(3)?,
        policy_digest: row.get(4)?,
        screen_digest: row.get(5)?,
        reasoner: row.get(6)?,
        reasoner_digest: row.get(7)?,
        basis: row.get(8)?,
        source: row.get(9)?,
        slice: row.get(10)?,
        on: row.get::<String>(11)? == "on",
        target: row.get(12)?,
        delta: row.get(13)?,
        clear_below: row.get(14)?,
        recall_bound: row.get(15)?,
        precision_target: row.get(16)?,
        convict_above: row.get(17)?,
        precision_bound: row.get(18)?,
        texts: whole(19)?,
        cleared: whole(20)?,
        convicted: whole(21)?,
        labels: whole(22)?,
        violating: whole(23)?,
        trained_on: whole(24)?,
        more_labels: row
            .get::<Option<i64>>(25)?
            .map(|n| u64::try_from(n).unwrap_or(0)),
        finding: row.get(26)?,
    })
}

#[cfg(test)]
#[path = "screens_tests.rs"]
mod tests;
