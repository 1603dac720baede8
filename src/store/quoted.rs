//! What the store can say about a digest: the verdicts whose key begins so, and the text where something quotes it.
//!
//! Takes digits and digests, gives digests and texts. Most texts are quoted nowhere: the store keeps their digests.

use super::Store;
use super::db::Optional;
use super::error::StoreError;
use super::records::{Digest, from_hex};

/// Where a text may stand in full, beside its digest.
const QUOTED_IN: [&str; 3] = ["overrides", "evaluation_rows", "backtest_flips"];

impl Store {
    /// Keys of verdicts that begin with these hex digits (of either case, 1 to 64): none, one, or two of several.
    /// Anything else than such digits is the beginning of no key.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn keys_beginning(&self, hex: &str) -> Result<Vec<Digest>, StoreError> {
        let Some((low, high)) = range(hex) else {
            return Ok(Vec::new());
        };
        self.read(move |reader| {
            let mut select = reader.prepare_cached(
                "SELECT DISTINCT verdict_digest FROM verdicts
                 WHERE verdict_digest BETWEEN ?1 AND ?2 LIMIT 2",
            )?;
            select.query_map([low, high], |row| row.get(0))?.collect()
        })
        .await
    }

    /// A text that some table quotes, by its digest.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn quoted_text(&self, text_digest: Digest) -> Result<Option<String>, StoreError> {
        self.read(move |reader| {
            for table in QUOTED_IN {
                let sql = format!(
                    "SELECT text FROM {table} WHERE text_digest = ?1 AND text IS NOT NULL LIMIT 1"
                );
                let mut select = reader.prepare_cached(&sql)?;
                let found = select
                    .query_row([text_digest], |row| row.get(0))
                    .optional()?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        })
        .await
    }
}

/// The first and the last key that begin so.
fn range(hex: &str) -> Option<(Digest, Digest)> {
    if hex.is_empty() {
        return None;
    }
    Some((
        from_hex(&format!("{hex:0<64}"))?,
        from_hex(&format!("{hex:f<64}"))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range_of_keys() {
        let (low, high) = range("aB3").unwrap();
        assert_eq!((low[0], low[1], low[31]), (0xab, 0x30, 0));
        assert_eq!((high[0], high[1], high[31]), (0xab, 0x3f, 0xff));
        let whole = "0123456789abcdef".repeat(4);
        let (low, high) = range(&whole).unwrap();
        assert_eq!(low, high);
        for bad in ["", "xyz", "ab cd", &format!("{whole}0"), "ä"] {
            assert_eq!(range(bad), None, "{bad:?}");
        }
    }
}
