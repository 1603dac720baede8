//! The store's tables as SQL shows them: names, types and where in the file each column comes from.
//!
//! One table of facts, read by the scan (to decode), by the filter (to translate) and by the providers (to describe).
//! Others build on these columns: add, never rename or reorder.

mod screens;
mod work;

pub(super) use screens::SCREENS;
pub(super) use work::{BACKFILL_FAILURES, BACKFILLS, QUEUE};

use super::place::Dialect;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::sync::Arc;

/// How a column is stored and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Text,
    /// 32 bytes, shown as 64 lower-case hex digits.
    Hex,
    /// A count or a number.
    Int,
    /// A float; never not-a-number, which is stored as NULL.
    Float,
    /// 0 or 1.
    Bool,
    /// Microseconds since 1970-01-01 UTC.
    Time,
    /// A JSON array of text, NULL for an empty one; shown as a list, never NULL.
    Words,
}

/// One column.
#[derive(Debug)]
pub(super) struct Column {
    /// In SQL.
    pub(super) name: &'static str,
    /// In SQLite's file: an expression over the table's `from`.
    pub(super) source: &'static str,
    /// In PostgreSQL, where that must differ.
    pub(super) in_postgres: Option<&'static str>,
    /// Its type.
    pub(super) kind: Kind,
    /// Whether it can be NULL.
    pub(super) nullable: bool,
}

/// One table.
#[derive(Debug)]
pub(super) struct Table {
    /// In SQL, within the schema `safeguard`.
    pub(super) name: &'static str,
    /// What every scan reads.
    pub(super) from: &'static str,
    /// What a scan reads besides, if it uses a column whose source begins with `j.`.
    pub(super) join: &'static str,
    /// In the order of SQL.
    pub(super) columns: &'static [Column],
}

impl Column {
    /// Where its values come from.
    pub(super) fn source(&self, dialect: Dialect) -> &'static str {
        match (dialect, self.in_postgres) {
            (Dialect::Postgres, Some(source)) => source,
            _ => self.source,
        }
    }

    /// The same column, which comes from elsewhere in PostgreSQL.
    const fn in_postgres(self, source: &'static str) -> Column {
        Column {
            in_postgres: Some(source),
            ..self
        }
    }
}

impl Table {
    /// See [`Table::join`].
    pub(super) fn join(&self, dialect: Dialect) -> &'static str {
        match (dialect, self.join.strip_prefix(" CROSS")) {
            // PostgreSQL plans joins by what it knows of the tables, and its CROSS JOIN has no condition.
            (Dialect::Postgres, Some(join)) => join,
            _ => self.join,
        }
    }

    /// As Arrow.
    pub(super) fn schema(&self) -> SchemaRef {
        let fields: Vec<Field> = self
            .columns
            .iter()
            .map(|c| Field::new(c.name, data_type(c.kind), c.nullable))
            .collect();
        Arc::new(Schema::new(fields))
    }

    /// The column of this name.
    pub(super) fn column(&self, name: &str) -> Option<&'static Column> {
        self.columns.iter().find(|c| c.name == name)
    }
}

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Text | Kind::Hex => DataType::Utf8View,
        Kind::Int => DataType::Int64,
        Kind::Float => DataType::Float64,
        Kind::Bool => DataType::Boolean,
        Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        Kind::Words => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
    }
}

/// The time zone of every time.
pub(super) const UTC: &str = "+00:00";

const fn column(name: &'static str, source: &'static str, kind: Kind) -> Column {
    Column {
        name,
        source,
        in_postgres: None,
        kind,
        nullable: false,
    }
}

const fn nullable(name: &'static str, source: &'static str, kind: Kind) -> Column {
    Column {
        name,
        source,
        in_postgres: None,
        kind,
        nullable: true,
    }
}

/// Every decision.
pub(super) static VERDICTS: Table = Table {
    name: "verdicts",
    from: "verdicts AS v",
    // Cross: SQLite must not turn the join round and build an index of all verdicts on the fly.
    join: " CROSS JOIN judges AS j ON j.id = v.judge",
    columns: &[
        column("verdict_digest", "v.verdict_digest", Kind::Hex),
        column("policy", "j.policy", Kind::Text),
        column("policy_version", "j.policy_version", Kind::Int),
        column("policy_digest", "j.policy_digest", Kind::Text),
        column("text_digest", "v.text_digest", Kind::Hex),
        nullable("label", "v.label", Kind::Text),
        nullable("violates", "v.violates", Kind::Bool),
        nullable("score", "v.score", Kind::Float),
        nullable("rationale", "v.rationale", Kind::Text),
        column("rules", "v.rules", Kind::Words),
        nullable("reason", "v.reason", Kind::Text),
        column("stage", "j.stage", Kind::Text),
        column("mode", "j.mode", Kind::Text),
        column("effort", "j.effort", Kind::Text),
        column("model", "j.model", Kind::Text),
        column("model_digest", "j.model_digest", Kind::Text),
        column("tokens_in", "v.tokens_in", Kind::Int),
        column("tokens_out", "v.tokens_out", Kind::Int),
        column("judged_at", "v.judged_at", Kind::Time),
        nullable("gap", "v.gap", Kind::Float),
        nullable("seconds", "v.seconds", Kind::Float),
    ],
};

