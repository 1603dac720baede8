//! Recall: which keys are stored is known in memory, what is stored under them is read from the file.
//!
//! Takes keys, gives records. The index holds half of each key (16 bytes: collisions are out of reach, and the whole key
//! is compared when the row is read) and its latest row, about 50 bytes a key. It is loaded at the first recall and kept
//! up by row number: SQLite says for next to nothing whether anyone, in this process or another, has committed since.

use super::error::StoreError;
use super::open;
use super::readers::Readers;
use super::records::{Digest, Record};
use rusqlite::{CachedStatement, Connection, Row};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

type Half = [u8; 16];

/// What is known without reading the file.
pub(super) struct Index {
    path: PathBuf,
    watch: Mutex<Watch>,
    rows: RwLock<HashMap<Half, i64>>,
    judges: RwLock<HashMap<i64, Arc<Judge>>>,
}

/// Sees what was committed since it last looked.
#[derive(Default)]
struct Watch {
    connection: Option<Connection>,
    /// SQLite's `data_version` at the last look; `None` before the first.
    version: Option<i64>,
    /// The highest row in the index.
    last: i64,
}

/// A row of `judges`.
struct Judge {
    policy: Arc<str>,
    policy_version: u32,
    policy_digest: Arc<str>,
    stage: Arc<str>,
    mode: Arc<str>,
    effort: Arc<str>,
    model: Arc<str>,
    model_digest: Arc<str>,
}

fn half(key: &Digest) -> Half {
    let mut half = Half::default();
    half.copy_from_slice(&key[..16]);
    half
}

impl Index {
    pub(super) fn new(path: &Path) -> Index {
        Index {
            path: path.to_path_buf(),
            watch: Mutex::default(),
            rows: RwLock::default(),
            judges: RwLock::default(),
        }
    }

    /// Lets go of the file.
    pub(super) fn close(&self) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Watch::default();
    }

    /// See [`super::Store::recall`]. Blocks.
    pub(super) fn recall(
        &self,
        readers: &Arc<Readers>,
        keys: &[Digest],
    ) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        self.refresh()?;
        let mut hits: Vec<(i64, usize)> = {
            let rows = self
                .rows
                .read()
                .expect("bug: the index broke off while it was loaded");
            let found = |(at, key): (usize, &Digest)| rows.get(&half(key)).map(|row| (*row, at));
            keys.iter().enumerate().filter_map(found).collect()
        };
        let mut records = vec![None; keys.len()];
        if hits.is_empty() {
            return Ok(records);
        }
        // Neighbours in the file one after another.
        hits.sort_unstable();
        let reader = readers.take()?;
        let read = || {
            // One snapshot, and one lock taken for all rows.
            let snapshot = reader.sqlite().unchecked_transaction()?;
            let mut fetch = Fetch::new(&snapshot, &self.judges)?;
            for (row, at) in hits {
                let record = fetch.record(row)?;
                // A key whose first half alone is known is not stored.
                records[at] = record.filter(|r| r.verdict_digest == keys[at]);
            }
            drop(fetch);
            snapshot.commit()
        };
        read().map_err(|e| StoreError::sqlite(&self.path, e))?;
        Ok(records)
    }

    /// Takes in what was committed since the last call.
    fn refresh(&self) -> Result<(), StoreError> {
        // A watch whose load broke off has not moved `last`, so that the next load starts over from there.
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.connection.is_none() {
            watch.connection = Some(open::reader(&self.path)?);
        }
        self.look(&mut watch)
            .map_err(|e| StoreError::sqlite(&self.path, e))
    }

    fn look(&self, watch: &mut Watch) -> rusqlite::Result<()> {
        let connection = watch
            .connection
            .as_ref()
            .expect("bug: a watch without its connection");
        // Asked before the rows are read: what is committed in between is read now and looked for again next time.
        let version = connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if watch.version == Some(version) {
            return Ok(());
        }
        // The first load reads the narrow key index, later ones the few new rows. In both a key's later attempt comes
        // after its earlier one, and replaces it.
        let sql = match watch.version {
            None => {
                "SELECT id, verdict_digest FROM verdicts INDEXED BY verdicts_key
                     WHERE id > ?1 ORDER BY verdict_digest, attempt"
            }
            Some(_) => "SELECT id, verdict_digest FROM verdicts WHERE id > ?1 ORDER BY id",
        };
        let mut select = connection.prepare_cached(sql)?;
        let mut found = select.query([watch.last])?;
        let mut last = watch.last;
        // Not held while SQLite is opened and searched; recalls wait only for rows that are there to be taken in.
        let mut rows = self
            .rows
            .write()
            .expect("bug: the index broke off while it was loaded");
        while let Some(row) = found.next()? {
            let id: i64 = row.get(0)?;
            let key: Digest = row.get(1)?;
            rows.insert(half(&key), id);
            last = last.max(id);
        }
        watch.last = last;
        watch.version = Some(version);
        Ok(())
    }
}

