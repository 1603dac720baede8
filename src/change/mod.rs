//! Changing a policy safely: what an edit would do, before it is done and after.
//!
//! Takes policies, golden sets and queries over stored content; gives measurements as table functions of SQL. Every
//! question goes through [`Engine::judge`](crate::engine::Engine::judge), and so through the same stack as everybody's.
//! Knows statistics; knows nothing of sockets, terminals or durable work.

pub mod backtest;
pub mod diff;
pub mod direction;
mod evaluate;
pub mod evaluation;
mod measure;
pub mod replay;
pub mod report;
mod screen;
pub mod source;
pub mod stats;
mod subject;

use crate::engine::functions::Function;

/// The table functions of this module.
pub fn functions() -> Vec<Function> {
    vec![
        evaluate::function(),
        backtest::function(),
        diff::function(),
        replay::function(),
        screen::train::function(),
        screen::audit::function(),
    ]
}