/// Every published version.
pub(super) static POLICY_VERSIONS: Table = Table {
    name: "policy_versions",
    from: "policy_versions",
    join: "",
    columns: &[
        column("name", "name", Kind::Text),
        column("version", "version", Kind::Int),
        column("digest", "digest", Kind::Text),
        column("text", "text", Kind::Text),
        column("labels", "labels", Kind::Text),
        column("published_at", "published_at", Kind::Time),
        nullable("published_by", "published_by", Kind::Text),
        nullable("note", "note", Kind::Text),
    ],
};

/// The current version of each policy.
pub(super) static POLICIES: Table = Table {
    name: "policies",
    from: "policies",
    join: "",
    columns: &[
        column("name", "name", Kind::Text),
        column("version", "version", Kind::Int),
        column("digest", "digest", Kind::Text),
        nullable("title", "title", Kind::Text),
        column("labels", "labels", Kind::Text),
        column("published_at", "published_at", Kind::Time),
        nullable("note", "note", Kind::Text),
    ],
};

/// People's labels. All columns are nullable, because an INSERT leaves out what it does not say; stored rows have a NULL
/// only in text, reviewer and note.
pub(super) static OVERRIDES: Table = Table {
    name: "overrides",
    from: "overrides",
    join: "",
    columns: &[
        nullable("policy", "policy", Kind::Text),
        nullable("text_digest", "text_digest", Kind::Hex),
        nullable("text", "text", Kind::Text),
        nullable("label", "label", Kind::Text),
        nullable("reviewer", "reviewer", Kind::Text),
        nullable("note", "note", Kind::Text),
        nullable("decided_at", "decided_at", Kind::Time),
        nullable("violates", "violates", Kind::Bool),
    ],
};

/// What each statement did.
pub(super) static QUERIES: Table = Table {
    name: "queries",
    from: "queries",
    join: "",
    columns: &[
        column("id", "id", Kind::Int),
        column("started_at", "started_at", Kind::Time),
        column("user", "\"user\"", Kind::Text),
        column("statement", "statement", Kind::Text),
        column("status", "status", Kind::Text),
        column("rows", "\"rows\"", Kind::Int),
        column("distinct_texts", "distinct_texts", Kind::Int),
        column("recalled", "recalled", Kind::Int),
        column("screened", "screened", Kind::Int),
        column("asked", "asked", Kind::Int),
        column("undecided", "undecided", Kind::Int),
        column("tokens_in", "tokens_in", Kind::Int),
        column("tokens_out", "tokens_out", Kind::Int),
        column("seconds", "seconds", Kind::Float),
        nullable("role", "role", Kind::Text),
        nullable("model", "model", Kind::Text),
        nullable("busy_seconds", "busy_seconds", Kind::Float),
    ],
};

/// What counts as spent of each role's days.
pub(super) static LIMIT_DAYS: Table = Table {
    name: "limit_days",
    from: "limit_days",
    join: "",
    columns: &[
        column("day", "day * 86400000000", Kind::Time),
        column("role", "role", Kind::Text),
        column("asked", "asked", Kind::Int),
        column("tokens", "tokens", Kind::Int),
    ],
};

/// How far the scores of a policy and a model are trusted.
pub(super) static CALIBRATIONS: Table = Table {
    name: "calibrations",
    from: "calibrations",
    join: "",
    columns: &[
        column("id", "id", Kind::Int),
        column("scorer_digest", "scorer_digest", Kind::Hex),
        column("policy", "policy", Kind::Text),
        column("policy_version", "policy_version", Kind::Int),
        column("policy_digest", "policy_digest", Kind::Text),
        column("model", "model", Kind::Text),
        column("model_digest", "model_digest", Kind::Text),
        column("golden", "golden", Kind::Text),
        column("golden_digest", "golden_digest", Kind::Hex),
        column("target", "target", Kind::Float),
        nullable("gap", "gap", Kind::Float),
        column("golden_rows", "golden_rows", Kind::Int),
        column("scored", "scored", Kind::Int),
        column("scored_right", "scored_right", Kind::Int),
        column("rows_above", "rows_above", Kind::Int),
        column("right_above", "right_above", Kind::Int),
        column("bound", "bound", Kind::Float),
        column("calibrated_at", "calibrated_at", Kind::Time),
    ],
};

