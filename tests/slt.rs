//! Runs `tests/slt/*.slt`: add cases there, no Rust needed. `SHOW asked` is the number of texts asked since the last
//! one of the file, `SHOW asked < 64` whether it is that few, and each file has a session of its own over these tables (an error is matched as `SQLSTATE message`):
//! `messages` (in memory) and `messages_parquet`, 20,000 rows (id, text, author, created_at) in 4 partitions, all texts
//! distinct, `bad` in every seventh; `pairs` (id, text), 5 rows with two equal texts and a NULL.

use datafusion::arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::DataFusionError;
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use safeguard_udfs::{Scripted, install};
use sqllogictest::{DBOutput, DefaultColumnType, Runner};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ROWS: i64 = 20_000;
const PARTITIONS: i64 = 4;

fn messages() -> MemTable {
    let part = |p: i64| {
        let ids: Vec<i64> = (0..ROWS).filter(|id| id * PARTITIONS / ROWS == p).collect();
        let text = |id: &i64| match id % 7 {
            3 => format!("message {id} is bad"),
            _ => format!("message {id} is fine"),
        };
        let columns: [(&str, ArrayRef); 4] = [
            ("id", Arc::new(Int64Array::from(ids.clone()))),
            (
                "text",
                Arc::new(ids.iter().map(|id| Some(text(id))).collect::<StringArray>()),
            ),
            (
                "author",
                Arc::new(ids.iter().map(|id| Some(id % 10)).collect::<Int64Array>()),
            ),
            (
                "created_at",
                Arc::new(
                    ids.iter()
                        .map(|id| Some(id * 1_000_000))
                        .collect::<TimestampMicrosecondArray>(),
                ),
            ),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let parts: Vec<_> = (0..PARTITIONS).map(|p| vec![part(p)]).collect();
    MemTable::try_new(parts[0][0].schema(), parts).unwrap()
}

fn pairs() -> MemTable {
    let columns: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]))),
        (
            "text",
            Arc::new(StringArray::from(vec![
                Some("bad one"),
                Some("fine"),
                Some("bad one"),
                None,
                Some("ok"),
            ])),
        ),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap()
}

struct Session {
    ctx: SessionContext,
    scripted: Arc<Scripted>,
    seen: u64,
}

impl Session {
    async fn new(parquet: &Path) -> Self {
        // `odd` is a second axis, so that two policies' worth of conditions can be told apart.
        let scripted = Arc::new(Scripted::new([
            ("bad", "bad"),
            ("odd", "odd"),
            ("mute", "undecided"),
        ]));
        let config = SessionConfig::new()
            .with_target_partitions(2)
            .with_information_schema(true)
            .set_bool("datafusion.execution.parquet.pushdown_filters", true)
            .set_str("datafusion.sql_parser.dialect", "postgresql");
        let builder = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features();
        let ctx = SessionContext::new_with_state(install(builder, scripted.clone()).build());
        ctx.register_table("messages", Arc::new(messages()))
            .unwrap();
        ctx.register_table("pairs", Arc::new(pairs())).unwrap();
        let path = parquet.to_str().unwrap();
        ctx.register_parquet("messages_parquet", path, ParquetReadOptions::default())
            .await
            .unwrap();
        Self {
            ctx,
            scripted,
            seen: 0,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{} {}", safeguard::error::sqlstate(.0), safeguard::error::message(.0))]
struct Failure(DataFusionError);

#[async_trait::async_trait]
impl sqllogictest::AsyncDB for Session {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        if let Some(rest) = sql.trim().strip_prefix("SHOW asked") {
            let asked = self.scripted.asked();
            let new = asked - std::mem::replace(&mut self.seen, asked);
            let most = rest
                .trim()
                .strip_prefix("< ")
                .map(|n| n.parse::<u64>().unwrap());
            let shown = most.map_or(new.to_string(), |most| (new < most).to_string());
            let types = vec![DefaultColumnType::Any];
            return Ok(DBOutput::Rows {
                types,
                rows: vec![vec![shown]],
            });
        }
        let frame = self.ctx.sql(sql).await.map_err(Failure)?;
        let schema = frame.schema().clone();
        let batches = frame.collect().await.map_err(Failure)?;
        if schema.fields().is_empty() {
            return Ok(DBOutput::StatementComplete(0));
        }
        // A plan is a cell of many lines: each becomes a row of its own.
        if schema.field(0).name() == "plan_type" {
            let plans = batches.iter().flat_map(rows);
            let lines: Vec<String> = plans
                .flat_map(|plan| plan[1].lines().map(str::to_owned).collect::<Vec<_>>())
                .collect();
            let rows = lines.into_iter().map(|line| vec![line]).collect();
            return Ok(DBOutput::Rows {
                types: vec![DefaultColumnType::Text],
                rows,
            });
        }
        let types = schema
            .fields()
            .iter()
            .map(|f| column_type(f.data_type()))
            .collect();
        Ok(DBOutput::Rows {
            types,
            rows: batches.iter().flat_map(rows).collect(),
        })
    }

    async fn shutdown(&mut self) {}
}

pub fn column_type(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        t if t.is_integer() => DefaultColumnType::Integer,
        t if t.is_floating() => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Text,
    }
}

pub fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let formatters: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    let cell = |formatter: &ArrayFormatter, row: usize| match formatter.value(row).to_string() {
        empty if empty.is_empty() => "(empty)".to_owned(),
        value => value,
    };
    (0..batch.num_rows())
        .map(|row| formatters.iter().map(|f| cell(f, row)).collect())
        .collect()
}

/// The `.slt` files of a folder of this repository.
pub fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "slt"));
    files.sort();
    assert!(!files.is_empty());
    files
}

// One thread, so that nothing of a statement that ended early goes on beside `SHOW asked`.
#[tokio::test]
async fn every_file_holds() {
    let folder = tempfile::tempdir().unwrap();
    let parquet = folder.path().join("messages");
    let writer = SessionContext::new();
    let table = writer.read_table(Arc::new(messages())).unwrap();
    table
        .write_parquet(
            parquet.to_str().unwrap(),
            DataFrameWriteOptions::new(),
            None,
        )
        .await
        .unwrap();

    let files = files("tests/slt");
    let complete = std::env::var_os("SLT_COMPLETE").is_some();
    let mut failed = Vec::new();
    for path in files {
        let make = || async { Ok(Session::new(&parquet).await) };
        let mut runner = Runner::new(make);
        let run = match complete {
            true => runner
                .update_test_file(
                    &path,
                    " ",
                    sqllogictest::default_validator,
                    sqllogictest::default_normalizer,
                    sqllogictest::default_column_validator,
                )
                .await
                .map_err(|e| e.to_string()),
            false => runner
                .run_file_async(&path)
                .await
                .map_err(|e| e.display(false).to_string()),
        };
        failed.extend(run.err().map(|e| format!("{}\n{e}", path.display())));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
