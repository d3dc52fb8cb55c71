//! Every knob: parsed once, valid by construction, read-only afterwards.

pub mod cli;

use crate::listener::{Address, Serves};
use crate::store::Durability;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// See the module.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one; no docroot twice.
    pub sites: Vec<Site>,
    /// Worker processes, 1 to `scoreboard::MAX_WORKERS`.
    pub workers: usize,
    /// Consumer threads of all workers together, 10 to 100; None: 10 a device.
    pub threads: Option<usize>,
    /// Connections of all workers together, at least 1.
    pub max_connections: usize,
    pub durability: Durability,
    pub timeouts: Timeouts,
    /// Where the master's process id is kept, and claimed.
    pub pidfile: Option<PathBuf>,
    /// Leave the terminal once the service is ready.
    pub daemonize: bool,
    pub health: Health,
}

/// A docroot, and where it is served.
#[derive(Clone, Debug)]
pub struct Site {
    pub docroot: PathBuf,
    /// At least one.
    pub listeners: Vec<(Address, Serves)>,
}

impl Site {
    /// Whether a MogileFS tracker can ask about it: only then there are usage
    /// files.
    pub fn has_mgmt(&self) -> bool {
        self.serves(Serves::Mgmt)
    }

    /// Whether clients can write to it.
    pub fn is_written(&self) -> bool {
        self.serves(Serves::Http)
    }

    fn serves(&self, what: Serves) -> bool {
        self.listeners.iter().any(|(_, serves)| *serves == what)
    }
}

/// What the elected worker does, and how often.
#[derive(Clone, Debug)]
pub struct Health {
    /// Usage files are written anew in this interval.
    pub usage_interval: Duration,
    /// A device whose probe takes longer is dead.
    pub probe_timeout: Duration,
    pub utilization: Utilization,
}

/// Where the utilization of disks is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Utilization {
    /// The kernel's own counters.
    Kernel,
    /// The output of this shell command, which is like that of `iostat -dx 1`.
    Command(OsString),
    /// Nowhere.
    Off,
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
    /// What a request waits for a device that is busy, before it is refused.
    pub device: Duration,
    /// While stopping: what an idle connection has left to begin a request.
    pub drain_grace: Duration,
}
