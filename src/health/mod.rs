//! What the one elected worker does: it looks after the devices. Every worker
//! waits for the lease in a thread of its own, asleep in the kernel; the one
//! that has it writes the usage files, measures how busy the disks are, and
//! probes them. What it finds is on the scoreboard, for all.

mod gauge;
mod iostat;
mod lease;
mod mounts;
mod probe;
mod reporter;
mod rounds;
mod survey;
mod usage;
mod ward;

pub use survey::survey;

use crate::config;
use crate::scoreboard::Scoreboard;
use crate::sync::Mutex;
use crate::sys::signal::{self, Mask};
use crate::sys::{clock, process};
use lease::{Bidder, Identity, Lease, Terms};
use rounds::{News, Rounds};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// The lock file, in the run folder.
const FILE: &str = "health.lock";

/// When the lock file cannot be had, it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Whoever won a new lock file looks this often whether the holder of the old
/// one has noticed.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// One that has been silent for so long does not exist any more: the master
/// kills it after 7 s. Milliseconds.
const FORGOTTEN_MS: u64 = 10_000;

/// What a worker gives to its candidate.
pub struct Start {
    pub worker: usize,
    pub sites: Vec<config::Site>,
    pub knobs: config::Health,
    /// Where the lock file is.
    pub run: PathBuf,
    pub board: Scoreboard,
    pub umask: u32,
    /// Called once, when the first round of this worker as the elected one is
    /// over: each device that answers has its usage file.
    pub first_round: Box<dyn FnOnce() + Send>,
}

/// The candidate, elected or not.
pub struct Elected {
    office: Arc<Office>,
    /// The thread that waits for the lease, or holds it.
    lease: JoinHandle<()>,
    wake: Sender<News>,
}

/// Starts the thread that waits for the lease, and leads when it has it. After
/// the fork, and not before this worker serves.
pub fn start(start: Start) -> io::Result<Elected> {
    let (wake, news) = channel();
    let office = Arc::new(Office {
        lease: Mutex::new(Held::Nothing),
        worker: start.worker,
        board: start.board.clone(),
        path: start.run.join(FILE),
    });
    let rounds = Rounds::new(start, Arc::clone(&office), wake.clone(), news);
    // Threads inherit the mask: signals are the housekeeper's.
    let mask = Mask::all().apply();
    let started = start_threads(&office, rounds);
    mask.apply();
    Ok(Elected {
        office,
        lease: started?,
        wake,
    })
}

/// Returns the one that waits for the lease.
fn start_threads(office: &Arc<Office>, rounds: Rounds) -> io::Result<JoinHandle<()>> {
    let (leaving, settling) = (Arc::clone(office), Arc::clone(office));
    let (bidder, lease) = lease::start(Terms {
        path: office.path.clone(),
        worker: office.worker,
        leaving: Box::new(move || leaving.is_leaving()),
        settle: Box::new(move |signed| wait_for_predecessor(&settling, signed)),
    })?;
    let candidate = Arc::clone(office);
    std::thread::Builder::new()
        .name("elect".to_owned())
        .spawn(move || {
            stand(&candidate, &bidder, rounds);
        })?;
    Ok(lease)
}

impl Elected {
    /// Gives the lease back for good, whatever hangs in this process. Nobody
    /// need wait for the threads: should the kick come too early and be lost,
    /// one sleeps on for the lease, and passes it on unused.
    pub fn resign(&self) {
        self.office.leave(Held::Never, "this worker stops");
        self.wake();
    }

    /// Gives the lease back, and queues for it again.
    pub fn step_down(&self) {
        self.office.leave(Held::Nothing, "the master wants another");
        self.wake();
    }

    fn wake(&self) {
        // It has ended: then it is awake enough.
        let _ = self.wake.send(News::Wake);
        signal::kick(&self.lease);
    }
}

/// What this process has of the lease.
enum Held {
    Nothing,
    Lease(Lease),
    /// And never will again.
    Never,
}

