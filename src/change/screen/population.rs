//! The different texts that a screen is for, each once, in an order that no row has a say in.
//!
//! Takes a table or query, gives texts by the random number of their digest. Of more texts than the limit, those with the
//! smallest numbers: a uniform sample of the different texts, whatever the order of rows and however often each is there.

use crate::change::source::{Named, Source, find, refused};
use crate::config::{SCREEN_SLICES_MAX, SCREEN_SOURCE_BYTES_MAX, SCREEN_SOURCE_TEXTS_MAX};
use crate::engine::functions::Call;
use crate::engine::golden::query_of;
use crate::error::Error;
use crate::screen::sample::{Purpose, number};
use crate::store::{Digest, text_digest};
use datafusion::arrow::array::{Array, AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use futures::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the texts are read from.
#[derive(Debug, Clone)]
pub(super) struct From {
    /// A table or a query.
    pub source: Arc<str>,
    /// The column with the texts, where it was named.
    pub text: Option<String>,
    /// The column whose values get bounds of their own.
    pub slice: Option<String>,
}

/// Different texts.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pub texts: Vec<Arc<str>>,
    /// What tells each apart for a sample.
    pub keys: Vec<u64>,
    /// The names of the slices, and which each text is in; empty where no column was named.
    pub slices: Vec<Arc<str>>,
    pub slice_of: Vec<u32>,
    /// Whether they stand for more.
    pub cut: bool,
}

impl Texts {
    /// Leaves out texts by what they say and their keys.
    pub(super) fn retain(&mut self, keep: impl Fn(&Arc<str>, u64) -> bool) {
        let texts = self.texts.iter().zip(&self.keys);
        let keep: Vec<bool> = texts.map(|(text, key)| keep(text, *key)).collect();
        let mut kept = keep.iter();
        self.texts.retain(|_| kept.next().is_some_and(|keep| *keep));
        let mut kept = keep.iter();
        self.keys.retain(|_| kept.next().is_some_and(|keep| *keep));
        let mut kept = keep.iter();
        self.slice_of
            .retain(|_| kept.next().is_some_and(|keep| *keep));
    }
}

/// The number that tells a text apart.
pub(super) fn key(digest: &Digest) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(bytes)
}

/// A slice of rows without a value.
const NO_VALUE: &str = "NULL";

struct Kept {
    text: Arc<str>,
    slice: Option<Arc<str>>,
}

/// Reads the source once.
///
/// # Errors
/// As [`Source::resolve`]; what reading it finds; 54000 for more slices than the limit.
pub(super) async fn read(call: &Call, from: &From, seed: u64) -> Result<Texts, Error> {
    let session = call.session();
    let (query, _) = query_of(&session, &from.source, "the source").await?;
    let named = Named {
        text: from.text.clone(),
        ..Named::default()
    };
    let columns = session.query_columns(&query).await?;
    let source = Source::of(&columns, &query, named)?;
    let slice = match &from.slice {
        Some(name) => Some(find(&columns, name)?.name().clone()),
        None => None,
    };
    let mut reading = Reading {
        seed,
        limits: (SCREEN_SOURCE_TEXTS_MAX, SCREEN_SOURCE_BYTES_MAX),
        ..Reading::default()
    };
    let mut batches = session.query(&source.select_by(slice.as_deref())).await?;
    while let Some(batch) = batches.try_next().await? {
        let column = |name: &str| -> Result<StringArray, Error> {
            let found = batch.column_by_name(name);
            let found = found.unwrap_or_else(|| panic!("bug: the source has no column {name}"));
            let texts =
                cast(found, &DataType::Utf8).map_err(datafusion::common::DataFusionError::from)?;
            Ok(texts.as_string::<i32>().clone())
        };
        let texts = column("text")?;
        let slices = slice.is_some().then(|| column("strata")).transpose()?;
        for row in 0..batch.num_rows() {
            let slice = slices.as_ref().map(|slices| match slices.is_null(row) {
                true => NO_VALUE,
                false => slices.value(row),
            });
            reading.row(texts.value(row), slice)?;
        }
        call.statement().tally().saw_rows(batch.num_rows() as u64);
    }
    Ok(reading.texts())
}

#[derive(Default)]
struct Reading {
    seed: u64,
    /// Texts and bytes.
    limits: (usize, usize),
    kept: BTreeMap<(u64, Digest), Kept>,
    bytes: usize,
    slices: BTreeSet<Arc<str>>,
    cut: bool,
}