/// What each backtest estimated.
pub(super) static BACKTESTS: Table = Table {
    name: "backtests",
    from: "backtests",
    join: "",
    columns: &[
        column("id", "id", Kind::Int),
        column("old_policy", "old_policy", Kind::Text),
        column("old_version", "old_version", Kind::Int),
        column("old_digest", "old_digest", Kind::Text),
        column("new_policy", "new_policy", Kind::Text),
        column("new_version", "new_version", Kind::Int),
        column("new_digest", "new_digest", Kind::Text),
        column("model", "model", Kind::Text),
        column("model_digest", "model_digest", Kind::Text),
        column("mode", "mode", Kind::Text),
        column("effort", "effort", Kind::Text),
        column("source", "source", Kind::Text),
        column("sample", "sample", Kind::Int),
        column("seed", "seed", Kind::Int),
        column("source_rows", "source_rows", Kind::Int),
        column("sampled", "sampled", Kind::Int),
        column("flips", "flips", Kind::Int),
        nullable("share", "share", Kind::Float),
        nullable("share_low", "share_low", Kind::Float),
        nullable("share_high", "share_high", Kind::Float),
        column("noise_sampled", "noise_sampled", Kind::Int),
        column("noise_repeats", "noise_repeats", Kind::Int),
        nullable("noise_share", "noise_share", Kind::Float),
        nullable("noise_low", "noise_low", Kind::Float),
        nullable("noise_high", "noise_high", Kind::Float),
        column("asked", "asked", Kind::Int),
        nullable("tokens", "tokens", Kind::Int),
        nullable("hours", "hours", Kind::Float),
        column("seconds", "seconds", Kind::Float),
        column("backtested_at", "backtested_at", Kind::Time),
        column("backtested_by", "backtested_by", Kind::Text),
        nullable("note", "note", Kind::Text),
    ],
};

/// What each line of a backtest's answer said.
pub(super) static BACKTEST_FINDINGS: Table = Table {
    name: "backtest_findings",
    from: "backtest_findings",
    join: "",
    columns: &[
        column("backtest", "backtest", Kind::Int),
        column("place", "place", Kind::Int),
        column("section", "section", Kind::Text),
        column("name", "name", Kind::Text),
        column("source_rows", "source_rows", Kind::Int),
        column("sampled", "sampled", Kind::Int),
        column("flips", "flips", Kind::Int),
        nullable("share", "share", Kind::Float),
        nullable("share_low", "share_low", Kind::Float),
        nullable("share_high", "share_high", Kind::Float),
        nullable(
            "projected_rows",
            "CAST(round(share * source_rows) AS INTEGER)",
            Kind::Int,
        )
        .in_postgres("CAST(round(CAST(share * source_rows AS NUMERIC)) AS BIGINT)"),
        nullable(
            "projected_low",
            "CAST(round(share_low * source_rows) AS INTEGER)",
            Kind::Int,
        )
        .in_postgres("CAST(round(CAST(share_low * source_rows AS NUMERIC)) AS BIGINT)"),
        nullable(
            "projected_high",
            "CAST(round(share_high * source_rows) AS INTEGER)",
            Kind::Int,
        )
        .in_postgres("CAST(round(CAST(share_high * source_rows AS NUMERIC)) AS BIGINT)"),
    ],
};

/// Sampled rows that changed.
pub(super) static BACKTEST_FLIPS: Table = Table {
    name: "backtest_flips",
    from: "backtest_flips",
    join: "",
    columns: &[
        column("backtest", "backtest", Kind::Int),
        nullable("row_id", "row_id", Kind::Text),
        column("text_digest", "text_digest", Kind::Hex),
        nullable("text", "text", Kind::Text),
        column("stratum", "stratum", Kind::Text),
        nullable("weight", "weight", Kind::Float),
        column("direction", "direction", Kind::Text),
        nullable("old_label", "old_label", Kind::Text),
        nullable("old_reason", "old_reason", Kind::Text),
        nullable("old_score", "old_score", Kind::Float),
        column("old_rules", "old_rules", Kind::Words),
        nullable("old_rationale", "old_rationale", Kind::Text),
        nullable("new_label", "new_label", Kind::Text),
        nullable("new_reason", "new_reason", Kind::Text),
        nullable("new_score", "new_score", Kind::Float),
        column("new_rules", "new_rules", Kind::Words),
        nullable("new_rationale", "new_rationale", Kind::Text),
    ],
};