/// Reads records by row number.
struct Fetch<'a> {
    snapshot: &'a Connection,
    judges: &'a RwLock<HashMap<i64, Arc<Judge>>>,
    select: CachedStatement<'a>,
    /// Words that recur from row to row: labels and reasons.
    words: Vec<Arc<str>>,
    judge: Option<(i64, Arc<Judge>)>,
}

impl<'a> Fetch<'a> {
    fn new(
        snapshot: &'a Connection,
        judges: &'a RwLock<HashMap<i64, Arc<Judge>>>,
    ) -> rusqlite::Result<Fetch<'a>> {
        let select = snapshot.prepare_cached(
            "SELECT verdict_digest, judge, text_digest, label, violates, score, reason,
                    tokens_in, tokens_out, judged_at, rules, rationale, gap
             FROM verdicts WHERE id = ?1",
        )?;
        Ok(Fetch {
            snapshot,
            judges,
            select,
            words: Vec::new(),
            judge: None,
        })
    }

    fn record(&mut self, row: i64) -> rusqlite::Result<Option<Arc<Record>>> {
        let mut found = self.select.query([row])?;
        let Some(row) = found.next()? else {
            return Ok(None);
        };
        let id: i64 = row.get(1)?;
        let judge = match &self.judge {
            Some((at, judge)) if *at == id => Arc::clone(judge),
            _ => {
                let judge = judge(self.snapshot, self.judges, id)?;
                self.judge = Some((id, Arc::clone(&judge)));
                judge
            }
        };
        let count = |at| row.get::<_, i64>(at).map(|n| u64::try_from(n).unwrap_or(0));
        let record = Record {
            verdict_digest: row.get(0)?,
            policy: Arc::clone(&judge.policy),
            policy_version: judge.policy_version,
            policy_digest: Arc::clone(&judge.policy_digest),
            text_digest: row.get(2)?,
            label: word(&mut self.words, row, 3)?,
            violates: row.get(4)?,
            score: row.get(5)?,
            gap: row.get(12)?,
            rationale: row.get(11)?,
            rules: rules(row.get_ref(10)?.as_str_or_null()?)
                .map_err(|why| rusqlite::types::FromSqlError::Other(why.into()))?,
            reason: word(&mut self.words, row, 6)?,
            stage: Arc::clone(&judge.stage),
            mode: Arc::clone(&judge.mode),
            effort: Arc::clone(&judge.effort),
            model: Arc::clone(&judge.model),
            model_digest: Arc::clone(&judge.model_digest),
            tokens_in: count(7)?,
            tokens_out: count(8)?,
            seconds: None,
            judged_at: row.get(9)?,
        };
        Ok(Some(Arc::new(record)))
    }
}

/// The judge of this number. Judges are never changed, so one read is enough.
fn judge(
    snapshot: &Connection,
    known: &RwLock<HashMap<i64, Arc<Judge>>>,
    id: i64,
) -> rusqlite::Result<Arc<Judge>> {
    if let Some(judge) = known
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&id)
    {
        return Ok(Arc::clone(judge));
    }
    let sql =
        "SELECT policy, policy_version, policy_digest, stage, mode, effort, model, model_digest
               FROM judges WHERE id = ?1";
    let judge = snapshot.prepare_cached(sql)?.query_row([id], |row| {
        Ok(Arc::new(Judge {
            policy: row.get(0)?,
            policy_version: row.get(1)?,
            policy_digest: row.get(2)?,
            stage: row.get(3)?,
            mode: row.get(4)?,
            effort: row.get(5)?,
            model: row.get(6)?,
            model_digest: row.get(7)?,
        }))
    })?;
    known
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(id, Arc::clone(&judge));
    Ok(judge)
}

/// A word of column `at`, shared with earlier rows that had the same.
fn word(words: &mut Vec<Arc<str>>, row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Arc<str>>> {
    let Some(text) = row.get_ref(at)?.as_str_or_null()? else {
        return Ok(None);
    };
    if let Some(known) = words.iter().find(|word| &***word == text) {
        return Ok(Some(Arc::clone(known)));
    }
    let new: Arc<str> = text.into();
    // A policy has a few labels; a store of thousands of policies is not searched word by word.
    if words.len() < 32 {
        words.push(Arc::clone(&new));
    }
    Ok(Some(new))
}

/// The codes in a stored list: JSON, or nothing for none.
pub(super) fn rules(json: Option<&str>) -> Result<Vec<Arc<str>>, String> {
    json.map_or(Ok(Vec::new()), |json| {
        let codes: Vec<String> = serde_json::from_str(json).map_err(|e| e.to_string())?;
        Ok(codes.into_iter().map(Arc::from).collect())
    })
}
