//! An evaluation: how right, where wrong, how sure.

use super::rows::Rows;
use super::{measured, one};
use crate::change::stats::{CONFIDENCE, wilson};
use crate::config::REPORT_EXAMPLES_MAX;
use crate::engine::Session;
use crate::error::Error;
use crate::report::{Body, Example, Histogram, Matrix, Measured, Page, Section};

/// Bins of the score's histogram.
const BINS: usize = 20;

pub(super) async fn page(session: &Session, id: i64) -> Result<Page, Error> {
    let about = one(session, "evaluations", id).await?;
    let policy = format!("{}@{}", about.text(0, "policy"), about.text(0, "version"));
    let own = format!(
        "evaluation = {id} AND policy = '{}' AND version = {}",
        about.text(0, "policy").replace('\'', "''"),
        about.text(0, "version")
    );
    let found = Found::read(session, &own).await?;
    let section = |heading: &str, note: &str, body| Section {
        heading: heading.to_owned(),
        note: note.to_owned(),
        body,
    };
    let sections = vec![
        section(
            "How right",
            "Shares with 95% Wilson intervals. Precision: of the texts given a label, those whose golden label it is. \
             Recall: of the texts with a golden label, those given it; an undecided text is given none.",
            Body::Intervals(shares(&about, &found.labels)),
        ),
        section(
            "Which label for which",
            "Rows are golden labels, columns what was given; what agrees is framed.",
            Body::Matrix(matrix(&found.confusion)),
        ),
        section(
            "Scores",
            "P(not the allowed label), by whether the golden label violates. Well told apart is left and right.",
            Body::Histogram(histogram(&found.scores)),
        ),
        section(
            "Calibration",
            "Where the share that violates is near the mean score, a score may be read as a probability.",
            Body::Table {
                columns: ["from", "to", "n", "mean score", "share violating"]
                    .map(Into::into)
                    .into(),
                rows: found.calibration.table(&[
                    "score_from",
                    "score_to",
                    "n",
                    "mean_score",
                    "share_violating",
                ]),
            },
        ),
        section(
            "Rules",
            "How often each was cited, and how often the label beside it was the golden one.",
            Body::Table {
                columns: ["rule", "n", "right"].map(Into::into).into(),
                rows: found.rules.table(&["rule", "n", "right"]),
            },
        ),
        section(
            "Wrong or undecided",
            &format!("At most {REPORT_EXAMPLES_MAX}, the surest first."),
            Body::Examples(wrong(session, &own).await?),
        ),
    ];
    Ok(Page {
        title: format!("Evaluation {id}: {policy}"),
        facts: facts(&about, &policy),
        sections,
    })
}

/// What is drawn.
struct Found {
    labels: Rows,
    confusion: Rows,
    calibration: Rows,
    rules: Rows,
    scores: Rows,
}

impl Found {
    /// `own`: the condition for the rows of the policy that was evaluated.
    async fn read(session: &Session, own: &str) -> Result<Found, Error> {
        let view = async |name: &str, order: &str| {
            let sql = format!("SELECT * FROM safeguard.{name} WHERE {own} ORDER BY {order}");
            Rows::read(session, &sql).await
        };
        let labels = view("evaluation_labels", "label").await?;
        let confusion = view("evaluation_confusion", "golden_label, label").await?;
        let calibration = Rows::read(
            session,
            &format!(
                "SELECT score_from, score_to, n, round(mean_score, 3) AS mean_score,
                    round(share_violating, 3) AS share_violating
             FROM safeguard.evaluation_calibration WHERE {own} ORDER BY score_from"
            ),
        )
        .await?;
        let rules = view("evaluation_rules", "rule").await?;
        let scores = Rows::read(
        session,
        &format!(
            "SELECT golden_violates, least(CAST(floor(score * {BINS}) AS BIGINT), {}) AS bin, count(*) AS n
             FROM safeguard.evaluation_rows WHERE {own} AND score IS NOT NULL GROUP BY 1, 2",
            BINS - 1
        ),
    )
    .await?;
        Ok(Found {
            labels,
            confusion,
            calibration,
            rules,
            scores,
        })
    }
}

fn facts(about: &Rows, policy: &str) -> Vec<(String, String)> {
    let mut facts = vec![("policy".to_owned(), policy.to_owned())];
    let columns = [
        "against",
        "golden",
        "model",
        "mode",
        "effort",
        "n",
        "undecided",
        "repeats",
        "unstable",
        "flips",
        "fixed",
        "broken",
        "evaluated_at",
        "evaluated_by",
        "note",
    ];
    for column in columns {
        let value = about.text(0, column);
        if !value.is_empty() {
            facts.push((column.replace('_', " "), value));
        }
    }
    facts
}

