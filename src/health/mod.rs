//! What the one elected worker does: it looks after the devices. It writes their
//! usage files, samples how busy they are, probes whether they live, and
//! publishes all that on the scoreboard.
//!
//! Its own thread never touches a disk: all that may hang is done by one
//! [`Hand`] for each device, and one for the docroots. A hand that does not come
//! back in time is how a dead disk is seen.

mod hand;
mod iostat;
mod lease;
mod probe;
mod rounds;
mod survey;
mod usage;

pub use survey::{device_id, survey};

use crate::config;
use crate::scoreboard::Scoreboard;
use crate::sync::Mutex;
use crate::sys::process;
use crate::sys::signal::{self, Mask};
use hand::Bell;
use lease::Lease;
use rounds::Rounds;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The lock file's name in the run folder.
const LOCK_FILE: &str = "health.lock";

/// After the lock file could not be opened: the next try.
const RETRY: Duration = Duration::from_secs(10);

/// What the elected worker works with.
pub struct Start {
    pub worker: usize,
    pub sites: Vec<config::Site>,
    pub knobs: config::Health,
    /// Where the lock file is.
    pub run: PathBuf,
    pub board: Scoreboard,
    /// Usage files are 0666 less these bits.
    pub umask: u32,
    /// Called when the first round over all devices is over, by whoever leads
    /// it; also where nobody can be elected.
    pub first_round: Box<dyn FnOnce() + Send>,
}

/// How the thread goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Order {
    Serve = 0,
    /// Give the lease back and wait for it again.
    Resign = 1,
    /// And do not.
    Leave = 2,
}

/// What the thread and who stops it share.
struct Shared {
    order: AtomicU8,
    /// It leads, or waits for its bell: flock is behind it.
    awake: AtomicBool,
    bell: Arc<Bell>,
}

impl Shared {
    fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Resign,
            _ => Order::Leave,
        }
    }
}

/// A worker that is elected, or may be.
pub struct Elected {
    shared: Arc<Shared>,
    thread: Mutex<JoinHandle<()>>,
}

/// Starts the thread "elect", which waits for the lease, and leads when it has
/// it. Call it after the fork, with all signals blocked.
pub fn start(start: Start) -> io::Result<Elected> {
    let shared = Arc::new(Shared {
        order: AtomicU8::new(Order::Serve as u8),
        awake: AtomicBool::new(false),
        bell: Arc::default(),
    });
    let theirs = Arc::clone(&shared);
    let thread = std::thread::Builder::new().spawn(move || {
        process::name_thread(c"elect");
        Mask::all_but_kick().apply();
        Candidate::new(start, theirs).run();
    })?;
    Ok(Elected {
        shared,
        thread: Mutex::new(thread),
    })
}

impl Elected {
    /// Gives the lease back, for good: the worker is stopping. Returns at once.
    /// One that only waits for the lease may win it once more, and gives it
    /// back then.
    pub fn leave(&self) {
        self.tell(Order::Leave);
    }

    /// Gives the lease back to whoever waits for it, and waits again.
    pub fn resign(&self) {
        self.tell(Order::Resign);
    }

    fn tell(&self, order: Order) {
        // Who has been told to leave stays told so.
        self.shared.order.fetch_max(order as u8, Ordering::AcqRel);
        self.shared.bell.ring();
        if !self.shared.awake.load(Ordering::Acquire) {
            signal::kick(&self.thread.lock());
        }
    }
}

/// The thread's own.
struct Candidate {
    worker: usize,
    lock_file: PathBuf,
    board: Scoreboard,
    shared: Arc<Shared>,
    first_round: Option<Box<dyn FnOnce() + Send>>,
    rounds: Rounds,
    warned: bool,
}

impl Candidate {
    fn new(start: Start, shared: Arc<Shared>) -> Candidate {
        Candidate {
            worker: start.worker,
            lock_file: start.run.join(LOCK_FILE),
            board: start.board.clone(),
            rounds: Rounds::new(
                start.sites,
                start.knobs,
                start.board,
                start.umask,
                Arc::clone(&shared.bell),
            ),
            shared,
            first_round: Some(start.first_round),
            warned: false,
        }
    }

    fn run(mut self) {
        while self.shared.order() != Order::Leave {
            match Lease::wait(&self.lock_file) {
                Ok(lease) => self.lead(lease),
                // A kick: look at the order.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    if self.cannot_wait(&self.lock_file.clone(), &e) {
                        return;
                    }
                    self.shared.bell.wait(RETRY);
                }
            }
            // To resign is to have lost the lease once.
            let _ = self.shared.order.compare_exchange(
                Order::Resign as u8,
                Order::Serve as u8,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
    }

    /// Says once why nobody can be elected here; whether that is for good.
    fn cannot_wait(&mut self, path: &Path, e: &io::Error) -> bool {
        let for_good = matches!(
            e.raw_os_error(),
            Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS)
        );
        if !std::mem::replace(&mut self.warned, true) {
            log::error!(
                "{}: {e}: no worker can be elected: no usage files, no utilization, no probes{}",
                path.display(),
                if for_good {
                    "; give a --pidfile on a local filesystem, beside which the lock file can be"
                } else {
                    ""
                }
            );
        }
        if for_good {
            self.board.set_utilization(false);
        }
        if let Some(first_round) = self.first_round.take() {
            first_round();
        }
        for_good
    }

    /// Leads until it is told to resign, or the lock file is not the one that
    /// it holds.
    fn lead(&mut self, mut lease: Lease) {
        self.shared.awake.store(true, Ordering::Release);
        if self.shared.order() == Order::Serve {
            if let Err(e) = lease.sign(self.worker) {
                // For those who look from outside alone.
                log::warn!("{}: {e}", self.lock_file.display());
            }
            if lease.is_remote() && !std::mem::replace(&mut self.warned, true) {
                log::warn!(
                    "{} is on a filesystem whose locks may be lost: two workers may be elected",
                    self.lock_file.display()
                );
            }
            let pid = std::process::id();
            self.board.lead(self.worker, pid);
            self.rounds.begin();
            while self.shared.order() == Order::Serve {
                if !lease.is_valid() {
                    log::warn!(
                        "{} was removed or replaced: elected anew",
                        self.lock_file.display()
                    );
                    break;
                }
                self.board.leader_tick();
                let over = self.rounds.round();
                if over && let Some(first_round) = self.first_round.take() {
                    first_round();
                }
                self.shared.bell.wait(rounds::ROUND);
            }
            self.rounds.end();
            self.board.resign(self.worker, pid);
        }
        self.shared.awake.store(false, Ordering::Release);
        drop(lease);
    }
}
