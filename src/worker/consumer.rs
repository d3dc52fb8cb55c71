//! Consumers: wait for a client, serve it one turn, do what it asks. All of
//! them wait on the one queue, and none ever adds to it.

use super::Connection;
use super::gate::Gate;
use crate::buffer::Desk;
use crate::http::Site;
use crate::http::response::Date;
use crate::queue::{Next, Queue};
use crate::sys::clock;
use crate::sys::process;
use crate::sys::signal::Mask;
use std::ffi::CString;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// While the consumers leave, the poison is thrown in again in this interval:
/// a belt against kernels that drop its wake-up.
const POISON_AGAIN: Duration = Duration::from_millis(10);

/// A consumer that has run for so long without a pause offers its core to
/// others: between two turns, where no client waits for it. Otherwise the
/// kernel takes it away at a tick, most likely inside of a turn, and that client
/// waits until all other consumers have had theirs. Nanoseconds.
const YIELD_AFTER: u64 = 300_000;

/// Turns that begin so far apart had a pause between them. Nanoseconds.
const PAUSE: u64 = 100_000;

/// How long a consumer has been running.
#[derive(Default)]
struct Pace {
    /// When the last turn began.
    last: u64,
    /// Since then there was no pause.
    since: u64,
}

impl Pace {
    /// A turn begins.
    fn turn(&mut self) {
        let now = clock::monotonic_ns();
        if now - self.last > PAUSE {
            self.since = now;
        }
        self.last = now;
    }

    /// The turn is over: others' turn to run?
    fn rest(&mut self) {
        if self.last - self.since > YIELD_AFTER {
            self.since = self.last;
            std::thread::yield_now();
        }
    }
}

/// What a consumer works with.
#[derive(Clone)]
pub struct Work {
    pub queue: Arc<Queue<Connection>>,
    pub gate: Arc<Gate>,
    pub site: Arc<Site>,
}

/// The consumers of one worker.
pub struct Pool {
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `wanted` consumers; fewer, with a warning, where the system has
    /// no more threads to give (EAGAIN: RLIMIT_NPROC, pids of a cgroup).
    pub fn start(wanted: usize, work: &Work) -> io::Result<Pool> {
        let mut threads = Vec::with_capacity(wanted);
        for nr in 0..wanted {
            let work = work.clone();
            let started = std::thread::Builder::new().spawn(move || {
                if let Ok(name) = CString::new(format!("con:{nr}")) {
                    process::name_thread(&name);
                }
                Mask::all().apply();
                run(&work);
            });
            match started {
                Ok(thread) => threads.push(thread),
                Err(e) if threads.is_empty() => return Err(e),
                Err(e) => {
                    log::warn!("only {nr} of {wanted} consumers: pthread_create: {e}");
                    break;
                }
            }
        }
        Ok(Pool { threads })
    }

    /// Consumers that run.
    pub fn len(&self) -> usize {
        self.threads.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.threads.is_empty()
    }

    /// Poisons the queue and waits until the last consumer has left it. Parked
    /// clients stay where they are.
    pub fn stop(self, queue: &Queue<Connection>) -> io::Result<()> {
        queue.poison()?;
        for thread in self.threads {
            while !thread.is_finished() {
                std::thread::park_timeout(POISON_AGAIN / 10);
                queue.poison()?;
            }
            // It ends by returning; a panic aborts the process.
            let _ = thread.join();
        }
        Ok(())
    }
}

fn run(work: &Work) {
    let mut desk = Desk::new();
    let mut date = Date::new();
    let mut pace = Pace::default();
    loop {
        let mut turn = match work.queue.next() {
            Ok(Some(turn)) => turn,
            Ok(None) => return,
            Err(e) => {
                log::error!("waiting for clients: {e}; this worker ends");
                std::process::abort();
            }
        };
        pace.turn();
        work.gate.begin();
        turn.place().served();
        match turn.step(&work.site, &mut desk, &mut date) {
            Next::Rearm(wait) => {
                if let Err(e) = work.queue.rearm(turn, wait) {
                    log::error!("a client was closed: arming it again: {e}");
                }
            }
            Next::Close => work.queue.close(turn),
        }
        work.gate.end();
        pace.rest();
    }
}