fn shares(about: &Rows, labels: &Rows) -> Vec<Measured> {
    let columns = ["accuracy", "accuracy_low", "accuracy_high"];
    let of = |right: u64, n: u64| format!("{right} of {n}");
    let right = of(about.count(0, "right"), about.count(0, "n"));
    let mut shares = vec![measured(about, 0, columns, "accuracy", right)];
    for row in 0..labels.len() {
        let (label, right) = (labels.text(row, "label"), labels.count(row, "right"));
        for (what, n) in [("precision", "predicted"), ("recall", "n")] {
            let n = labels.count(row, n);
            let interval = wilson(right, n, CONFIDENCE);
            shares.push(Measured {
                name: format!("{what} of {label}"),
                share: (n > 0).then(|| right as f64 / n as f64),
                low: interval.low,
                high: interval.high,
                beside: of(right, n),
            });
        }
    }
    shares
}

fn matrix(confusion: &Rows) -> Matrix {
    let mut matrix = Matrix {
        down: "golden label".to_owned(),
        across: "given".to_owned(),
        ..Matrix::default()
    };
    let place = |names: &mut Vec<String>, name: String| match names.iter().position(|n| *n == name)
    {
        Some(at) => at,
        None => {
            names.push(name);
            names.len() - 1
        }
    };
    let mut cells = Vec::new();
    for row in 0..confusion.len() {
        let down = place(&mut matrix.rows, confusion.text(row, "golden_label"));
        cells.push((
            down,
            confusion.text(row, "label"),
            confusion.count(row, "n"),
        ));
    }
    // Labels stand in one order both ways, so that what agrees is the diagonal.
    matrix.columns = matrix.rows.clone();
    let cells: Vec<_> = cells
        .into_iter()
        .map(|(down, label, n)| (down, place(&mut matrix.columns, label), n))
        .collect();
    matrix.counts = vec![vec![0; matrix.columns.len()]; matrix.rows.len()];
    for (down, across, n) in cells {
        matrix.counts[down][across] += n;
    }
    matrix
}

fn histogram(scores: &Rows) -> Histogram {
    let mut kinds = [("allowed", "false"), ("violating", "true")].map(|(name, is)| {
        let mut counts = vec![0; BINS];
        for row in (0..scores.len()).filter(|row| scores.get(*row, "golden_violates") == Some(is)) {
            let bin = usize::try_from(scores.count(row, "bin")).unwrap_or(0);
            counts[bin.min(BINS - 1)] += scores.count(row, "n");
        }
        (format!("golden label {name}"), counts)
    });
    kinds.sort();
    Histogram {
        kinds: kinds.into(),
    }
}

/// Rationales are those of the verdicts, where they are kept.
async fn wrong(session: &Session, own: &str) -> Result<Vec<Example>, Error> {
    let rows = Rows::read(
        session,
        &format!(
            "SELECT r.text, r.golden_label, coalesce(r.label, 'undecided: ' || r.reason) AS given, r.score, r.rules, r.unstable,
                    (SELECT max(v.rationale) FROM safeguard.verdicts v
                     WHERE v.text_digest = r.text_digest AND v.policy = r.policy
                       AND v.policy_version = r.version) AS rationale
             FROM safeguard.evaluation_rows r
             WHERE {own} AND (r.label IS NULL OR r.label <> r.golden_label)
             ORDER BY abs(coalesce(r.score, 0.5) - 0.5) DESC, r.text_digest LIMIT {REPORT_EXAMPLES_MAX}"
        ),
    )
    .await?;
    let example = |row| Example {
        heading: format!(
            "{} instead of {}",
            rows.text(row, "given"),
            rows.text(row, "golden_label")
        ),
        id: None,
        text: rows.get(row, "text").map(Into::into),
        details: details(&rows, row, &["score", "rules", "unstable", "rationale"]),
    };
    Ok((0..rows.len()).map(example).collect())
}

/// What is known, by name.
pub(super) fn details(rows: &Rows, row: usize, columns: &[&str]) -> Vec<(String, String)> {
    let known = columns.iter().filter_map(|column| {
        let value = rows.get(row, column).filter(|value| !value.is_empty())?;
        Some((column.replace('_', " "), value.to_owned()))
    });
    known.collect()
}
