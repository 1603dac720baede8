//! The tables of work that outlives a statement: backfills, what they gave up, and the queue.

use super::{Kind, Table, column, nullable};

/// Durable passes over existing rows.
pub(in crate::store) static BACKFILLS: Table = Table {
    name: "backfills",
    from: "backfills",
    join: "",
    columns: &[
        column("id", "id", Kind::Int),
        column("policy", "policy", Kind::Text),
        column("policy_version", "policy_version", Kind::Int),
        column("policy_digest", "policy_digest", Kind::Text),
        column("source", "source", Kind::Text),
        nullable("order_by", "order_by", Kind::Text),
        nullable("note", "note", Kind::Text),
        nullable("only", "only_which", Kind::Text),
        column("state", "state", Kind::Text),
        nullable("reason", "reason", Kind::Text),
        column("rows", "\"rows\"", Kind::Int),
        column("chunks", "chunks", Kind::Int),
        column("judged", "judged", Kind::Int),
        column("recalled", "recalled", Kind::Int),
        column("asked", "asked", Kind::Int),
        column("undecided", "undecided", Kind::Int),
        column("failed", "failed", Kind::Int),
        column("weight_total", "weight_total", Kind::Float),
        column("weight_judged", "weight_judged", Kind::Float),
        column("tokens_in", "tokens_in", Kind::Int),
        column("tokens_out", "tokens_out", Kind::Int),
        nullable("budget", "budget", Kind::Int),
        nullable("rate", "rate", Kind::Float),
        nullable(
            "seconds_left",
            "CASE WHEN state = 'running' AND rate > 0 THEN (\"rows\" - judged - failed) / rate END",
            Kind::Float,
        ),
        nullable(
            "coverage",
            "CASE WHEN \"rows\" > 0 THEN CAST(judged AS DOUBLE PRECISION) / \"rows\" END",
            Kind::Float,
        ),
        nullable(
            "weight_coverage",
            "CASE WHEN weight_total <= 0 THEN NULL WHEN weight_judged < weight_total
                THEN weight_judged / weight_total ELSE CAST(1 AS DOUBLE PRECISION) END",
            Kind::Float,
        ),
        nullable("control_rows", "control_rows", Kind::Int),
        nullable("control_flips", "control_flips", Kind::Int),
        nullable("missed_share", "missed_share", Kind::Float),
        nullable("missed_low", "missed_low", Kind::Float),
        nullable("missed_high", "missed_high", Kind::Float),
        column("model", "model", Kind::Text),
        column("mode", "mode", Kind::Text),
        column("effort", "effort", Kind::Text),
        column("requested_by", "requested_by", Kind::Text),
        column("requested_at", "requested_at", Kind::Time),
        nullable("started_at", "started_at", Kind::Time),
        nullable("ended_at", "ended_at", Kind::Time),
    ],
};

/// Texts that backfills gave up.
pub(in crate::store) static BACKFILL_FAILURES: Table = Table {
    name: "backfill_failures",
    from: "backfill_failures",
    join: "",
    columns: &[
        column("backfill", "backfill", Kind::Int),
        column("text_digest", "text_digest", Kind::Hex),
        nullable("id", "id", Kind::Text),
        column("reason", "reason", Kind::Text),
        column("tries", "tries", Kind::Int),
        nullable("last_error", "last_error", Kind::Text),
        column("at", "at", Kind::Time),
    ],
};

/// How many texts wait to be judged, by what they are to be judged under; the texts themselves are not shown.
pub(in crate::store) static QUEUE: Table = Table {
    name: "queue",
    from: "queue_judges",
    join: "",
    columns: &[
        column("policy", "policy", Kind::Text),
        column("policy_version", "policy_version", Kind::Int),
        column("mode", "mode", Kind::Text),
        column("effort", "effort", Kind::Text),
        column("model", "model", Kind::Text),
        column("depth", "depth", Kind::Int),
        nullable(
            "oldest_at",
            "(SELECT q.enqueued_at FROM queue AS q INDEXED BY queue_order
              WHERE q.judge = queue_judges.id ORDER BY q.id LIMIT 1)",
            Kind::Time,
        )
        .in_postgres(
            "(SELECT q.enqueued_at FROM queue AS q
              WHERE q.judge = queue_judges.id ORDER BY q.id LIMIT 1)",
        ),
        nullable(
            "oldest_seconds",
            "(SELECT unixepoch('subsec') - q.enqueued_at / 1e6 FROM queue AS q INDEXED BY queue_order
              WHERE q.judge = queue_judges.id ORDER BY q.id LIMIT 1)",
            Kind::Float,
        )
        .in_postgres(
            "(SELECT CAST(extract(epoch FROM clock_timestamp()) - q.enqueued_at / 1e6 AS DOUBLE PRECISION)
              FROM queue AS q WHERE q.judge = queue_judges.id ORDER BY q.id LIMIT 1)",
        ),
        column("judged", "judged", Kind::Int),
        column("failed", "failed", Kind::Int),
        nullable("rate", "rate", Kind::Float),
        nullable("reason", "reason", Kind::Text),
    ],
};
