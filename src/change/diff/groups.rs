//! Counts of changes by the values of a column, or by rule.
//!
//! Takes rows one by one, gives one row for each value: how many were compared, how many changed, and in which direction.

use crate::change::direction::Direction;
use crate::change::source::refused;
use crate::config::DIFF_GROUPS_MAX;
use crate::error::Error;
use datafusion::arrow::array::{
    Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::Result;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Columns behind the value's.
pub const COUNTS: [&str; 8] = [
    "compared",
    "changed",
    "share",
    "allowed_to_violating",
    "violating_to_allowed",
    "label_to_label",
    "decided_to_undecided",
    "undecided_to_decided",
];

/// The columns of the answer: the values' one is called `by`.
pub fn schema(by: &str) -> SchemaRef {
    let mut fields = vec![Field::new(by, DataType::Utf8, true)];
    fields.extend(COUNTS.map(|name| match name {
        "share" => Field::new(name, DataType::Float64, true),
        _ => Field::new(name, DataType::Int64, false),
    }));
    Arc::new(Schema::new(fields))
}

#[derive(Debug, Default)]
struct Counts {
    compared: u64,
    by_direction: BTreeMap<Direction, u64>,
}

impl Counts {
    fn add(&mut self, way: Option<Direction>) {
        self.compared += 1;
        if let Some(way) = way {
            *self.by_direction.entry(way).or_default() += 1;
        }
    }
}

/// All values so far.
#[derive(Debug)]
pub struct Groups {
    schema: SchemaRef,
    by_value: BTreeMap<Option<String>, Counts>,
    /// Rows compared, where values are rules, which stand only in changes.
    compared: Option<u64>,
}

impl Groups {
    /// None yet, for an answer with the columns of [`schema`].
    pub fn new(schema: SchemaRef) -> Groups {
        Groups {
            schema,
            by_value: BTreeMap::new(),
            compared: None,
        }
    }

    fn of(&mut self, value: Option<String>) -> Result<&mut Counts, Error> {
        if self.by_value.len() == DIFF_GROUPS_MAX && !self.by_value.contains_key(&value) {
            let by = self.schema.field(0).name();
            let why = format!("\"{by}\" has more than {DIFF_GROUPS_MAX} different values");
            return Err(refused("54000", why));
        }
        Ok(self.by_value.entry(value).or_default())
    }

    /// Counts a row by its value in a column, as text.
    pub fn count(&mut self, column: &ArrayRef, row: usize, way: Option<Direction>) -> Result<()> {
        let value = match column.is_valid(row) {
            true => {
                let shown = ArrayFormatter::try_new(column, &FormatOptions::default())?;
                Some(shown.value(row).try_to_string()?)
            }
            false => None,
        };
        self.of(value)?.add(way);
        Ok(())
    }

    /// Counts a row by the rules of its change; one without rules under NULL.
    pub fn count_rules(&mut self, rules: Vec<String>, way: Option<Direction>) -> Result<()> {
        *self.compared.get_or_insert(0) += 1;
        if way.is_none() {
            return Ok(());
        }
        if rules.is_empty() {
            self.of(None)?.add(way);
        }
        for rule in rules {
            self.of(Some(rule))?.add(way);
        }
        Ok(())
    }

    /// The answer: most changes first.
    pub fn batch(&self) -> Result<RecordBatch> {
        let mut rows: Vec<(&Option<String>, &Counts)> = self.by_value.iter().collect();
        let changed = |counts: &Counts| counts.by_direction.values().sum::<u64>();
        let compared = |counts: &Counts| self.compared.unwrap_or(counts.compared);
        rows.sort_by_key(|(_, counts)| std::cmp::Reverse(changed(counts)));
        let counts = |of: &dyn Fn(&Counts) -> u64| -> ArrayRef {
            let count = |n| i64::try_from(n).unwrap_or(i64::MAX);
            let counts = rows.iter().map(|(_, counts)| Some(count(of(counts))));
            Arc::new(counts.collect::<Int64Array>())
        };
        let share = |counts: &Counts| changed(counts) as f64 / compared(counts) as f64;
        let shares = rows.iter().map(|(_, counts)| Some(share(counts)));
        let values = rows.iter().map(|(value, _)| value.as_deref());
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(values.collect::<StringArray>()),
            counts(&compared),
            counts(&changed),
            Arc::new(shares.collect::<Float64Array>()),
        ];
        for way in Direction::ALL {
            columns.push(counts(&|c| {
                c.by_direction.get(&way).copied().unwrap_or_default()
            }));
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}