/// What SQL made beside data.
pub(super) static RELATIONS: Table = Table {
    name: "relations",
    from: "relations",
    join: "",
    columns: &[
        column("position", "position", Kind::Int),
        column("kind", "kind", Kind::Text),
        column("schema", "\"schema\"", Kind::Text),
        column("name", "name", Kind::Text),
        column("sql", "sql", Kind::Text),
        column("created_by", "created_by", Kind::Text),
        column("created_at", "created_at", Kind::Time),
    ],
};

/// Jobs, as pg_cron shows them. They run in this program itself, so that there is no port.
pub(super) static JOB: Table = Table {
    name: "job",
    from: "cron_jobs",
    join: "",
    columns: &[
        column("jobid", "jobid", Kind::Int),
        column("schedule", "schedule", Kind::Text),
        column("command", "command", Kind::Text),
        column("nodename", "'localhost'", Kind::Text),
        nullable("nodeport", "NULL", Kind::Int).in_postgres("CAST(NULL AS BIGINT)"),
        column("database", "database", Kind::Text),
        column("username", "username", Kind::Text),
        column("active", "active", Kind::Bool),
        nullable("jobname", "jobname", Kind::Text),
    ],
};

/// Runs, as pg_cron shows them, and behind that what a run asked and said, and when it was due.
pub(super) static JOB_RUN_DETAILS: Table = Table {
    name: "job_run_details",
    from: "cron_runs",
    join: "",
    columns: &[
        column("jobid", "jobid", Kind::Int),
        column("runid", "runid", Kind::Int),
        nullable("job_pid", "job_pid", Kind::Int),
        column("database", "database", Kind::Text),
        column("username", "username", Kind::Text),
        column("command", "command", Kind::Text),
        column("status", "status", Kind::Text),
        nullable("return_message", "return_message", Kind::Text),
        nullable("start_time", "start_time", Kind::Time),
        nullable("end_time", "end_time", Kind::Time),
        nullable("rows", "\"rows\"", Kind::Int),
        nullable("asked", "asked", Kind::Int),
        nullable("undecided", "undecided", Kind::Int),
        column("notices", "notices", Kind::Words),
        column("due_time", "due", Kind::Time),
    ],
};

/// Who may log in. The verifier is not a column.
pub(super) static USERS: Table = Table {
    name: "users",
    from: "users",
    join: "",
    columns: &[
        column("name", "name", Kind::Text),
        column("role", "role", Kind::Text),
        column("created_at", "created_at", Kind::Time),
    ],
};

/// What was found when policies were measured.
pub(super) static EVALUATIONS: Table = Table {
    name: "evaluations",
    from: "evaluations",
    join: "",
    columns: &[
        column("id", "id", Kind::Int),
        column("evaluated_at", "evaluated_at", Kind::Time),
        column("evaluated_by", "evaluated_by", Kind::Text),
        column("policy", "policy", Kind::Text),
        column("version", "version", Kind::Int),
        column("digest", "digest", Kind::Text),
        nullable("against", "against", Kind::Text),
        column("golden", "golden", Kind::Text),
        column("golden_digest", "golden_digest", Kind::Hex),
        column("model", "model", Kind::Text),
        column("model_digest", "model_digest", Kind::Text),
        column("mode", "mode", Kind::Text),
        column("effort", "effort", Kind::Text),
        column("repeats", "repeats", Kind::Int),
        column("note", "note", Kind::Text),
        column("n", "n", Kind::Int),
        column("predicted", "predicted", Kind::Int),
        column("right", "\"right\"", Kind::Int),
        column("undecided", "undecided", Kind::Int),
        nullable("accuracy", "accuracy", Kind::Float),
        nullable("accuracy_low", "accuracy_low", Kind::Float),
        nullable("accuracy_high", "accuracy_high", Kind::Float),
        nullable("unstable", "unstable", Kind::Int),
        nullable("flips", "flips", Kind::Int),
        nullable("fixed", "fixed", Kind::Int),
        nullable("broken", "broken", Kind::Int),
    ],
};

/// Each golden text of an evaluation with what was said of it.
pub(super) static EVALUATION_ROWS: Table = Table {
    name: "evaluation_rows",
    from: "evaluation_rows",
    join: "",
    columns: &[
        column("evaluation", "evaluation", Kind::Int),
        column("policy", "policy", Kind::Text),
        column("version", "version", Kind::Int),
        column("text_digest", "text_digest", Kind::Hex),
        nullable("text", "text", Kind::Text),
        column("source", "source", Kind::Text),
        column("golden_label", "golden_label", Kind::Text),
        column("golden_violates", "golden_violates", Kind::Bool),
        nullable("label", "label", Kind::Text),
        nullable("reason", "reason", Kind::Text),
        nullable("violates", "violates", Kind::Bool),
        nullable("score", "score", Kind::Float),
        column("rules", "rules", Kind::Words),
        nullable("unstable", "unstable", Kind::Bool),
    ],
};
