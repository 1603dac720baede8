//! Screens from SQL: training one for a policy with a certificate, and auditing what it clears.
//!
//! Takes a policy and content, gives rows like those of `safeguard.screens`, which keeps them. Every label that is bought is
//! asked through the same stack as everybody's, and stored as any verdict. What is drawn, and why the bounds hold, is said
//! in [`crate::screen::certify`].

pub(super) mod audit;
mod labels;
mod making;
mod population;
mod rows;
pub(super) mod train;

use crate::error::Error;
use crate::screen::{Screen, ScreenError, Training};
use std::sync::Arc;

/// As many as there are cores.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The scores of texts, computed away from the threads that serve.
async fn scores(screen: &Screen, texts: Vec<Arc<str>>) -> Vec<f64> {
    let screen = screen.clone();
    let scored = tokio::task::spawn_blocking(move || screen.scores(&texts, threads()));
    scored.await.expect("bug: scoring panicked")
}

/// A screen of these examples; `None` where all are of one kind.
async fn trained(
    examples: Vec<crate::screen::Example>,
    seed: u64,
) -> Result<Option<Screen>, Error> {
    let training = Training {
        threads: threads(),
        seed,
    };
    let trained = tokio::task::spawn_blocking(move || Screen::train(&examples, &training));
    match trained.await.expect("bug: training panicked") {
        Ok(screen) => Ok(Some(screen)),
        Err(ScreenError::OneKind { .. }) => Ok(None),
        Err(error) => Err(Error::Refused {
            sqlstate: "54000",
            why: error.to_string(),
            hint: None,
        }),
    }
}
