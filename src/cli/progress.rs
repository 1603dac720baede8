//! The line on a terminal that says how far a statement is.
//!
//! Takes summaries now and then, draws them on stderr once rows are judged; nothing else may write to the terminal
//! while it is drawn, so it is cleared first.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use safeguard_udfs::Summary;

/// One statement's progress; gone from the screen when dropped.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Nothing is drawn yet.
    pub fn new() -> Progress {
        Progress { bar: None }
    }

    /// Draws how far a statement is; a statement that judges nothing draws nothing.
    pub fn show(&mut self, summary: &Summary) {
        if summary.rows == 0 {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_message(line(summary));
    }

    /// Takes the line off the screen; the next [`show`](Self::show) draws it again.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `1200 rows, 900 recalled, 250 asked, 3 undecided, 41.2 texts/s, 28 s`; screened ones are named where there are any.
fn line(summary: &Summary) -> String {
    let seconds = summary.elapsed.as_secs_f64();
    let decided = summary.recalled + summary.screened + summary.asked;
    let screened = match summary.screened {
        0 => String::new(),
        n => format!("{n} screened, "),
    };
    format!(
        "{} rows, {} recalled, {screened}{} asked, {} undecided, {:.1} texts/s, {seconds:.0} s",
        summary.rows,
        summary.recalled,
        summary.asked,
        summary.undecided_total(),
        decided as f64 / seconds.max(0.001),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use safeguard_udfs::Reason;
    use std::time::Duration;

    #[test]
    fn the_line_names_what_was_done() {
        let mut summary = Summary {
            rows: 1200,
            distinct_texts: 1153,
            recalled: 900,
            screened: 0,
            convicted: 0,
            escalated: 0,
            asked: 250,
            undecided: vec![(Reason::Truncated, 3)],
            tokens_in: 0,
            tokens_out: 0,
            busy_seconds: 0.0,
            elapsed: Duration::from_secs(25),
        };
        assert_eq!(
            line(&summary),
            "1200 rows, 900 recalled, 250 asked, 3 undecided, 46.0 texts/s, 25 s"
        );
        summary.screened = 10;
        assert!(line(&summary).contains("900 recalled, 10 screened, 250 asked"));
    }
}
