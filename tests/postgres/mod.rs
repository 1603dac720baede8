//! Attached databases against a real PostgreSQL, which each test starts for itself on a socket in a folder of its own.
//!
//! Without one on this machine the tests are reported as skipped, unless `SAFEGUARD_CLIENTS=require`; `.ci/clients`
//! installs and requires it.

pub(crate) mod cluster;
mod cut;
mod parallel;
mod reads;
pub(crate) mod shared;
mod store;
mod tls;
mod writes;

use crate::clients::skip;
use crate::relations::Program;
use cluster::Cluster;

/// A session of ours over a database of `cluster`, attached as `live`.
async fn attached(cluster: &Cluster, data: &std::path::Path) -> Program {
    let program = Program::start(data, None).await;
    let made = program.run(&cluster.create_server("live")).await;
    made.unwrap();
    program
}