/// The office: held or not, and all that changes with that.
struct Office {
    lease: Mutex<Held>,
    worker: usize,
    board: Scoreboard,
    /// Of the lock file.
    path: PathBuf,
}

impl Office {
    fn is_leaving(&self) -> bool {
        matches!(*self.lease.lock(), Held::Never)
    }

    /// Takes the office, unless this process is to leave.
    fn take(&self, lease: Lease) -> bool {
        let mut held = self.lease.lock();
        let is_taken = matches!(*held, Held::Nothing);
        if is_taken {
            self.board.lead(self.worker, std::process::id());
            *held = Held::Lease(lease);
            log::info!(
                "worker {} is elected: it looks after the devices",
                self.worker
            );
        }
        is_taken
    }

    /// Whether it is still held: asked in each round. The lock file must be
    /// where the others look for it.
    fn is_held(&self) -> bool {
        let identity = match &*self.lease.lock() {
            Held::Lease(lease) => lease.identity(),
            Held::Nothing | Held::Never => return false,
        };
        // Without the lock: `resign` waits for no file.
        match Identity::of(&self.path) {
            Ok(there) if there == identity => return true,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // It cannot be looked at: that says nothing about the lease.
            Err(_) => return true,
        }
        let path = self.path.display();
        log::error!("{path} was removed: do not clean it away");
        self.leave(Held::Nothing, "its lock file has gone");
        false
    }

    /// Stops leading, then gives the lease back by closing it.
    fn leave(&self, next: Held, why: &str) {
        let mut held = self.lease.lock();
        if matches!(*held, Held::Lease(_)) {
            self.board.resign(self.worker, std::process::id());
            log::info!("worker {} is elected no more: {why}", self.worker);
        }
        if !matches!(*held, Held::Never) {
            *held = next;
        }
    }
}

/// Stands for election until the process leaves.
fn stand(office: &Office, bidder: &Bidder, mut rounds: Rounds) {
    if office.worker == 0 {
        warn_of_remote_locks(office);
    }
    let mut complaint = String::new();
    while !office.is_leaving() {
        match bidder.wait() {
            Ok(Some(lease)) => {
                complaint.clear();
                if office.take(lease) {
                    rounds.lead();
                }
            }
            Ok(None) => return,
            Err(e) if lease::is_unsupported(&e) => {
                // Once, not once a worker.
                if office.worker == 0 {
                    log::error!(
                        "{}: flock: {e}: no worker can be elected there, so there are no usage \
                         files, no utilization and no probes; put the pidfile on a local disk",
                        office.path.display()
                    );
                }
                office.board.set_utilization(false);
                rounds.give_up();
                return;
            }
            Err(e) => {
                let text = format!("{}: {e}", office.path.display());
                if text != complaint {
                    log::error!("{text}: nobody is elected by it; tried again every {TRY_AGAIN:?}");
                    complaint = text;
                }
                rounds.give_up();
                rounds.idle(TRY_AGAIN);
            }
        }
    }
}

fn warn_of_remote_locks(office: &Office) {
    // An error here is one of the lease too, and told there.
    if let Ok(Some(kind)) = lease::remote_kind(&office.path) {
        log::warn!(
            "{} is on {kind}: should its server lose the lock, two workers look after the devices; \
             put the pidfile on a local disk",
            office.path.display()
        );
    }
}

/// A lock file that nobody has signed, while somebody leads: that one holds
/// another file, which was unlinked. It will notice within a round. Who signed
/// this very file has given it back, or is dead.
fn wait_for_predecessor(office: &Office, signed: Option<u32>) {
    let since = clock::monotonic_ms();
    while let Some(leader) = office.board.leader() {
        let is_over = leader.pid == std::process::id()
            || signed == Some(leader.pid)
            || !process::exists(leader.pid as process::Pid)
            || leader.silent_for >= FORGOTTEN_MS
            || clock::monotonic_ms() - since >= 2 * FORGOTTEN_MS;
        if is_over || office.is_leaving() {
            return;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
