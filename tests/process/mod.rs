//! Processes, threads and load: what one well-behaved client never sees. These tests crowd, starve, kill and
//! stop the real server while others are being served.
//!
//! Those that measure or load the machine take `alone` first, so that they do not measure each other.

mod balance;
mod chaos;
mod crowd;
mod cycles;
mod dead_device;
mod dead_stop;
mod death;
mod defer;
mod descriptors;
mod disk;
mod durability;
pub mod facts;
mod fallback;
mod group;
mod handback;
mod hang;
mod image;
mod inherit;
mod ladder;
mod log_file;
mod nginx;
mod nonblocking;
mod notify;
mod privileges;
mod real_disk;
mod reload;
mod rollback;
mod seats;
mod signals;
mod slow;
mod stop;
mod stuck;
mod syscalls;
pub mod traffic;
mod upgrade;
mod upgrade_notify;
mod upgrade_service;
mod upgrade_verbs;
mod upload_kill;
mod wrk;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a client that nothing should hold up may wait for its reply while other tests load the machine.
const PROMPT: Duration = Duration::from_secs(2);

/// The machine for one test of this module.
pub fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // a test that failed with it leaves nothing behind
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends a signal to a worker; its pid must come from the running server.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: no pointers; the pid is a worker of a server that this test owns
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "kill: {}", std::io::Error::last_os_error());
}

/// What the server has to complain of; not that its limit of descriptors is low, which is this machine's affair.
fn complaints(log: &[String]) -> Vec<&str> {
    log.iter()
        .map(String::as_str)
        .filter(|line| !line.contains(" info: ") && !line.contains("RLIMIT_NOFILE"))
        .collect()
}
