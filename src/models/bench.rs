//! How fast a model runs here, as one line for people or one object for programs.
//!
//! Takes a model's place and the shape of the work (a policy, texts, slots), or the very token ids; gives rates of
//! reading, of labels behind a shared policy, and of decoding, with the time to load and the memory in use. Steps are
//! as large as the engine makes them. Knows the model alone: no SQL, no store, no queue is in these figures.

use super::{ModelsError, Place};
use crate::backend::nano_files;
use crate::config::RUNNING_TEXTS_MAX;
use crate::model::memory;
use crate::model::{GptOss, KvCache, ModelError, Piece, Precision};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Instant;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Work {
    /// Tokens of the policy's prefix.
    pub prefix_tokens: usize,
    /// Tokens of each text, forced headers aside.
    pub text_tokens: usize,
    /// Texts.
    pub rows: usize,
    /// Sequences that decode side by side.
    pub slots: usize,
    /// Steps of decoding.
    pub steps: usize,
    /// What activations are rounded to.
    pub precision: Precision,
    /// Ids in place of made-up ones.
    pub task: Option<PathBuf>,
    /// Whether each text reads the policy anew, to see what sharing it saves.
    pub unshared: bool,
}

/// Token ids to read: `{"prefix": [..], "rows": [[..], ..], "labels": [..]}`.
#[derive(Debug, Deserialize)]
struct Task {
    prefix: Vec<u32>,
    rows: Vec<Vec<u32>>,
    labels: Vec<u32>,
}

/// What was measured; rates are per second.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Tokens of one long text.
    pub prefill_tokens_per_s: f64,
    /// Texts behind the policy, whose keys and values were there.
    pub label_rows_per_s: f64,
    /// Tokens of all slots together.
    pub decode_tokens_per_s: f64,
    /// Seconds until the model could be asked, its digest included.
    pub load_s: f64,
    /// Bytes in memory at the end, mapped weights included; 0 where the system does not say.
    pub resident_bytes: u64,
    /// Threads that multiplied.
    pub threads: usize,
    /// `exact`, `int16` or `int8`.
    pub precision: &'static str,
    /// The instruction set of the kernels.
    pub kernels: &'static str,
    /// P of the first label, for each row of the task.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub p: Vec<f64>,
}

/// Forced headers and what ends a text, as in score mode.
const SCAFFOLD_TOKENS: usize = 12;

/// Measures; takes as long as the work does.
pub fn bench(place: &Place, work: &Work) -> Result<Measured, ModelsError> {
    let begun = Instant::now();
    let model = match place {
        Place::Embedded => GptOss::from_bytes(nano_files().config, nano_files().weights)?,
        Place::Folder(dir) => GptOss::open(dir)?,
    };
    let model = model.with_precision(work.precision);
    model.digest();
    let load_s = begun.elapsed().as_secs_f64();
    let made_up = work.task.is_none();
    let task = match &work.task {
        Some(path) => read(path)?,
        None => make_up(&model, work),
    };
    // Twice: the first time brings the weights to memory.
    let long = ids(&model, model.step_tokens(), 0);
    prefill(&model, &long)?;
    let begun = Instant::now();
    prefill(&model, &long)?;
    let prefill_tokens_per_s = long.len() as f64 / begun.elapsed().as_secs_f64();
    let (prefix, rows) = (prefill(&model, &task.prefix)?, task.rows.len());
    let begun = Instant::now();
    let p = match work.unshared {
        false => labels(&model, &task, &prefix)?,
        true => {
            let whole = |row: &Vec<u32>| [&task.prefix[..], row].concat();
            let rows = task.rows.iter().map(whole).collect();
            let task = Task { rows, ..task };
            labels(&model, &task, &model.new_cache())?
        }
    };
    let label_rows_per_s = rows as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    decode(&model, &prefix, work)?;
    let decoded = (work.slots * work.steps) as f64;
    Ok(Measured {
        prefill_tokens_per_s,
        label_rows_per_s,
        decode_tokens_per_s: decoded / begun.elapsed().as_secs_f64(),
        load_s,
        resident_bytes: memory::resident().unwrap_or(0),
        threads: rayon::current_num_threads(),
        precision: work.precision.name(),
        kernels: safeguard_kernels::Isa::best().name(),
        p: if made_up { Vec::new() } else { p },
    })
}

fn read(path: &PathBuf) -> Result<Task, ModelsError> {
    let failed = |source| ModelsError::Io {
        what: "read",
        path: path.clone(),
        source,
    };
    let bytes = std::fs::read(path).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))
}

