//! What is printed: what is real and what is not, the scenarios beside each other, and the hours of those with an edit.
//!
//! Takes figures, gives text; the same figures give the same text.

use crate::agenda::{HOUR, Micros, SECOND};
use crate::day::{Figures, Hour, Limit};
use crate::options::Options;
use crate::replica::Curve;
use std::fmt::Write;

const HONEST: &str = "\
real      routing, places and breakers of each server (backend::endpoint::replicas), packing of a replica's steps
          (backend::schedule; for the curve below), the store's claims, leases and settling (store, SQLite), pauses and
          leases (jobs::pace), what failures mean for a chunk (jobs::outcome), budgets (safeguard_udfs::budget), limits of
          a day (classify::limits), who kept the model busy (classify::meter)
modelled  time; sockets, and the loop that sends a request; the loop of a worker; what recall, the screen and the model say;
          the time of a step of the model, of a statement of the store and of spooling; the new version has a screen of its
          own when it is published
guesses   each default of an option that its help calls one; arrivals over the day; reposts (1/rank); lengths of texts
";

/// Everything.
pub fn text(options: &Options, curve: &Curve, all: &[Figures]) -> String {
    let mut out = String::new();
    // A string takes whatever is written.
    let _ = written(&mut out, options, curve, all);
    out
}

fn written(out: &mut String, o: &Options, curve: &Curve, all: &[Figures]) -> std::fmt::Result {
    writeln!(
        out,
        "{} rows are stored, {} a day arrive; {} replicas, {} servers with {} chunks in hand each; seed {}",
        o.rows,
        o.arrivals(),
        o.replicas,
        o.servers,
        o.workers,
        o.seed
    )?;
    writeln!(
        out,
        "edit: hour {:.2}; loss: from hour {:.2} on for {:.2} hours {} replicas are lost, {} hang, {} servers are killed",
        o.edit_at, o.lost_at, o.lost_for, o.lost, o.hung, o.killed
    )?;
    writeln!(
        out,
        "a row of the store stands for {}\n\n{HONEST}",
        o.grain()
    )?;
    writeln!(
        out,
        "a replica: {:.2} s a question alone, {:.2} s each of {}; {:.1} questions/s at the most\n",
        curve.seconds(1),
        curve.seconds(o.batch),
        o.batch,
        curve.most()
    )?;
    table(out, o, curve, all)?;
    for figures in all.iter().filter(|figures| figures.scenario.edit) {
        hours(out, o, curve, figures)?;
    }
    let broken: Vec<&String> = all.iter().flat_map(|figures| &figures.broken).collect();
    match broken.is_empty() {
        true => writeln!(
            out,
            "\nevery row is accounted for: judged once under each version that is owed, given up, or left"
        ),
        false => broken
            .into_iter()
            .try_for_each(|why| writeln!(out, "\nBROKEN: {why}")),
    }
}

fn span(time: Micros) -> String {
    let seconds = time as f64 / SECOND as f64;
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.2}%", 100.0 * part as f64 / whole as f64),
    }
}

/// A number that is no less than nothing where it rounds to it.
fn round(number: f64, digits: usize) -> String {
    let said = format!("{number:.digits$}");
    match said.trim_matches(['-', '0', '.']).is_empty() {
        true => said.trim_start_matches('-').to_owned(),
        false => said,
    }
}

/// The lag that a share of asked rows does not exceed.
fn lag(figures: &Figures, share: f64) -> String {
    let at = ((figures.lags.len() as f64 * share).ceil() as usize).max(1) - 1;
    figures
        .lags
        .get(at)
        .map_or_else(|| "-".to_owned(), |ms| span(Micros::from(*ms) * 1_000))
}

/// GPU-hours that questions of mean work take at full load.
fn full_load(curve: &Curve, worked: f64) -> f64 {
    worked / curve.most() / 3_600.0
}

