//! Rows of a catalog table, cell by cell, and their way into Arrow.
//!
//! Takes columns and cells, gives batches and table providers that make their rows when they are read. Catalogs are
//! small, so nothing here is fast.

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array,
    ListArray, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use datafusion::arrow::array::{AsArray, Int16Builder, Int32Builder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::Result;
use std::sync::Arc;

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Bool,
    Int2,
    /// Also OIDs.
    Int4,
    Int8,
    Float4,
    Float8,
    Text,
    /// `"char"`: one byte, which some drivers tell from text.
    Char,
    /// With a time zone.
    Time,
    Int2s,
    Int4s,
    Texts,
}

impl Kind {
    pub fn data_type(self) -> DataType {
        let list = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
        match self {
            Kind::Bool => DataType::Boolean,
            Kind::Int2 => DataType::Int16,
            Kind::Int4 => DataType::Int32,
            Kind::Int8 => DataType::Int64,
            Kind::Float4 => DataType::Float32,
            Kind::Float8 => DataType::Float64,
            Kind::Text | Kind::Char => DataType::Utf8,
            Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            Kind::Int2s => list(DataType::Int16),
            Kind::Int4s => list(DataType::Int32),
            Kind::Texts => list(DataType::Utf8),
        }
    }

    pub fn field(self, name: &str) -> Field {
        let field = Field::new(name, self.data_type(), true);
        match self {
            // As arrow-pg knows it.
            Kind::Char => field.with_metadata([("pg.char".to_owned(), "true".to_owned())].into()),
            _ => field,
        }
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Microseconds since 1970.
    Time(i64),
    List(Vec<Cell>),
}

impl From<bool> for Cell {
    fn from(value: bool) -> Cell {
        Cell::Bool(value)
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Cell {
        Cell::Int(value)
    }
}

impl From<i32> for Cell {
    fn from(value: i32) -> Cell {
        Cell::Int(value.into())
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Cell {
        Cell::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Cell {
        Cell::Text(value)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Cell {
        value.map_or(Cell::Null, Into::into)
    }
}

impl<T: Into<Cell>> From<Vec<T>> for Cell {
    fn from(values: Vec<T>) -> Cell {
        Cell::List(values.into_iter().map(Into::into).collect())
    }
}

impl Cell {
    pub fn text(&self) -> Option<String> {
        match self {
            Cell::Text(text) => Some(text.clone()),
            Cell::Int(number) => Some(number.to_string()),
            Cell::Float(number) => Some(number.to_string()),
            Cell::Bool(on) => Some(if *on { "t" } else { "f" }.to_owned()),
            Cell::Null | Cell::List(_) | Cell::Time(_) => None,
        }
    }

    pub fn int(&self) -> Option<i64> {
        match self {
            Cell::Int(number) => Some(*number),
            Cell::Float(number) => Some(number.round() as i64),
            Cell::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub fn truth(&self) -> Option<bool> {
        match self {
            Cell::Bool(on) => Some(*on),
            Cell::Text(text) => Some(matches!(text.as_str(), "t" | "true" | "on" | "1" | "yes")),
            _ => None,
        }
    }
}

/// An array of cells as a column of this kind; cells of other kinds are NULL.
pub(super) fn column<'a>(kind: Kind, cells: impl Iterator<Item = &'a Cell>) -> ArrayRef {
    match kind {
        Kind::Bool => Arc::new(cells.map(Cell::truth).collect::<BooleanArray>()),
        Kind::Int2 => {
            let small = |c: &Cell| c.int().and_then(|n| i16::try_from(n).ok());
            Arc::new(cells.map(small).collect::<Int16Array>())
        }
        // OIDs beyond 2^31 wrap, as their bits do.
        Kind::Int4 => Arc::new(
            cells
                .map(|c| c.int().map(|n| n as i32))
                .collect::<Int32Array>(),
        ),
        Kind::Int8 => Arc::new(cells.map(Cell::int).collect::<Int64Array>()),
        Kind::Float4 => Arc::new(
            cells
                .map(|c| float(c).map(|f| f as f32))
                .collect::<Float32Array>(),
        ),
        Kind::Float8 => Arc::new(cells.map(float).collect::<Float64Array>()),
        Kind::Text | Kind::Char => Arc::new(cells.map(Cell::text).collect::<StringArray>()),
        Kind::Time => {
            let time = |cell: &Cell| match cell {
                Cell::Time(micros) => Some(*micros),
                _ => None,
            };
            let times = cells.map(time).collect::<TimestampMicrosecondArray>();
            Arc::new(times.with_timezone("+00:00"))
        }
        Kind::Int2s => {
            let mut lists = ListBuilder::new(Int16Builder::new());
            for cell in cells {
                each(cell, &mut lists, |values, item| {
                    values.append_option(item.int().and_then(|n| i16::try_from(n).ok()));
                });
            }
            Arc::new(lists.finish())
        }
        Kind::Int4s => {
            let mut lists = ListBuilder::new(Int32Builder::new());
            for cell in cells {
                each(cell, &mut lists, |values, item| {
                    values.append_option(item.int().map(|n| n as i32));
                });
            }
            Arc::new(lists.finish())
        }
        Kind::Texts => {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for cell in cells {
                each(cell, &mut lists, |values, item| {
                    values.append_option(item.text())
                });
            }
            Arc::new(lists.finish())
        }
    }
}

fn float(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Float(number) => Some(*number),
        Cell::Int(number) => Some(*number as f64),
        _ => None,
    }
}

fn each<B: datafusion::arrow::array::ArrayBuilder>(
    cell: &Cell,
    lists: &mut ListBuilder<B>,
    mut append: impl FnMut(&mut B, &Cell),
) {
    match cell {
        Cell::List(items) => {
            for item in items {
                append(lists.values(), item);
            }
            lists.append(true);
        }
        _ => lists.append(false),
    }
}

/// The cells of a column.
pub(super) fn cells(array: &ArrayRef) -> Result<Vec<Cell>> {
    let count = array.len();
    let mut cells = Vec::with_capacity(count);
    match array.data_type() {
        DataType::Null => cells.resize(count, Cell::Null),
        DataType::Boolean => {
            let values = array.as_boolean().iter();
            cells.extend(values.map(|v| v.map_or(Cell::Null, Cell::Bool)));
        }
        kind if kind.is_integer() => {
            let wide = cast(array, &DataType::Int64)?;
            let values = wide.as_primitive::<Int64Type>().iter();
            cells.extend(values.map(|v| v.map_or(Cell::Null, Cell::Int)));
        }
        kind if kind.is_floating() => {
            let wide = cast(array, &DataType::Float64)?;
            let values = wide
                .as_primitive::<datafusion::arrow::datatypes::Float64Type>()
                .iter();
            cells.extend(values.map(|v| v.map_or(Cell::Null, Cell::Float)));
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
            let text = cast(array, &DataType::Utf8)?;
            let values = text.as_string::<i32>().iter();
            cells.extend(values.map(|v| v.map_or(Cell::Null, Cell::from)));
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            let item = list_item(array.data_type());
            let lists = cast(array, &DataType::List(item))?;
            let lists: &ListArray = lists.as_list::<i32>();
            for row in 0..count {
                cells.push(match lists.is_null(row) {
                    true => Cell::Null,
                    false => Cell::List(self::cells(&lists.value(row))?),
                });
            }
        }
        _ => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(array, &options)?;
            for row in 0..count {
                cells.push(match array.is_null(row) {
                    true => Cell::Null,
                    false => Cell::Text(formatter.value(row).to_string()),
                });
            }
        }
    }
    Ok(cells)
}

fn list_item(data_type: &DataType) -> Arc<Field> {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Arc::clone(item)
        }
        _ => Arc::new(Field::new_list_field(DataType::Null, true)),
    }
}

/// A row by its columns' names.
pub(super) type Row = Vec<(&'static str, Cell)>;

/// Columns by name.
pub(super) type Columns = [(String, Kind)];

pub(super) fn schema(columns: &Columns) -> SchemaRef {
    let fields = columns.iter().map(|(name, kind)| kind.field(name));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Rows as a batch. What a row does not name is NULL, or with `zero` nothing of its kind: false or 0.
pub(super) fn batch(columns: &Columns, rows: &[Row], zero: bool) -> Result<RecordBatch> {
    let arrays = columns.iter().map(|(name, kind)| {
        let missing = match kind {
            Kind::Bool if zero => Cell::Bool(false),
            Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Float4 if zero => Cell::Int(0),
            _ => Cell::Null,
        };
        let cells: Vec<&Cell> = rows
            .iter()
            .map(|row| {
                let found = row.iter().find(|(column, _)| column == name);
                found.map_or(&missing, |(_, cell)| cell)
            })
            .collect();
        column(*kind, cells.into_iter())
    });
    Ok(RecordBatch::try_new(schema(columns), arrays.collect())?)
}