/// Ids spread over the ordinary part of the vocabulary.
fn ids(model: &GptOss, count: usize, seed: usize) -> Vec<u32> {
    let ordinary = model.config().vocab_size * 9 / 10;
    (0..count)
        .map(|n| ((n * 7919 + seed * 104_729) % ordinary) as u32)
        .collect()
}

fn make_up(model: &GptOss, work: &Work) -> Task {
    let text = work.text_tokens + SCAFFOLD_TOKENS;
    Task {
        prefix: ids(model, work.prefix_tokens, 1),
        rows: (0..work.rows).map(|i| ids(model, text, i + 2)).collect(),
        labels: vec![1, 2],
    }
}

/// A sequence that has read these ids.
fn prefill(model: &GptOss, ids: &[u32]) -> Result<KvCache, ModelError> {
    let mut read = model.new_cache();
    for ids in ids.chunks(model.step_tokens()) {
        let cache = &mut read;
        model.step(&mut [Piece { ids, cache }])?;
    }
    Ok(read)
}

/// P of the first label behind every row.
fn labels(model: &GptOss, task: &Task, prefix: &KvCache) -> Result<Vec<f64>, ModelError> {
    let mut p = Vec::with_capacity(task.rows.len());
    let mut at = 0;
    while at < task.rows.len() {
        let mut tokens = 0;
        let fits = task.rows[at..]
            .iter()
            .take(RUNNING_TEXTS_MAX)
            .take_while(|row| {
                tokens += row.len();
                tokens <= model.step_tokens()
            });
        let rows = &task.rows[at..at + fits.count().max(1)];
        let mut caches = vec![prefix.clone(); rows.len()];
        let mut pieces: Vec<Piece> = rows
            .iter()
            .zip(&mut caches)
            .map(|(ids, cache)| Piece { ids, cache })
            .collect();
        let left = model.step(&mut pieces)?;
        let logits = model.some_logits(&left, &task.labels)?;
        for logits in logits.chunks_exact(task.labels.len()) {
            let share = |x: &f32| f64::from(x - logits[0]).exp();
            p.push(1.0 / logits.iter().map(share).sum::<f64>());
        }
        at += rows.len();
    }
    Ok(p)
}

/// Greedy tokens of all slots behind the policy.
fn decode(model: &GptOss, prefix: &KvCache, work: &Work) -> Result<(), ModelError> {
    let mut caches = vec![prefix.clone(); work.slots];
    let mut next = ids(model, work.slots, 3);
    for _ in 0..work.steps {
        let mut pieces: Vec<Piece> = next
            .chunks_exact(1)
            .zip(&mut caches)
            .map(|(ids, cache)| Piece { ids, cache })
            .collect();
        let left = model.step(&mut pieces)?;
        let logits = model.all_logits(&left)?;
        let largest = |logits: &[f32]| {
            let best = (0u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1));
            best.map_or(0, |(id, _)| id)
        };
        next = logits
            .chunks_exact(model.config().vocab_size)
            .map(largest)
            .collect();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nano_is_measured_on_given_rows_and_made_up_ones() {
        let dir = tempfile::tempdir().expect("a folder");
        let task = dir.path().join("task.json");
        let text = r#"{"prefix": [5, 6, 7], "rows": [[8, 9], [10], [8, 9]], "labels": [838, 791]}"#;
        std::fs::write(&task, text).expect("written");
        let mut work = Work {
            prefix_tokens: 40,
            text_tokens: 3,
            rows: 70,
            slots: 2,
            steps: 2,
            precision: Precision::Int16,
            task: Some(task),
            unshared: false,
        };
        let found = bench(&Place::Embedded, &work).expect("measured");
        assert_eq!(found.p.len(), 3);
        assert!(found.p[0] == found.p[2] && found.p[0] != found.p[1]);
        assert!(found.p.iter().all(|p| (0.0..=1.0).contains(p)));
        work.unshared = true;
        let anew = bench(&Place::Embedded, &work).expect("measured");
        assert!(anew.p == found.p, "sharing a prefix changed a bit");
        work.task = None;
        let found = bench(&Place::Embedded, &work).expect("measured");
        assert!(found.p.is_empty() && found.label_rows_per_s > 0.0);
        work.task = Some(dir.path().join("none"));
        let error = bench(&Place::Embedded, &work)
            .expect_err("no file")
            .to_string();
        assert!(error.contains("none"), "{error}");
    }
}
