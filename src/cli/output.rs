//! Results on their way to stdout.
//!
//! Takes a statement's batches, writes a table, CSV or JSON lines. CSV and JSON are written batch by batch and hold
//! nothing but data; a table ends with its count of rows, a statement without columns with its command tag.

use super::args::Format;
use super::table::{Column, Table};
use super::value;
use crate::engine::script::{display_name, unique_name};
use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Field, Schema, UInt64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::writer::{LineDelimited, WriterBuilder};
use std::io::Write;
use std::sync::Arc;

/// One statement's results.
#[derive(Debug)]
pub(super) enum Output {
    Table(Table),
    Csv,
    Json,
    /// The command tag; with the count of rows where the tag has one.
    Tag {
        tag: &'static str,
        count: Option<u64>,
        shown: bool,
    },
}

impl Output {
    /// Begins a statement's results: writes what stands before the first row.
    pub fn begin(
        (format, expanded): (Format, bool),
        schema: &Schema,
        tag: &'static str,
        out: &mut dyn Write,
    ) -> Result<Output, ArrowError> {
        let counted = matches!(tag, "INSERT 0" | "COPY" | "UPDATE" | "DELETE" | "MERGE");
        if counted || schema.fields().is_empty() {
            return Ok(Output::Tag {
                tag,
                count: counted.then_some(0),
                shown: format == Format::Table,
            });
        }
        match format {
            Format::Table => {
                let columns = schema.fields().iter();
                let columns = columns.map(|field| {
                    Column::new(display_name(field.name()), field.data_type().is_numeric())
                });
                Ok(Output::Table(Table::new(columns.collect(), expanded)))
            }
            Format::Csv => {
                let names = schema.fields().iter();
                write_record(
                    names.map(|field| Some(display_name(field.name()).to_owned())),
                    out,
                )?;
                Ok(Output::Csv)
            }
            Format::Json => Ok(Output::Json),
        }
    }

    /// Takes further rows.
    ///
    /// # Errors
    /// [`ArrowError::IoError`] when they cannot be written; other errors when a value cannot.
    pub fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), ArrowError> {
        match self {
            Output::Tag { count, .. } => {
                if let Some(count) = count {
                    *count += counted(batch);
                }
            }
            Output::Table(table) => {
                let columns = plain(batch)?;
                for row in 0..batch.num_rows() {
                    let cells = columns.iter().map(|column| value::text(column, row));
                    let cells: Result<Vec<String>, ArrowError> = cells
                        .map(|cell| cell.map(Option::unwrap_or_default))
                        .collect();
                    table.row(cells?, out)?;
                }
            }
            Output::Csv => {
                let columns = plain(batch)?;
                for row in 0..batch.num_rows() {
                    let cells: Result<Vec<_>, _> = columns
                        .iter()
                        .map(|column| value::text(column, row))
                        .collect();
                    write_record(cells?.into_iter(), out)?;
                }
            }
            Output::Json => {
                // By way of memory, so that a closed pipe stays an input/output error.
                let mut lines = Vec::new();
                let builder = WriterBuilder::new().with_explicit_nulls(true);
                let mut writer = builder.build::<_, LineDelimited>(&mut lines);
                writer.write(&with_unique_names(batch)?)?;
                writer.finish()?;
                drop(writer);
                out.write_all(&lines)?;
            }
        }
        Ok(())
    }

    /// Ends the results.
    pub fn end(self, out: &mut dyn Write) -> Result<(), ArrowError> {
        match self {
            Output::Table(table) => table.end(out)?,
            Output::Tag { shown: false, .. } | Output::Csv | Output::Json => {}
            Output::Tag {
                tag,
                count: Some(count),
                ..
            } => writeln!(out, "{tag} {count}")?,
            Output::Tag {
                tag, count: None, ..
            } => writeln!(out, "{tag}")?,
        }
        Ok(())
    }
}

/// Two columns of one name are two keys.
fn with_unique_names(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let fields = schema.fields().iter();
    let fields: Vec<Field> = fields
        .map(|f| f.as_ref().clone().with_name(unique_name(f.name())))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec())
}

fn plain(batch: &RecordBatch) -> Result<Vec<ArrayRef>, ArrowError> {
    batch.columns().iter().map(value::plain).collect()
}

/// Rows that a statement changed: DataFusion answers with one column of counts.
fn counted(batch: &RecordBatch) -> u64 {
    match batch
        .column_by_name("count")
        .and_then(|column| column.as_primitive_opt::<UInt64Type>())
    {
        Some(counts) => counts.iter().flatten().sum(),
        None => 0,
    }
}

