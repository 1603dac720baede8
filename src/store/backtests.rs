//! Backtests as they are kept: what each estimated, and the sampled rows that changed.
//!
//! Plain rows, their writes, and the one read that others need. Knows nothing of samples or estimates.

use super::db::{self, Connection, Optional, params};
use super::error::StoreError;
use super::records::Digest;
use super::{Store, facts::count};
use std::sync::Arc;

/// A version of a policy, as a backtest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// The policy's name, or `inline`.
    pub policy: Arc<str>,
    /// From 1; 0 for an inline policy.
    pub version: u32,
    /// See [`super::Record::policy_digest`].
    pub digest: Arc<str>,
}

/// A share with its interval, each 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// The share itself.
    pub share: f64,
    /// Not above it.
    pub low: f64,
    /// Not below it.
    pub high: f64,
}

/// What a backtest found.
#[derive(Debug, Clone, PartialEq)]
pub struct BacktestRow {
    /// The version that stands.
    pub old: Tested,
    /// The version that is tried.
    pub new: Tested,
    /// The model's name.
    pub model: Arc<str>,
    /// Weights and numerics class.
    pub model_digest: Arc<str>,
    /// The setting it was judged under.
    pub mode: Arc<str>,
    /// The setting it was judged under.
    pub effort: Arc<str>,
    /// Rows that were to be sampled.
    pub sample: u64,
    /// What fixes the sample.
    pub seed: i64,
    /// Rows of the source with a text.
    pub source_rows: u64,
    /// Sampled rows that both versions have judged.
    pub sampled: u64,
    /// Those of them that changed.
    pub flips: u64,
    /// Changed rows as a share of the source; `None` where nothing was judged.
    pub share: Option<Share>,
    /// Rows that were asked again under the old version.
    pub noise_sampled: u64,
    /// How often each.
    pub noise_repeats: u64,
    /// Share of the source that changes when the old version is asked again; `None` where it was not.
    pub noise: Option<Share>,
    /// Texts that were asked, those for the noise floor left out.
    pub asked: u64,
    /// Prompt tokens that the new version would cost over the whole source; `None` where nothing was sampled.
    pub tokens: Option<u64>,
    /// Hours that asking the whole source would take at the rate of this run; `None` where it asked nothing.
    pub hours: Option<f64>,
    /// Wall time of the backtest.
    pub seconds: f64,
    /// Microseconds since 1970-01-01 UTC.
    pub backtested_at: i64,
    /// Who.
    pub backtested_by: String,
    /// Why.
    pub note: Option<String>,
    /// The source's SQL as typed.
    pub source: String,
}

/// What one side said about a row: a label or a reason.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SideRow {
    /// One of the policy's labels; `None` where undecided.
    pub label: Option<Arc<str>>,
    /// Why it is undecided.
    pub reason: Option<Arc<str>>,
    /// P(not the allowed label).
    pub score: Option<f64>,
    /// Codes of the rules that the rationale names.
    pub rules: Vec<Arc<str>>,
    /// The stored why. It can quote the text; erasure blanks it.
    pub rationale: Option<Arc<str>>,
}

/// A sampled row that changed.
#[derive(Debug, Clone, PartialEq)]
pub struct FlipRow {
    /// What tells rows apart for the user.
    pub row_id: Option<String>,
    /// See [`super::text_digest`].
    pub text_digest: Digest,
    /// The text; erasure blanks it.
    pub text: Arc<str>,
    /// Where it was drawn from.
    pub stratum: Arc<str>,
    /// How much the row matters, where the source says so.
    pub weight: Option<f64>,
    /// From what to what.
    pub direction: &'static str,
    /// Before.
    pub old: SideRow,
    /// After.
    pub new: SideRow,
}

/// What one line of the answer said.
#[derive(Debug, Clone, PartialEq)]
pub struct FindingRow {
    /// `total`, `direction`, `rule`, `stratum` or `noise`.
    pub section: &'static str,
    /// Which of them.
    pub name: String,
    /// Rows of the source that it is about.
    pub source_rows: u64,
    /// Sampled rows that it stands on.
    pub sampled: u64,
    /// Those of them that changed.
    pub flips: u64,
    /// Their share of those rows of the source; `None` where there was nothing to measure.
    pub share: Option<Share>,
}

