//! Work that outlives a statement, and the engine with everything that belongs to it.
//!
//! Takes a [`Config`], gives the engine whose sessions have every table function and procedure of this program, and
//! runners that work off what was left for the background: [`backfill`] says what SQL may ask for, [`spool`] reads sources
//! (with [`affected`] where only some rows are wanted), [`worker`] claims and judges, [`outcome`] what that means for the work, [`runner`] keeps workers going at a
//! [`pace`]; [`cron`] runs commands by their [`schedule`]. Knows nothing of sockets or terminals.

mod affected;
mod backfill;
pub mod cron;
mod erase;
pub mod outcome;
pub mod pace;
pub mod runner;
pub mod schedule;
mod spool;
pub mod worker;

use crate::config::Config;
use crate::engine::Engine;
use crate::error::Error;

/// Opens store, policies and model; takes as long as reading the model's weights. What SQL made is not made again yet:
/// see [`Engine::restore`].
///
/// # Errors
/// As [`Engine::open`].
pub async fn open(config: Config) -> Result<Engine, Error> {
    let engine = Engine::open(config).await?;
    Ok(complete(engine))
}

/// An engine whose sessions have every table function and procedure of this program.
pub fn complete(engine: Engine) -> Engine {
    engine
        .with_functions(crate::change::functions())
        .with_functions(backfill::functions())
        .with_functions(vec![erase::function()])
        .with_procedures(cron::procedures())
}