impl Reading {
    fn row(&mut self, text: &str, slice: Option<&str>) -> Result<(), Error> {
        let digest = text_digest(text);
        let slice = match slice {
            Some(slice) => Some(self.slice(slice)?),
            None => None,
        };
        let place = (number(key(&digest), self.seed, Purpose::Source), digest);
        let room = !self.cut
            || self
                .kept
                .last_key_value()
                .is_some_and(|(last, _)| place < *last);
        if let Some(known) = self.kept.get_mut(&place) {
            // The same text in several slices is in the first of them, whichever row comes first.
            known.slice = known.slice.take().min(slice);
        } else if room {
            self.bytes += text.len();
            let text = text.into();
            self.kept.insert(place, Kept { text, slice });
        }
        let (texts, bytes) = self.limits;
        while self.kept.len() > texts || (self.bytes > bytes && self.kept.len() > 1) {
            let (_, dropped) = self.kept.pop_last().expect("bug: nothing to drop");
            self.bytes -= dropped.text.len();
            self.cut = true;
        }
        Ok(())
    }

    fn slice(&mut self, value: &str) -> Result<Arc<str>, Error> {
        if let Some(known) = self.slices.get(value) {
            return Ok(Arc::clone(known));
        }
        if self.slices.len() == SCREEN_SLICES_MAX {
            let why = format!(
                "the column of the slices has more than {SCREEN_SLICES_MAX} different values"
            );
            return Err(refused("54000", why));
        }
        let value: Arc<str> = value.into();
        self.slices.insert(Arc::clone(&value));
        Ok(value)
    }

    fn texts(self) -> Texts {
        let slices: Vec<Arc<str>> = self.slices.into_iter().collect();
        let mut found = Texts {
            cut: self.cut,
            ..Texts::default()
        };
        for ((_, digest), kept) in self.kept {
            found.keys.push(key(&digest));
            found.texts.push(kept.text);
            if let Some(slice) = kept.slice {
                let place = slices
                    .binary_search(&slice)
                    .expect("bug: a slice without a name");
                found.slice_of.push(place as u32);
            }
        }
        found.slices = slices;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rows: &[(&str, Option<&str>)], limits: (usize, usize)) -> Texts {
        let mut reading = Reading {
            seed: 7,
            limits,
            ..Reading::default()
        };
        rows.iter()
            .for_each(|(text, slice)| reading.row(text, *slice).unwrap());
        reading.texts()
    }

    #[test]
    fn each_text_is_there_once_in_an_order_of_its_own() {
        let rows = [
            ("a", Some("x")),
            ("b", Some("y")),
            ("a", Some("w")),
            ("c", Some("x")),
        ];
        let mut turned = rows;
        turned.reverse();
        let (one, other) = (read(&rows, (10, 100)), read(&turned, (10, 100)));
        assert_eq!(one.texts, other.texts);
        assert_eq!(one.slice_of, other.slice_of);
        assert_eq!((one.texts.len(), one.slices.len(), one.cut), (3, 3, false));
        let a = one.texts.iter().position(|text| &**text == "a").unwrap();
        assert_eq!(&*one.slices[one.slice_of[a] as usize], "w");
    }

    #[test]
    fn of_too_many_a_sample_stands_for_all_in_any_order() {
        let texts: Vec<String> = (0..1_000).map(|n| format!("text {n:03}")).collect();
        let rows: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (&**text, None)).collect();
        let mut turned = rows.clone();
        turned.reverse();
        let (one, other) = (read(&rows, (100, 10_000)), read(&turned, (100, 10_000)));
        assert!(one.cut && one.texts.len() == 100 && one.texts == other.texts);
        let late = one
            .texts
            .iter()
            .filter(|text| ***text >= *"text 500")
            .count();
        assert!((30..70).contains(&late), "{late}");
        // 8 bytes each.
        assert_eq!(read(&rows, (1_000, 400)).texts.len(), 50);
    }

    #[test]
    fn there_are_only_so_many_slices() {
        let mut reading = Reading {
            limits: (1_000, 1_000),
            ..Reading::default()
        };
        for value in 0..SCREEN_SLICES_MAX {
            reading.row("a", Some(&value.to_string())).unwrap();
        }
        let error = reading.row("b", Some("one more")).unwrap_err();
        assert_eq!(error.sqlstate(), "54000");
    }
}
