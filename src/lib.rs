//! rmogstored: a storage server for files over HTTP, for nodes with many disks.
//!
//! The map. A connection flows from left to right; `queues.txt` tells why.
//!
//! ```text
//!  listener ─▶ acceptor ─▶ queue ─▶ consumer ─▶ client ─▶ http ─▶ get|put|delete ─▶ store ─▶ disk
//!                ▲ gate      ▲          │           └───▶ mgmt ─▶ digest|watch      ▲ device
//!                └───────────┴── Next ──┘                           ▲               │
//!  master ─ forks ▶ worker ─ starts ▶ {acceptors, consumers, housekeeper, health} ──┘  (scoreboard between all)
//! ```
//!
//! `sys` ← `store, queue, buffer, scoreboard, log` ← `device, site` ← `http,
//! mgmt` ← `client` ← `worker, health` ← `master`: arrows point one way, and `tests/tidy.rs` checks it.
//! The library is public to the tests, benches and fuzz targets of this
//! repository; it is no API.
#![deny(unsafe_code)]

pub mod config;
pub mod control;
pub mod master;
pub mod pidfile;
pub mod run;

pub mod health;
pub mod listener;
pub mod worker;

pub mod client;
pub mod queue;

pub mod http;
pub mod mgmt;

mod closer;
pub mod device;
mod lane;
pub mod site;
pub mod store;

pub mod buffer;
pub mod channel;
pub mod ledger;
pub mod log;
pub mod scoreboard;
pub mod seats;
mod text;

#[expect(unsafe_code, reason = "the fence: see sys/mod.rs")]
pub mod sys;

/// Locks and atomics, named once: the model check (`tests/model.rs`) mounts
/// `queue.rs` and `gate.rs` over the model checker's own.
mod sync {
    pub use parking_lot::{Condvar, Mutex, MutexGuard};
    pub use std::sync::atomic;
}

use config::{Snapshot, Verb};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// Runs the program with this argv; returns when the master has ended.
pub fn run(argv: impl Iterator<Item = OsString>) -> ExitCode {
    log::to_stderr();
    worker::image::enter();
    let snapshot = Snapshot::read(argv, |name| std::env::var_os(name));
    let read = snapshot.and_then(|snapshot| Ok((snapshot.config()?, snapshot)));
    let (config, snapshot) = match read {
        Ok(read) => read,
        Err(end) => {
            master::give_up(&end.text());
            return end.say();
        }
    };
    let ended = match config.verb {
        Verb::Serve => master::run(snapshot, config),
        // Nobody is left to be told when stdout is closed.
        Verb::Check => {
            master::check(&config).map(|fine| drop(writeln!(std::io::stdout(), "{fine}")))
        }
        Verb::Stop | Verb::Reload | Verb::Upgrade | Verb::Status { .. } => {
            return tell(&config);
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            ::log::error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Tells the server that runs.
fn tell(config: &config::Config) -> ExitCode {
    match control::client::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            ::log::error!("{failure}");
            ExitCode::from(failure.code())
        }
    }
}
