//! `safeguard model ..`: what is typed, drawn and said about model folders.
//!
//! Takes a checked command, has [`crate::models`] do it, draws its progress on stderr and its table on stdout.

use super::args::{Like, Model};
use super::{failed, say};
use crate::models::{self, Order, Shape, bytes_shown};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Does what was typed.
pub(super) fn run(command: Model) -> ExitCode {
    match command {
        Model::Logits { dir, ids, last } => super::logits(&dir, &ids, last),
        Model::Synthesize {
            like,
            layers,
            seed,
            dir,
        } => {
            let shape = match like {
                Like::B20 => Shape::B20,
                Like::B120 => Shape::B120,
                Like::Nano => Shape::Nano,
            };
            let layers = layers.map(usize::from);
            let order = Order {
                shape,
                layers,
                seed,
            };
            synthesize(&order, &dir)
        }
    }
}

fn synthesize(order: &Order, dir: &Path) -> ExitCode {
    let (bar, begun) = (bytes_bar(), Instant::now());
    let written = models::synthesize(order, dir, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    match written {
        Ok(bytes) => {
            let seconds = begun.elapsed().as_secs_f64();
            let (size, dir) = (bytes_shown(bytes), dir.display());
            say(&format!(
                "wrote {size} of random weights to {dir} in {seconds:.1} s"
            ));
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error.to_string()),
    }
}

/// Bytes done and to do, on a terminal.
fn bytes_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let line = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(line) {
        bar.set_style(style);
    }
    bar
}
