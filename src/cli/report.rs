//! `safeguard report`: what was found, as a page of HTML.

use super::args::{Report, ReportOn};
use super::shell::report;
use super::{failed, say};
use crate::change::report::{Kind, page};
use crate::config::{self, Config};
use crate::jobs;
use std::path::Path;
use std::process::ExitCode;

/// Writes the page about what has this id.
pub(super) async fn run(args: Report) -> ExitCode {
    let kind = match args.on {
        ReportOn::Evaluate => Kind::Evaluation,
        ReportOn::Backtest => Kind::Backtest,
        ReportOn::Backfill => Kind::Backfill,
    };
    if !args.data.is_there() {
        // Opening would make one.
        return failed(&format!("there is no store in {}", args.data.dir.display()));
    }
    // Nothing is asked: the embedded model is the quickest to open.
    let config = Config {
        store: args.data.shared.url,
        ..Config::embedded(args.data.dir)
    };
    let written = async {
        let engine = jobs::open(config).await?;
        let session = engine.session(&config::local_user());
        page(&session, kind, args.id).await
    };
    match written.await {
        Ok(page) => write(&args.output, &page.html()),
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn write(path: &Path, html: &str) -> ExitCode {
    match std::fs::write(path, html) {
        Ok(()) => {
            say(&format!("wrote {}", path.display()));
            ExitCode::SUCCESS
        }
        Err(error) => failed(&format!("cannot write {}: {error}", path.display())),
    }
}
