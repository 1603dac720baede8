//! A backfill: how far it is, what it found, what it could not judge.

use super::rows::Rows;
use super::{grouped, measured, one};
use crate::config::REPORT_EXAMPLES_MAX;
use crate::engine::Session;
use crate::error::Error;
use crate::report::{Body, Measured, Page, Section};

pub(super) async fn page(session: &Session, id: i64) -> Result<Page, Error> {
    let about = one(session, "backfills", id).await?;
    let policy = about.text(0, "policy");
    let failures = Rows::read(
        session,
        &format!(
            "SELECT id, text_digest, reason, tries, last_error FROM safeguard.backfill_failures
             WHERE backfill = {id} ORDER BY at, text_digest LIMIT {REPORT_EXAMPLES_MAX}"
        ),
    )
    .await?;
    let section = |heading: &str, note: &str, body| Section {
        heading: heading.to_owned(),
        note: note.to_owned(),
        body,
    };
    let mut sections = vec![section(
        "How far",
        "Of the rows, and of their weight where the source gives one.",
        Body::Intervals(vec![
            covered(&about, "rows", "coverage"),
            covered(&about, "weight", "weight_coverage"),
        ]),
    )];
    if about.number(0, "control_rows").is_some() {
        let beside = format!(
            "{} of {} control rows flipped",
            about.count(0, "control_flips"),
            about.count(0, "control_rows")
        );
        let columns = ["missed_share", "missed_low", "missed_high"];
        sections.push(section(
            "What the shortcut missed",
            "Only texts whose rules changed were judged again, and a random control sample of the others: the share of it \
             that flips, with its 95% interval.",
            Body::Intervals(vec![measured(&about, 0, columns, "others that flip", beside)]),
        ));
    }
    sections.push(section(
        "Could not be judged",
        &format!("At most {REPORT_EXAMPLES_MAX}."),
        Body::Table {
            columns: ["id", "text digest", "reason", "tries", "last error"]
                .map(Into::into)
                .into(),
            rows: failures.table(&["id", "text_digest", "reason", "tries", "last_error"]),
        },
    ));
    Ok(Page {
        title: format!("Backfill {id}: {policy}"),
        facts: facts(&about),
        sections,
    })
}

/// Coverage is counted, not estimated: the interval is the point.
fn covered(about: &Rows, name: &str, column: &str) -> Measured {
    let share = about.number(0, column);
    Measured {
        name: name.to_owned(),
        share,
        low: share.unwrap_or(0.0),
        high: share.unwrap_or(0.0),
        beside: String::new(),
    }
}

fn facts(about: &Rows) -> Vec<(String, String)> {
    let columns = [
        "policy",
        "policy_version",
        "state",
        "reason",
        "source",
        "order_by",
        "only",
        "note",
        "rows",
        "judged",
        "recalled",
        "asked",
        "undecided",
        "failed",
        "tokens_in",
        "tokens_out",
        "budget",
        "requested_by",
        "requested_at",
        "started_at",
        "ended_at",
    ];
    let shown = columns.into_iter().filter_map(|column| {
        let value = about.get(0, column).filter(|value| !value.is_empty())?;
        let counted = [
            "rows",
            "judged",
            "recalled",
            "asked",
            "tokens_in",
            "tokens_out",
            "budget",
        ];
        let value = match about.number(0, column) {
            Some(number) if counted.contains(&column) => grouped(number),
            _ => value.to_owned(),
        };
        Some((column.replace('_', " "), value))
    });
    shown.collect()
}