/// Blanks what the flips of backtests quote of the text with the digest `?1`.
pub(super) const ERASE: &str = "UPDATE backtest_flips
     SET text = NULL, old_rationale = NULL, new_rationale = NULL
     WHERE text_digest = ?1 AND (text IS NOT NULL OR old_rationale IS NOT NULL
                                 OR new_rationale IS NOT NULL)";

impl Store {
    /// Stores a backtest with its findings and flips, whole or not at all; gives its id.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub async fn append_backtest(
        &self,
        row: BacktestRow,
        findings: Vec<FindingRow>,
        flips: Vec<FlipRow>,
    ) -> Result<i64, StoreError> {
        self.transact(move |writer| {
            let id = insert(writer, &row)?;
            let mut places = findings.iter().zip(1..);
            places.try_for_each(|(finding, place)| insert_finding(writer, (id, place), finding))?;
            flips
                .iter()
                .try_for_each(|flip| insert_flip(writer, id, flip))?;
            Ok(id)
        })
        .await
    }

    /// When the sample of this key was first drawn: now (microseconds since 1970-01-01 UTC) where it never was, which is
    /// then kept.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub async fn drawn_at(&self, key: Digest, now: i64) -> Result<i64, StoreError> {
        self.transact(move |writer| {
            let draw = "INSERT INTO backtest_draws (key, drawn_at) VALUES (?1, ?2)
                        ON CONFLICT (key) DO NOTHING";
            writer.prepare_cached(draw)?.execute(params![key, now])?;
            let drawn = "SELECT drawn_at FROM backtest_draws WHERE key = ?1";
            writer
                .prepare_cached(drawn)?
                .query_row([key], |row| row.get(0))
        })
        .await
    }

    /// The noise floor beside two versions (digests of policies) under a model: of the latest backtest of the two that
    /// measured it, with its id; else of the latest of the old version against any other, since the floor is the old
    /// one's.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn noise_floor(
        &self,
        old: Arc<str>,
        new: Arc<str>,
        model_digest: Arc<str>,
    ) -> Result<Option<(i64, Share)>, StoreError> {
        let sql = "SELECT id, noise_share, noise_low, noise_high FROM backtests
                   WHERE old_digest = ?1 AND model_digest = ?3 AND noise_share IS NOT NULL
                   ORDER BY new_digest = ?2 DESC, id DESC LIMIT 1";
        self.read(move |reader| {
            let read = |row: &db::Row<'_>| {
                let share = Share {
                    share: row.get(1)?,
                    low: row.get(2)?,
                    high: row.get(3)?,
                };
                Ok((row.get(0)?, share))
            };
            let mut select = reader.prepare_cached(sql)?;
            let by = [&old, &new, &model_digest];
            select.query_row(by, read).optional()
        })
        .await
    }
}

fn insert(writer: &Connection, b: &BacktestRow) -> db::Result<i64> {
    let sql = "INSERT INTO backtests (old_policy, old_version, old_digest, new_policy, new_version,
                   new_digest, model, model_digest, mode, effort, sample, seed, source_rows,
                   sampled, flips, share, share_low, share_high, noise_sampled, noise_repeats,
                   noise_share, noise_low, noise_high, asked, tokens, hours, seconds,
                   backtested_at, backtested_by, note, source)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                   ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31)";
    writer.prepare_cached(sql)?.insert(params![
        b.old.policy,
        b.old.version,
        b.old.digest,
        b.new.policy,
        b.new.version,
        b.new.digest,
        b.model,
        b.model_digest,
        b.mode,
        b.effort,
        count(b.sample),
        b.seed,
        count(b.source_rows),
        count(b.sampled),
        count(b.flips),
        b.share.map(|s| s.share),
        b.share.map(|s| s.low),
        b.share.map(|s| s.high),
        count(b.noise_sampled),
        count(b.noise_repeats),
        b.noise.map(|s| s.share),
        b.noise.map(|s| s.low),
        b.noise.map(|s| s.high),
        count(b.asked),
        b.tokens.map(count),
        b.hours,
        b.seconds,
        b.backtested_at,
        b.backtested_by,
        b.note,
        b.source,
    ])
}

