//! Golden sheets of others: which cells are texts, and which of a policy's labels stands beside each.
//!
//! Takes CSV of any width, gives golden rows and notes of what was left out. With a header that names a column of texts and
//! one of labels, those are read (several such pairs are read one after another); without one, the label of a row is the
//! code of the section it stands in, else its last cell that is a label, and its text the longest other cell.

use super::level;
use crate::policy::Policy;
use crate::policy::golden::GoldenRow;
use std::collections::HashMap;
use std::sync::Arc;

/// What a sheet holds.
pub(super) struct Read {
    pub(super) rows: Vec<GoldenRow>,
    pub(super) notes: Vec<String>,
}

/// Columns of texts, in lower case.
const TEXTS: [&str; 10] = [
    "text",
    "example",
    "content",
    "prompt",
    "message",
    "body",
    "input",
    "post",
    "response",
    "responses",
];

/// Columns of labels, in lower case.
const LABELS: [&str; 10] = [
    "label",
    "classification",
    "gold",
    "golden",
    "golden_label",
    "expected",
    "violation",
    "violates",
    "category",
    "response label",
];

/// Records in which a header may stand.
const HEADER_WITHIN: usize = 5;

pub(super) fn read(csv: &str, policy: &Policy) -> Read {
    let csv = csv.strip_prefix('\u{feff}').unwrap_or(csv);
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(csv.as_bytes());
    let records = reader.records().filter_map(Result::ok);
    let records: Vec<Vec<String>> = records
        .map(|record| record.iter().map(|cell| cell.trim().to_owned()).collect())
        .collect();
    let mut rows = Rows::new(policy);
    let header = records
        .iter()
        .take(HEADER_WITHIN)
        .position(|record| !pairs(record).is_empty());
    match header {
        Some(at) => {
            let pairs = pairs(&records[at]);
            for record in &records[at + 1..] {
                for (text, label) in &pairs {
                    let cell = |at: &usize| record.get(*at).map_or("", String::as_str);
                    rows.told(cell(text), cell(label));
                }
            }
        }
        None => rows.bare(&records),
    }
    rows.finish()
}

/// `text,label` and the rows.
pub(super) fn written(rows: &[GoldenRow]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut record = |cells: [&str; 2]| {
        writer
            .write_record(cells)
            .expect("bug: memory takes what is written")
    };
    record(["text", "label"]);
    for row in rows {
        record([&row.text, &row.label]);
    }
    let bytes = writer
        .into_inner()
        .expect("bug: memory takes what is written");
    String::from_utf8(bytes).expect("bug: texts are UTF-8")
}

/// Each column of texts with the first column of labels after it.
fn pairs(header: &[String]) -> Vec<(usize, usize)> {
    let is = |words: &[&str], cell: &String| words.contains(&&*cell.to_lowercase());
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (at, cell) in header.iter().enumerate() {
        let taken = |label: usize| pairs.iter().any(|(_, other)| *other == label);
        if is(&TEXTS, cell)
            && let Some(label) =
                (at + 1..header.len()).find(|i| is(&LABELS, &header[*i]) && !taken(*i))
        {
            pairs.push((at, label));
        }
    }
    pairs
}

/// Golden rows in the making.
struct Rows<'a> {
    policy: &'a Policy,
    rows: Vec<GoldenRow>,
    /// The place of each text.
    seen: HashMap<Arc<str>, usize>,
    unlabelled: usize,
    repeated: usize,
    contradicted: usize,
    displaced: usize,
}

impl<'a> Rows<'a> {
    fn new(policy: &'a Policy) -> Self {
        Self {
            policy,
            rows: Vec::new(),
            seen: HashMap::new(),
            unlabelled: 0,
            repeated: 0,
            contradicted: 0,
            displaced: 0,
        }
    }

    /// A row whose columns are known.
    fn told(&mut self, text: &str, label: &str) {
        if text.is_empty() {
            return;
        }
        match self.label(label, true) {
            Some(label) => self.push(text, label),
            None => self.unlabelled += 1,
        }
    }

    /// Rows of a sheet without a header.
    fn bare(&mut self, records: &[Vec<String>]) {
        let mut section: Option<Arc<str>> = None;
        for record in records {
            let cells: Vec<&String> = record.iter().filter(|cell| !cell.is_empty()).collect();
            if let [only] = cells[..] {
                section = self.label(only, false).or(section);
                continue;
            }
            let code = cells
                .iter()
                .rposition(|cell| self.label(cell, false).is_some());
            let own = code.and_then(|at| self.label(cells[at], false));
            let Some(own) = own else {
                // Sums and headings below and above the rows are no rows.
                continue;
            };
            let others = cells
                .iter()
                .enumerate()
                .filter(|(at, cell)| Some(*at) != code && !is_number(cell));
            let Some((_, text)) = others.max_by_key(|(_, cell)| cell.len()) else {
                continue;
            };
            if section.as_ref().is_some_and(|section| *section != own) {
                self.displaced += 1;
            }
            let label = section.clone().unwrap_or(own);
            self.push(text, label);
        }
    }

    fn push(&mut self, text: &str, label: Arc<str>) {
        let text: Arc<str> = text.into();
        match self.seen.get(&text) {
            None => {
                self.seen.insert(Arc::clone(&text), self.rows.len());
                self.rows.push(GoldenRow { text, label });
            }
            Some(first) if self.rows[*first].label == label => self.repeated += 1,
            Some(_) => self.contradicted += 1,
        }
    }

    /// The policy's label that a cell says: its word, a level (SP2, SP2.a), a word for allowing or not; where the column is
    /// known to be of labels, 0 and 1 too.
    fn label(&self, cell: &str, known: bool) -> Option<Arc<str>> {
        let labels = &self.policy.labels;
        let by_name = |word: &str| {
            labels
                .iter()
                .find(|label| label.eq_ignore_ascii_case(word))
                .cloned()
        };
        if let Some(label) = by_name(cell) {
            return Some(label);
        }
        let base = cell.split('.').next().unwrap_or_default();
        let of = |violates: bool| match violates {
            false => Some(Arc::clone(self.policy.allowed_label())),
            true => self.policy.violating_label().cloned(),
        };
        if let Some((_, digit)) = level(base) {
            return by_name(base).or_else(|| of(digit != '0'));
        }
        match &*cell.to_lowercase() {
            "valid" | "safe" | "allowed" => of(false),
            "invalid" | "unsafe" | "violates" | "violating" => of(true),
            "0" | "false" | "no" if known => of(false),
            "1" | "true" | "yes" if known => of(true),
            _ => None,
        }
    }

    fn finish(self) -> Read {
        let counts = [
            (
                self.unlabelled,
                "rows left out, without a label of the policy",
            ),
            (
                self.repeated,
                "rows left out, with a text that was there before",
            ),
            (
                self.contradicted,
                "rows left out, with another label for a text than before",
            ),
            (
                self.displaced,
                "rows with another code than their section, which counts",
            ),
        ];
        let notes = counts.iter().filter(|(n, _)| *n > 0);
        let notes = notes.map(|(n, what)| format!("{what}: {n}"));
        Read {
            notes: notes.collect(),
            rows: self.rows,
        }
    }
}

fn is_number(cell: &str) -> bool {
    cell.parse::<f64>().is_ok()
}