/// RFC 4180 with line feeds; as in PostgreSQL's COPY, NULL is nothing and an empty text is `""`.
fn write_record(
    cells: impl Iterator<Item = Option<String>>,
    out: &mut dyn Write,
) -> Result<(), ArrowError> {
    let mut line = String::new();
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            line.push(',');
        }
        let Some(cell) = cell else { continue };
        if cell.is_empty() || cell.contains([',', '"', '\n', '\r']) {
            line.push('"');
            line.push_str(&cell.replace('"', "\"\""));
            line.push('"');
        } else {
            line.push_str(&cell);
        }
    }
    line.push('\n');
    out.write_all(line.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::*;
    use datafusion::arrow::datatypes::{DataType, Field, Int32Type};
    use std::sync::Arc;

    fn batch() -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(vec![1, 2, 3]))),
            (
                "text",
                Arc::new(StringArray::from(vec![Some("a, \"b\"\nc"), None, Some("")])),
            ),
            (
                "score",
                Arc::new(Float64Array::from(vec![Some(0.25), None, Some(1.0)])),
            ),
            (
                "ok",
                Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            ),
            (
                "rules",
                Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
                    Some(vec![Some(1), None]),
                    None,
                    Some(vec![]),
                ])),
            ),
            (
                "v",
                Arc::new(StructArray::from(vec![(
                    Arc::new(Field::new("label", DataType::Utf8, true)),
                    Arc::new(StringArray::from(vec![Some("x"), None, Some("é")])) as ArrayRef,
                )])),
            ),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
            .unwrap()
    }

    fn write(
        format: Format,
        tag: &'static str,
        schema: &Schema,
        batches: &[RecordBatch],
    ) -> String {
        let mut out = Vec::new();
        let mut output = Output::begin((format, false), schema, tag, &mut out).unwrap();
        for batch in batches {
            output.batch(batch, &mut out).unwrap();
        }
        output.end(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_format_writes_what_its_readers_expect() {
        let cases = [
            (
                Format::Csv,
                concat!(
                    "id,text,score,ok,rules,v\n",
                    "1,\"a, \"\"b\"\"\nc\",0.25,t,\"{1,NULL}\",(x)\n",
                    "2,,,f,,()\n",
                    "3,\"\",1,,{},(é)\n",
                ),
            ),
            (
                Format::Json,
                concat!(
                    r#"{"id":1,"text":"a, \"b\"\nc","score":0.25,"ok":true,"rules":[1,null],"v":{"label":"x"}}"#,
                    "\n",
                    r#"{"id":2,"text":null,"score":null,"ok":false,"rules":null,"v":{"label":null}}"#,
                    "\n",
                    r#"{"id":3,"text":"","score":1.0,"ok":null,"rules":[],"v":{"label":"é"}}"#,
                    "\n",
                ),
            ),
            (
                Format::Table,
                concat!(
                    " id |  text  | score | ok |  rules   |  v  \n",
                    "----+--------+-------+----+----------+-----\n",
                    "  1 | a, \"b\"+|  0.25 | t  | {1,NULL} | (x)\n",
                    "    | c      |       |    |          | \n",
                    "  2 |        |       | f  |          | ()\n",
                    "  3 |        |     1 |    | {}       | (é)\n",
                    "(3 rows)\n\n",
                ),
            ),
        ];
        for (format, expected) in cases {
            let batch = batch();
            let got = write(
                format,
                "SELECT",
                &batch.schema(),
                std::slice::from_ref(&batch),
            );
            assert_eq!(got, expected, "{format:?}");
            let halves = [batch.slice(0, 1), batch.slice(1, 2)];
            assert_eq!(
                write(format, "SELECT", &batch.schema(), &halves),
                expected,
                "{format:?}"
            );
        }
    }

    #[test]
    fn statements_without_columns_say_their_tag_to_people_only() {
        let counts: ArrayRef = Arc::new(UInt64Array::from(vec![3]));
        let counts = RecordBatch::try_from_iter([("count", counts)]).unwrap();
        let none = Schema::empty();
        assert_eq!(write(Format::Table, "SET", &none, &[]), "SET\n");
        for schema in [&none, counts.schema().as_ref()] {
            let batches = [counts.clone(), counts.clone()];
            assert_eq!(
                write(Format::Table, "INSERT 0", schema, &batches),
                "INSERT 0 6\n"
            );
            assert_eq!(write(Format::Json, "INSERT 0", schema, &batches), "");
        }
        assert_eq!(write(Format::Csv, "CREATE TABLE", &none, &[]), "");
        // A column that is called count is no count.
        assert!(write(Format::Table, "SELECT", &counts.schema(), &[counts]).contains("(1 row)"));
    }

    #[test]
    fn empty_results_have_their_header() {
        let schema = batch().schema();
        assert_eq!(
            write(Format::Csv, "SELECT", &schema, &[]),
            "id,text,score,ok,rules,v\n"
        );
        assert_eq!(write(Format::Json, "SELECT", &schema, &[]), "");
        assert!(write(Format::Table, "SELECT", &schema, &[]).ends_with("(0 rows)\n\n"));
    }

    #[test]
    fn a_closed_pipe_is_told_from_other_errors() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let batch = batch();
        let error = Output::Json.batch(&batch, &mut Closed).unwrap_err();
        assert!(
            matches!(error, ArrowError::IoError(_, e) if e.kind() == std::io::ErrorKind::BrokenPipe)
        );
    }
}
