//! Every knob: parsed once, valid by construction, read-only afterwards.

pub mod cli;

use crate::listener::{Address, Serves};
use crate::store::Durability;
use std::path::PathBuf;
use std::time::Duration;

/// See the module.
#[derive(Clone, Debug)]
pub struct Config {
    pub docroot: PathBuf,
    /// At least one.
    pub listeners: Vec<(Address, Serves)>,
    /// Worker processes, 1 to `scoreboard::MAX_WORKERS`.
    pub workers: usize,
    /// Consumer threads of all workers together, 10 to 100; None: 10 a device.
    pub threads: Option<usize>,
    /// Connections of all workers together, at least 1.
    pub max_connections: usize,
    pub durability: Durability,
    pub timeouts: Timeouts,
}

/// How long a client may say nothing, by what it is expected to do. A transfer
/// that makes progress is never cut.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Between two requests.
    pub idle: Duration,
    /// From a request's first byte to the end of its head, in all.
    pub head: Duration,
    /// Without a byte of the body.
    pub body: Duration,
    /// Without the client taking a byte of the reply.
    pub send: Duration,
    /// While stopping: what an idle connection has left to begin a request.
    pub drain_grace: Duration,
}
