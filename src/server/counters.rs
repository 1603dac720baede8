//! What the server has done so far, for `/metrics`.
//!
//! Takes events, gives counts at any moment. Knows no HTTP.

use super::failure::Failure;
use safeguard_udfs::Summary;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// A number that only grows, or goes up and down.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// So many more.
    pub fn add_many(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// One less.
    pub fn subtract(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// All counts of one server.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that are open, those that log in among them.
    pub connections: Count,
    /// Connections so far.
    pub accepted: Count,
    /// Connections beyond the limit.
    pub refused: Count,
    /// Logins that failed.
    pub logins_failed: Count,
    /// Statements so far.
    pub statements: Count,
    /// Statements that run.
    pub running: Count,
    /// Bytes sent to clients.
    pub sent: Count,
    /// Texts that came with a verdict from the store.
    pub recalled: Count,
    /// Texts that a screen cleared.
    pub cleared: Count,
    /// Texts that a screen convicted.
    pub convicted: Count,
    /// Texts that a screen left to the model.
    pub escalated: Count,
    /// Questions that the model answered.
    pub asked: Count,
    /// Texts without a verdict.
    pub undecided: Count,
    /// Tokens read and written for them.
    pub tokens: Count,
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    /// A statement or a connection failed.
    pub fn failed(&self, failure: &Failure) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(failure.sqlstate).or_default() += 1;
    }

    /// A statement that classified has ended.
    pub fn classified(&self, summary: &Summary) {
        self.recalled.add_many(summary.recalled);
        self.cleared
            .add_many(summary.screened.saturating_sub(summary.convicted));
        self.convicted.add_many(summary.convicted);
        self.escalated.add_many(summary.escalated);
        self.asked.add_many(summary.asked);
        self.undecided.add_many(summary.undecided_total());
        self.tokens.add_many(summary.tokens_in + summary.tokens_out);
    }

    /// In the text format of Prometheus (version 0.0.4).
    pub fn text(&self) -> String {
        let rows: [(&str, &str, &str, u64); 14] = [
            (
                "connections",
                "gauge",
                "Open connections.",
                self.connections.get(),
            ),
            (
                "connections_total",
                "counter",
                "Connections so far.",
                self.accepted.get(),
            ),
            (
                "connections_refused_total",
                "counter",
                "Connections beyond the limit.",
                self.refused.get(),
            ),
            (
                "logins_failed_total",
                "counter",
                "Logins that failed.",
                self.logins_failed.get(),
            ),
            (
                "statements_total",
                "counter",
                "Statements so far.",
                self.statements.get(),
            ),
            (
                "statements_running",
                "gauge",
                "Statements that run.",
                self.running.get(),
            ),
            (
                "sent_bytes_total",
                "counter",
                "Bytes sent to clients.",
                self.sent.get(),
            ),
            (
                "texts_recalled_total",
                "counter",
                "Texts with a verdict from the store.",
                self.recalled.get(),
            ),
            (
                "texts_cleared_total",
                "counter",
                "Texts that a screen cleared.",
                self.cleared.get(),
            ),
            (
                "texts_convicted_total",
                "counter",
                "Texts that a screen convicted.",
                self.convicted.get(),
            ),
            (
                "texts_escalated_total",
                "counter",
                "Texts that a screen left to the model.",
                self.escalated.get(),
            ),
            (
                "questions_asked_total",
                "counter",
                "Questions that the model answered.",
                self.asked.get(),
            ),
            (
                "texts_undecided_total",
                "counter",
                "Texts without a verdict.",
                self.undecided.get(),
            ),
            (
                "tokens_total",
                "counter",
                "Tokens read and written by the model.",
                self.tokens.get(),
            ),
        ];
        let mut text = String::new();
        for (name, kind, help, value) in rows {
            let _ = writeln!(text, "# HELP safeguard_{name} {help}");
            let _ = writeln!(text, "# TYPE safeguard_{name} {kind}");
            let _ = writeln!(text, "safeguard_{name} {value}");
        }
        let _ = writeln!(text, "# HELP safeguard_failures_total Errors by SQLSTATE.");
        let _ = writeln!(text, "# TYPE safeguard_failures_total counter");
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for (sqlstate, count) in failures.iter() {
            let _ = writeln!(
                text,
                "safeguard_failures_total{{sqlstate=\"{sqlstate}\"}} {count}"
            );
        }
        text
    }
}
