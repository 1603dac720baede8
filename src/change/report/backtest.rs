//! A backtest: what an edit would change, how sure that is, and some of the rows.

use super::evaluation::details;
use super::rows::Rows;
use super::{grouped, measured, one};
use crate::config::REPORT_EXAMPLES_MAX;
use crate::engine::Session;
use crate::error::Error;
use crate::report::{Body, Example, Measured, Page, Section};

const SHARE: [&str; 3] = ["share", "share_low", "share_high"];

pub(super) async fn page(session: &Session, id: i64) -> Result<Page, Error> {
    let about = one(session, "backtests", id).await?;
    let version = |side: &str| {
        let part = |name| about.text(0, &format!("{side}_{name}"));
        format!("{}@{}", part("policy"), part("version"))
    };
    let (old, new) = (version("old"), version("new"));
    let findings = Rows::read(
        session,
        &format!("SELECT * FROM safeguard.backtest_findings WHERE backtest = {id} ORDER BY place"),
    )
    .await?;
    let by = |section: &str| -> Vec<Measured> {
        let rows = (0..findings.len()).filter(|row| findings.get(*row, "section") == Some(section));
        rows.map(|row| {
            measured(
                &findings,
                row,
                SHARE,
                &findings.text(row, "name"),
                projected(&findings, row),
            )
        })
        .collect()
    };
    let flips = Rows::read(
        session,
        &format!(
            "SELECT *, coalesce(old_label, 'undecided: ' || old_reason) AS was,
                    coalesce(new_label, 'undecided: ' || new_reason) AS becomes
             FROM safeguard.backtest_flips WHERE backtest = {id}
             ORDER BY weight DESC NULLS LAST, text_digest LIMIT {REPORT_EXAMPLES_MAX}"
        ),
    )
    .await?;
    let example = |row| Example {
        heading: format!(
            "{} → {}",
            flips.text(row, "was"),
            flips.text(row, "becomes")
        ),
        id: flips.get(row, "row_id").map(|id| format!("id {id}")),
        text: flips.get(row, "text").map(Into::into),
        details: details(
            &flips,
            row,
            &[
                "weight",
                "old_score",
                "old_rules",
                "old_rationale",
                "new_score",
                "new_rules",
                "new_rationale",
            ],
        ),
    };
    let section = |heading: &str, note: &str, body| Section {
        heading: heading.to_owned(),
        note: note.to_owned(),
        body,
    };
    let mut all = by("total");
    all.extend(by("noise"));
    Ok(Page {
        title: format!("Backtest {id}: from {old} to {new}"),
        facts: facts(&about, &old, &new),
        sections: vec![
            section(
                "What would change",
                "Shares of the rows of the source with 95% intervals, projected from the sample. The noise floor is what \
                 changes when the old policy is asked again: an effect below it is none.",
                Body::Intervals(all),
            ),
            section("In which direction", "", Body::Intervals(by("direction"))),
            section(
                "Under which rule",
                "Rules that the new verdict cites; where that does not violate, those of the old one.",
                Body::Intervals(by("rule")),
            ),
            section(
                "Where",
                "By what the rows were under the old policy before the backtest.",
                Body::Intervals(by("stratum")),
            ),
            section(
                "Rows that change",
                &format!("Of the sample, at most {REPORT_EXAMPLES_MAX}, the weightiest first."),
                Body::Examples((0..flips.len()).map(example).collect()),
            ),
        ],
    })
}

fn projected(findings: &Rows, row: usize) -> String {
    let number = |column| findings.number(row, column).map(grouped);
    match (
        number("projected_rows"),
        number("projected_low"),
        number("projected_high"),
    ) {
        (Some(rows), Some(low), Some(high)) => format!("{rows} rows ({low} to {high})"),
        _ => format!(
            "{} of {}",
            findings.count(row, "flips"),
            findings.count(row, "sampled")
        ),
    }
}

fn facts(about: &Rows, old: &str, new: &str) -> Vec<(String, String)> {
    let mut facts = vec![
        ("old".to_owned(), old.to_owned()),
        ("new".to_owned(), new.to_owned()),
    ];
    let columns = [
        "source",
        "source_rows",
        "sampled",
        "seed",
        "model",
        "mode",
        "effort",
        "asked",
        "tokens",
        "hours",
        "backtested_at",
        "backtested_by",
        "note",
    ];
    for column in columns {
        let value = about.text(0, column);
        if !value.is_empty() {
            let shown = match column {
                "source_rows" | "sampled" | "tokens" | "asked" => {
                    about.number(0, column).map_or(value, grouped)
                }
                "hours" => about
                    .number(0, column)
                    .map_or(value, |hours| format!("{hours:.2}")),
                _ => value,
            };
            let name = match column {
                "tokens" => "tokens for the whole source".to_owned(),
                "hours" => "hours for the whole source".to_owned(),
                other => other.replace('_', " "),
            };
            facts.push((name, shown));
        }
    }
    facts
}
