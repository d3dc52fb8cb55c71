//! Digests of low priority: a check of the whole cluster must not take a disk
//! from its readers. One at a time for each filesystem, first come first
//! served, across all workers: a thread for each that waits, blocked in
//! flock(2), of which the kernel keeps the order. It frees the place of a
//! worker that dies. Each runs to its end in its thread.

use super::Connection;
use crate::ledger::{Ledger, Totals};
use crate::queue::{Queue, Turn, Wait};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::thread;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Threads of this worker that wait for one filesystem at the same time. Who
/// comes beyond waits in this worker, in order.
const THREADS: usize = 32;

/// Their claim to the CPU where others want it: a tenth of a reader's. Without
/// it two digests of files in memory cost wrk a quarter of its requests.
const NICE: i32 = 10;

/// One worker's digests of low priority.
#[derive(Clone)]
pub struct Fsck(Arc<Shared>);

struct Shared {
    queue: Arc<Queue<Connection>>,
    /// Where the lock files are.
    run: PathBuf,
    lines: Mutex<Lines>,
    /// Of all threads: the bytes that they have read.
    ledger: Ledger,
    /// It was said that there are no lock files.
    told: AtomicBool,
}

#[derive(Default)]
struct Lines {
    /// By st_dev.
    all: HashMap<u64, Line>,
    stopping: bool,
}

/// Those who wait for one filesystem, and as many threads, up to [`THREADS`]:
/// whichever of these gets the lock serves who came first.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Turn<Connection>>,
    threads: usize,
    /// In place of a lock file that cannot be had.
    own: Arc<Mutex<()>>,
}

impl Fsck {
    pub fn new(queue: Arc<Queue<Connection>>, run: PathBuf) -> Fsck {
        Fsck(Arc::new(Shared {
            queue,
            run,
            lines: Mutex::new(Lines::default()),
            ledger: Ledger::default(),
            told: AtomicBool::new(false),
        }))
    }

    /// Takes a client with a digest on this filesystem (st_dev).
    pub fn take(&self, turn: Turn<Connection>, filesystem: u64) {
        let mut lines = self.0.lines.lock();
        let stopping = lines.stopping;
        let line = lines.all.entry(filesystem).or_default();
        line.waiting.push_back(turn);
        let mut left = VecDeque::new();
        if stopping {
            let fsck = self.clone();
            match spawn(move || fsck.serve_next(filesystem)) {
                Ok(()) => line.threads += 1,
                Err(e) => {
                    log::warn!("an fsck digest has no thread: pthread_create: {e}");
                    left = std::mem::take(&mut line.waiting);
                }
            }
        } else {
            self.man(line, filesystem);
            if line.threads == 0 {
                left = std::mem::take(&mut line.waiting);
            }
        }
        drop(lines);
        left.into_iter().for_each(|turn| self.in_turns(turn));
    }

    /// Filesystems for which somebody has waited.
    pub fn count(&self) -> usize {
        self.0.lines.lock().all.len()
    }

    /// What they have read.
    pub fn totals(&self) -> Totals {
        self.0.ledger.totals()
    }

    /// A worker that stops has no time for priorities: who waits does so no
    /// longer, and who comes does not. Threads that wait find nobody.
    pub fn stop(&self) {
        let waiting: Vec<_> = {
            let mut lines = self.0.lines.lock();
            lines.stopping = true;
            let lines = lines.all.values_mut();
            lines.flat_map(|line| line.waiting.drain(..)).collect()
        };
        waiting.into_iter().for_each(|turn| self.in_turns(turn));
    }

    /// Back to the consumers, who make it in slices.
    fn in_turns(&self, mut turn: Turn<Connection>) {
        turn.digest_in_turns();
        self.give_back(turn);
    }

    fn give_back(&self, turn: Turn<Connection>) {
        if let Err(e) = self.0.queue.rearm(turn, Wait::ReadWrite) {
            log::error!("a client was closed: arming it again: {e}");
        }
    }

    /// A thread for each who waits, up to the bound.
    fn man(&self, line: &mut Line, filesystem: u64) {
        while line.threads < line.waiting.len().min(THREADS) {
            let fsck = self.clone();
            let own = Arc::clone(&line.own);
            match spawn(move || fsck.run(filesystem, &own)) {
                Ok(()) => line.threads += 1,
                Err(e) => {
                    log::warn!(
                        "{} of {} fsck digests have a thread: pthread_create: {e}",
                        line.threads,
                        line.waiting.len()
                    );
                    return;
                }
            }
        }
    }

    /// A thread's life.
    fn run(&self, filesystem: u64, own: &Mutex<()>) {
        thread::lower_priority(NICE);
        loop {
            {
                let _place = self.place(filesystem, own);
                self.serve_next(filesystem);
            }
            // Somebody waits for whom there was no thread.
            let mut lines = self.0.lines.lock();
            match lines.all.get_mut(&filesystem) {
                Some(line) if line.threads < line.waiting.len().min(THREADS) => line.threads += 1,
                _ => return,
            }
        }
    }

    /// Waits for its turn among all who wait for this filesystem.
    fn place<'a>(&self, filesystem: u64, own: &'a Mutex<()>) -> Place<'a> {
        let path = self.0.run.join(format!("fsck-{filesystem:x}.lock"));
        lock(&path).map(Place::Shared).unwrap_or_else(|e| {
            if !self.0.told.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "{}: {e}; fsck digests wait for those of this worker alone",
                    path.display()
                );
            }
            Place::Own(own.lock())
        })
    }

    /// Serves who came first; nobody, when all were sent elsewhere.
    fn serve_next(&self, filesystem: u64) {
        let turn = {
            let mut lines = self.0.lines.lock();
            let Some(line) = lines.all.get_mut(&filesystem) else {
                return;
            };
            line.threads -= 1;
            let turn = line.waiting.pop_front();
            // The next of those beyond the bound gets its place in the order.
            self.man(line, filesystem);
            turn
        };
        if let Some(mut turn) = turn {
            turn.digest(&self.0.ledger);
            self.give_back(turn);
        }
    }
}

/// The right to read a filesystem at low priority, until it is dropped.
#[expect(dead_code, reason = "held, and dropped")]
enum Place<'a> {
    /// Among all workers.
    Shared(File),
    /// Among those of this one.
    Own(MutexGuard<'a, ()>),
}

fn spawn(life: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let started = std::thread::Builder::new()
        .name("fsck".to_owned())
        .spawn(move || {
            life();
        });
    started.map(drop)
}

/// The lock file, open and locked. Another description each time: the lock
/// belongs to that.
fn lock(path: &Path) -> io::Result<File> {
    loop {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match file.lock() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        let (ours, now) = (file.metadata()?, std::fs::metadata(path));
        if now.is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino())) {
            return Ok(file);
        }
        // Somebody has cleaned up; who came since then waits on another file.
    }
}
