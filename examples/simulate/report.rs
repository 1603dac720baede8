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

fn table(out: &mut String, o: &Options, curve: &Curve, all: &[Figures]) -> std::fmt::Result {
    let quiet = all
        .iter()
        .find(|figures| !figures.scenario.edit && !figures.scenario.loss);
    let quiet = quiet.map_or(0.0, |figures| full_load(curve, figures.worked));
    let left = |f: &Figures| f.backfill_rows - f.backfill_counts.rows();
    let backfill = |f: &Figures| match (f.backfill, f.backfill_rows) {
        (_, 0) => "-".to_owned(),
        (Some(time), _) => span(time),
        (None, _) => "not done".to_owned(),
    };
    let paid = |f: &Figures| o.replicas as f64 * (f.ended.max(24 * HOUR) as f64 / HOUR as f64);
    let of_rows = |part: fn(&Figures) -> u64| move |f: &Figures| percent(part(f), f.backfill_rows);
    let of_fresh = |part: fn(&Figures) -> u64| move |f: &Figures| percent(part(f), f.fresh_rows);
    let whole = |part: fn(&Figures) -> u64| move |f: &Figures| part(f).to_string();
    type Cell<'a> = Box<dyn Fn(&Figures) -> String + 'a>;
    let lines: Vec<(&str, Cell)> = vec![
        ("", Box::new(|f| f.scenario.name().to_owned())),
        ("time to backfill", Box::new(backfill)),
        ("rows to judge again", Box::new(whole(|f| f.backfill_rows))),
        (
            "  recalled",
            Box::new(of_rows(|f| f.backfill_counts.recalled)),
        ),
        (
            "  cleared by the screen",
            Box::new(of_rows(|f| f.backfill_counts.cleared)),
        ),
        ("  asked", Box::new(of_rows(|f| f.backfill_counts.asked))),
        (
            "  undecided",
            Box::new(of_rows(|f| f.backfill_counts.undecided)),
        ),
        ("  given up", Box::new(whole(|f| f.backfill_counts.failed))),
        ("  left", Box::new(move |f| left(f).to_string())),
        ("fresh rows", Box::new(whole(|f| f.fresh_rows))),
        (
            "  recalled",
            Box::new(of_fresh(|f| f.fresh_counts.recalled)),
        ),
        (
            "  cleared by the screen",
            Box::new(of_fresh(|f| f.fresh_counts.cleared)),
        ),
        ("  asked", Box::new(of_fresh(|f| f.fresh_counts.asked))),
        (
            "  undecided",
            Box::new(of_fresh(|f| f.fresh_counts.undecided)),
        ),
        ("  left", Box::new(whole(|f| f.fresh_waiting))),
        ("lag of asked ones: median", Box::new(|f| lag(f, 0.5))),
        ("  99%", Box::new(|f| lag(f, 0.99))),
        ("  worst", Box::new(|f| lag(f, 1.0))),
        ("questions put", Box::new(whole(|f| f.fleet.put))),
        ("  requests sent", Box::new(whole(|f| f.fleet.requests))),
        ("  again after a fault", Box::new(whole(|f| f.fleet.again))),
        (
            "  failed after all tries",
            Box::new(whole(|f| f.fleet.failed)),
        ),
        ("  of killed servers", Box::new(whole(|f| f.fleet.cut))),
        ("claims of chunks", Box::new(whole(|f| f.claims))),
        ("  that came back late", Box::new(whole(|f| f.lost_claims))),
        ("tokens of the backfill", Box::new(whole(|f| f.tokens))),
        (
            "backfill's part of busy time",
            Box::new(|f| {
                let all = f.fleet.busy[0] + f.fleet.busy[1];
                if all == 0.0 {
                    "-".to_owned()
                } else {
                    format!("{:.1}%", 100.0 * f.fleet.busy[1] / all)
                }
            }),
        ),
        (
            "GPU-hours paid for",
            Box::new(move |f| format!("{:.1}", paid(f))),
        ),
        (
            "  money",
            Box::new(move |f| format!("{:.2}", paid(f) * o.price)),
        ),
        (
            "GPU-hours needed at full load",
            Box::new(|f| format!("{:.1}", full_load(curve, f.worked))),
        ),
        (
            "  more than a quiet day",
            Box::new(move |f| round(full_load(curve, f.worked) - quiet, 1)),
        ),
        (
            "  money",
            Box::new(move |f| round((full_load(curve, f.worked) - quiet) * o.price, 2)),
        ),
        (
            "most statements/s of the store",
            Box::new(|f| {
                let most = f
                    .hours
                    .iter()
                    .map(|hour| hour.statements)
                    .max()
                    .unwrap_or_default();
                format!("{:.1}", most as f64 / 3_600.0)
            }),
        ),
    ];
    for (name, cell) in lines {
        write!(out, "{name:<32}")?;
        all.iter()
            .try_for_each(|figures| write!(out, "{:>20}", cell(figures)))?;
        writeln!(out)?;
    }
    Ok(())
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
