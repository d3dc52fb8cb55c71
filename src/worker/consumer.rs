//! Consumers: wait for a client, serve it one turn, do what it asks. All of
//! them wait on the one queue, and none ever adds to it.

use super::Connection;
use super::gate::Gate;
use crate::buffer::Desk;
use crate::http::Site;
use crate::http::response::Date;
use crate::queue::{Next, Queue};
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
    loop {
        let mut turn = match work.queue.next() {
            Ok(Some(turn)) => turn,
            Ok(None) => return,
            Err(e) => {
                log::error!("waiting for clients: {e}; this worker ends");
                std::process::abort();
            }
        };
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
    }
}
