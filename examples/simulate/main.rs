//! A day at a billion rows, in minutes: what an edited policy, lost replicas and killed servers do to the time of a
//! backfill, to its cost, and to the lag of fresh rows.
//!
//! Run with `cargo run --release --example simulate`, a small one with `-- --small`, options with `-- --help`.
//!
//! The day is played by events in simulated time; no clock is read, and the same seed gives the same output. Each question
//! that is put to the model is an event of its own; rows that are recalled or cleared are counted one by one; a row of the
//! store stands for up to 256 rows. What is the program's own code and what is a model of the world is said at the head of
//! each module and of the output: in short, whatever decides is real ([`fleet`], [`background`], [`replica`]), and
//! whatever takes time is modelled. In the end every row must be accounted for; exit code 1 where one is not.
//!
//! What it cannot show: what a program bound to sockets and threads does wrong there; two servers that ask about the same
//! text at the same time (here the second counts it as recalled); the store as a limit (its statements take a time, and are
//! counted); work left in the queue of `safeguard.answer = queue`, audits and jobs.
//!
//! Not played: that questions to a server that falls silent go to others. A text that is alone in a portion and fails in an
//! outage is charged with it, as the program does, and given up after some tries.

mod agenda;
mod background;
mod day;
mod fleet;
mod fresh;
mod options;
mod replica;
mod report;
#[cfg(test)]
mod tests;
mod world;

use day::{Figures, Scenario, play};
use options::Options;
use replica::Curve;
use std::process::ExitCode;
use std::sync::Arc;
use world::World;

/// Every scenario, two at a time, the longest first.
fn all(options: &Options, curve: &Arc<Curve>) -> Vec<Figures> {
    let play = |edit, loss| {
        let figures = play(options, curve, Scenario { edit, loss });
        eprintln!(
            "played: {}, {} events",
            figures.scenario.name(),
            figures.events
        );
        figures
    };
    std::thread::scope(|scope| {
        let both = scope.spawn(|| play(true, true));
        let edit = play(true, false);
        let (quiet, loss) = (play(false, false), play(false, true));
        let both = both.join().expect("bug: a day that panicked");
        vec![quiet, loss, edit, both]
    })
}

fn main() -> ExitCode {
    let options = Options::typed();
    let curve = Arc::new(Curve::measure(&options, &World::new(&options)));
    let all = all(&options, &curve);
    print!("{}", report::text(&options, &curve, &all));
    match all.iter().all(|figures| figures.broken.is_empty()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