/// A line of the table, with what it says of one scenario.
type Line = (&'static str, String);

fn table(out: &mut String, o: &Options, curve: &Curve, all: &[Figures]) -> std::fmt::Result {
    let is_quiet = |figures: &&Figures| !figures.scenario.edit && !figures.scenario.loss;
    let quiet = all.iter().find(is_quiet);
    let quiet = quiet.map_or(0.0, |figures| full_load(curve, figures.worked));
    let column = |figures: &Figures| {
        let mut column = vec![("", figures.scenario.name().to_owned())];
        column.extend(rows(figures));
        column.extend(questions(figures));
        column.extend(costs(o, figures, full_load(curve, figures.worked), quiet));
        column
    };
    let columns: Vec<Vec<Line>> = all.iter().map(column).collect();
    let lines = columns.first().map_or(0, Vec::len);
    for line in 0..lines {
        write!(out, "{:<32}", columns[0][line].0)?;
        for column in &columns {
            write!(out, "{:>20}", column[line].1)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn rows(f: &Figures) -> Vec<Line> {
    let (again, all) = (f.backfill_counts, f.backfill_rows);
    let (fresh, arrived) = (f.fresh_counts, f.fresh_rows);
    let time = match (f.backfill, all) {
        (_, 0) => "-".to_owned(),
        (Some(time), _) => span(time),
        (None, _) => "not done".to_owned(),
    };
    vec![
        ("time to backfill", time),
        ("rows to judge again", all.to_string()),
        ("  recalled", percent(again.recalled, all)),
        ("  cleared by the screen", percent(again.cleared, all)),
        ("  asked", percent(again.asked, all)),
        ("  undecided", percent(again.undecided, all)),
        ("  given up", again.failed.to_string()),
        ("  left", (all - again.rows()).to_string()),
        ("fresh rows", arrived.to_string()),
        ("  recalled", percent(fresh.recalled, arrived)),
        ("  cleared by the screen", percent(fresh.cleared, arrived)),
        ("  asked", percent(fresh.asked, arrived)),
        ("  undecided", percent(fresh.undecided, arrived)),
        ("  left", f.fresh_waiting.to_string()),
        ("lag of asked ones: median", lag(f, 0.5)),
        ("  99%", lag(f, 0.99)),
        ("  worst", lag(f, 1.0)),
    ]
}

fn questions(f: &Figures) -> Vec<Line> {
    let (put, busy) = (f.fleet, f.fleet.busy[0] + f.fleet.busy[1]);
    let part = match busy > 0.0 {
        true => format!("{:.1}%", 100.0 * put.busy[1] / busy),
        false => "-".to_owned(),
    };
    let most = f.hours.iter().map(|hour| hour.statements).max();
    vec![
        ("questions put", put.put.to_string()),
        ("  requests sent", put.requests.to_string()),
        ("  again after a fault", put.again.to_string()),
        ("  failed after all tries", put.failed.to_string()),
        ("  of killed servers", put.cut.to_string()),
        ("claims of chunks", f.claims.to_string()),
        ("  that came back late", f.lost_claims.to_string()),
        ("tokens of the backfill", f.tokens.to_string()),
        ("backfill's part of busy time", part),
        (
            "most statements/s of the store",
            format!("{:.1}", most.unwrap_or_default() as f64 / 3_600.0),
        ),
    ]
}

fn costs(o: &Options, f: &Figures, needed: f64, quiet: f64) -> Vec<Line> {
    let paid = o.replicas as f64 * (f.ended.max(24 * HOUR) as f64 / HOUR as f64);
    let more = needed - quiet;
    vec![
        ("GPU-hours paid for", round(paid, 1)),
        ("  money", round(paid * o.price, 2)),
        ("GPU-hours needed at full load", round(needed, 1)),
        ("  more than a quiet day", round(more, 1)),
        ("  money", round(more * o.price, 2)),
    ]
}

fn hours(out: &mut String, o: &Options, curve: &Curve, figures: &Figures) -> std::fmt::Result {
    writeln!(out, "\n{}, hour by hour", figures.scenario.name())?;
    writeln!(
        out,
        "{:>4} {:>12} {:>14} {:>12} {:>6} {:>10}  limited by",
        "hour", "arrived", "judged again", "answered", "GPUs", "worst lag"
    )?;
    for (number, hour) in figures.hours.iter().enumerate() {
        let can = o.replicas as f64 * curve.most() * 3_600.0;
        writeln!(
            out,
            "{number:>4} {:>12} {:>14} {:>12} {:>5.0}% {:>10}  {}",
            hour.arrived,
            hour.judged,
            hour.answered,
            100.0 * hour.worked / can,
            span(hour.worst_lag),
            limits(hour)
        )?;
    }
    Ok(())
}

/// What limited an hour, the longest first.
fn limits(hour: &Hour) -> String {
    let all: u64 = hour.looks.iter().sum();
    let mut parts: Vec<(u64, Limit)> = hour
        .looks
        .into_iter()
        .zip(Limit::ALL)
        .filter(|(n, _)| *n > 0)
        .collect();
    parts.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    let said = |(n, limit): &(u64, Limit)| match *n == all {
        true => limit.as_str().to_owned(),
        false => format!("{} {:.0}%", limit.as_str(), 100.0 * *n as f64 / all as f64),
    };
    parts.iter().map(said).collect::<Vec<_>>().join(", ")
}