fn insert_finding(
    writer: &Connection,
    (backtest, place): (i64, i64),
    f: &FindingRow,
) -> db::Result<()> {
    let sql = "INSERT INTO backtest_findings (backtest, place, section, name, source_rows, sampled,
                   flips, share, share_low, share_high)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values = params![
        backtest,
        place,
        f.section,
        f.name,
        count(f.source_rows),
        count(f.sampled),
        count(f.flips),
        f.share.map(|s| s.share),
        f.share.map(|s| s.low),
        f.share.map(|s| s.high),
    ];
    writer.prepare_cached(sql)?.execute(values).map(drop)
}

fn insert_flip(writer: &Connection, backtest: i64, f: &FlipRow) -> db::Result<()> {
    let sql = "INSERT INTO backtest_flips (backtest, row_id, text_digest, stratum, weight,
                   direction, old_label, old_reason, old_score, old_rules, new_label, new_reason,
                   new_score, new_rules, text, old_rationale, new_rationale)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
    let values = params![
        backtest,
        f.row_id,
        f.text_digest,
        f.stratum,
        f.weight,
        f.direction,
        f.old.label,
        f.old.reason,
        f.old.score,
        words(&f.old.rules),
        f.new.label,
        f.new.reason,
        f.new.score,
        words(&f.new.rules),
        f.text,
        f.old.rationale,
        f.new.rationale,
    ];
    writer.prepare_cached(sql)?.execute(values).map(drop)
}

/// As the column kind `Words` reads them back.
fn words(rules: &[Arc<str>]) -> Option<String> {
    let codes: Vec<&str> = rules.iter().map(|code| &**code).collect();
    (!codes.is_empty()).then(|| serde_json::Value::from(codes).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::bed::{Bed, on_both};
    use crate::store::tests::{rows, session};
    use crate::store::text_digest;

    fn backtest(noise: Option<f64>) -> BacktestRow {
        let tested = |version| Tested {
            policy: "hate".into(),
            version,
            digest: format!("digest {version}").into(),
        };
        let share = |share| Share {
            share,
            low: share / 2.0,
            high: share * 2.0,
        };
        BacktestRow {
            old: tested(1),
            new: tested(2),
            model: "m".into(),
            model_digest: "md".into(),
            mode: "auto".into(),
            effort: "low".into(),
            sample: 10,
            seed: -3,
            source_rows: 100,
            sampled: 9,
            flips: 1,
            share: Some(share(0.125)),
            noise_sampled: 9,
            noise_repeats: 1,
            noise: noise.map(share),
            asked: 18,
            tokens: Some(1_000),
            hours: None,
            seconds: 0.5,
            backtested_at: 7,
            backtested_by: "ada".into(),
            note: None,
            source: "SELECT body FROM posts".into(),
        }
    }

    fn flip(text: &str) -> FlipRow {
        let side = |label: &str| SideRow {
            label: Some(label.into()),
            reason: None,
            score: Some(0.5),
            rules: vec!["H1".into()],
            rationale: Some(format!("{label} says {text}").into()),
        };
        FlipRow {
            row_id: Some("7".into()),
            text_digest: text_digest(text),
            text: text.into(),
            stratum: "allowed".into(),
            weight: None,
            direction: "allowed->violating",
            old: side("allowed"),
            new: side("hateful"),
        }
    }

    fn finding() -> FindingRow {
        FindingRow {
            section: "direction",
            name: "allowed->violating".into(),
            source_rows: 400,
            sampled: 9,
            flips: 1,
            share: Some(Share {
                share: 0.125,
                low: 0.0,
                high: 0.25,
            }),
        }
    }

    async fn a_backtest_is_kept_and_its_texts_can_be_erased(bed: Bed) {
        let store = bed.new_store();
        let flips = vec![flip("a quote"), flip("another")];
        let id = store
            .append_backtest(backtest(None), vec![finding()], flips)
            .await
            .unwrap();
        let session = session(&store).await;
        let kept = "SELECT id, old_policy, new_version, seed, share, share_high, noise_share, hours FROM safeguard.backtests";
        assert_eq!(
            rows(&session, kept).await,
            [format!("{id}|hate|2|-3|0.125|0.25||")]
        );
        let found =
            "SELECT backtest, place, section, flips, share_high, projected_rows, projected_high
                     FROM safeguard.backtest_findings";
        assert_eq!(
            rows(&session, found).await,
            [format!("{id}|1|direction|1|0.25|50|100")]
        );
        let digest = text_digest("a quote");
        assert_eq!(
            store.quoted_text(digest).await.unwrap().as_deref(),
            Some("a quote")
        );
        assert_eq!(store.erase_text(digest).await.unwrap(), 1);
        assert_eq!(store.erase_text(digest).await.unwrap(), 0);
        assert_eq!(store.quoted_text(digest).await.unwrap(), None);
        let flips = "SELECT backtest, row_id, text, old_label, old_rationale, new_rationale, new_rules, new_score
                     FROM safeguard.backtest_flips ORDER BY text";
        assert_eq!(
            rows(&session, flips).await,
            [
                format!(
                    "{id}|7|another|allowed|allowed says another|hateful says another|[H1]|0.5"
                ),
                format!("{id}|7||allowed|||[H1]|0.5"),
            ]
        );
    }

    async fn a_torn_flip_keeps_the_whole_backtest_out(bed: Bed) {
        let store = bed.new_store();
        let torn = FlipRow {
            new: SideRow::default(),
            ..flip("neither a label nor a reason")
        };
        let kept = store
            .append_backtest(backtest(None), vec![finding()], vec![flip("a"), torn])
            .await;
        assert!(kept.is_err());
        let session = session(&store).await;
        assert_eq!(
            rows(&session, "SELECT id FROM safeguard.backtests")
                .await
                .len(),
            0
        );
    }

    async fn a_sample_is_drawn_once(bed: Bed) {
        let store = bed.new_store();
        for (key, now, want) in [(1, 7, 7), (1, 9, 7), (2, 9, 9), (1, 3, 7)] {
            assert_eq!(store.drawn_at([key; 32], now).await.unwrap(), want);
        }
    }

    async fn the_noise_floor_is_the_latest_of_the_two_versions(bed: Bed) {
        let store = bed.new_store();
        let other = BacktestRow {
            new: Tested {
                policy: "hate".into(),
                version: 3,
                digest: "digest 3".into(),
            },
            ..backtest(Some(0.25))
        };
        for row in [
            backtest(Some(0.5)),
            backtest(Some(0.125)),
            backtest(None),
            other,
        ] {
            store
                .append_backtest(row, Vec::new(), Vec::new())
                .await
                .unwrap();
        }
        let floor = |old: &str, new: &str, model: &str| {
            store.noise_floor(old.into(), new.into(), model.into())
        };
        let share = |found: Option<(i64, Share)>| found.map(|(id, share)| (id, share.share));
        let cases = [
            ("digest 1", "digest 2", "md", Some((2, 0.125))),
            ("digest 1", "digest 9", "md", Some((4, 0.25))),
            ("digest 2", "digest 1", "md", None),
            ("digest 1", "digest 2", "other", None),
        ];
        for (old, new, model, want) in cases {
            let found = floor(old, new, model).await.unwrap();
            assert_eq!(share(found), want, "{old} {new} {model}");
        }
    }

    on_both!(
        a_backtest_is_kept_and_its_texts_can_be_erased,
        a_torn_flip_keeps_the_whole_backtest_out,
        a_sample_is_drawn_once,
        the_noise_floor_is_the_latest_of_the_two_versions,
    );
}
