//! One forked process: start the threads, wait for the word, drain.

pub mod acceptor;
mod account;
mod bell;
pub mod consumer;
pub mod cores;
pub mod fsck;
pub mod gate;
mod host;
pub mod housekeeper;
pub mod image;
mod pace;
mod patience;
pub mod privileges;
mod room;
mod selftest;
mod stuck;
pub mod watchers;
mod worth;

use crate::channel::{Channel, Message};
use crate::client::Client;
use crate::config::Config;
use crate::device::Devices;
use crate::health;
use crate::ledger::{Ledger, Totals, Who};
use crate::queue::Queue;
use crate::scoreboard::{Scoreboard, Slot, State};
use crate::seats::Seats;
use crate::site::Site;
use crate::store::Store;
use crate::store::upload::sweep;
use crate::sys::clock::Tick;
use crate::sys::signal::{self, Mask};
use crate::sys::{memory, process, socket, thread, title};
use acceptor::Acceptor;
pub use acceptor::Door;
use consumer::{Pool, Work};
use cores::Cores;
use fsck::Fsck;
use gate::Gate;
use housekeeper::Housekeeper;
use patience::Patience;
use privileges::Privileges;
use room::Room;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use stuck::Stuck;
use watchers::Watchers;

/// A client and its place among this worker's connections.
pub type Connection = Client<gate::Place>;

/// What the master gives to a new worker.
pub struct Start {
    /// The worker's number, as the operator counts.
    pub nr: usize,
    /// Its line on the scoreboard.
    pub slot: usize,
    pub config: Config,
    pub doors: Vec<Door>,
    /// Where the lock files are.
    pub run: PathBuf,
    pub channel: Channel,
    pub scoreboard: Scoreboard,
    /// Consumers of this worker.
    pub consumers: usize,
    pub umask: u32,
    pub signals: signal::Inbox,
    pub privileges: Privileges,
}

/// How a worker shall end; the graver word is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Serve who has begun a request; `last`: nobody else serves the listeners.
    Graceful { last: bool },
    /// At once.
    Fast,
}

/// The threads of a worker, from start to stop.
pub struct Crew {
    work: Work,
    acceptors: Vec<Acceptor>,
    /// The acceptors' ledgers, also of those who have left.
    doormen: Vec<Arc<Ledger>>,
    pool: Pool,
    /// Consumers as configured, or as the sidechannel wants them.
    consumers: usize,
    stuck: Stuck,
    /// All consumers are, for so many milliseconds.
    stuck_for: Option<u32>,
    /// What was counted before there were clients.
    tare: Totals,
    /// Takes the listeners' place when the acceptors are stopped.
    dead: Option<OwnedFd>,
}

impl Crew {
    /// Starts the consumers; nobody is accepted yet.
    pub fn start(
        sites: Vec<Site>,
        devices: Arc<Devices>,
        run: PathBuf,
        consumers: usize,
        cores: Cores,
        connections: usize,
    ) -> io::Result<Crew> {
        let queue = Arc::new(Queue::new()?);
        let board = sites[0].board.clone();
        let work = Work {
            cores,
            seats: Seats::new(cores.seats()),
            gate: Gate::new(consumers, connections),
            devices,
            sites: sites.into(),
            watchers: Arc::new(Watchers::new(Arc::clone(&queue), board)),
            fsck: Fsck::new(Arc::clone(&queue), run),
            queue,
        };
        Ok(Crew {
            pool: Pool::start(consumers, &work)?,
            work,
            acceptors: Vec::new(),
            doormen: Vec::new(),
            consumers,
            stuck: Stuck::default(),
            stuck_for: None,
            tare: Totals::default(),
            dead: None,
        })
    }

    /// Starts the acceptors: who is accepted is served.
    pub fn open(&mut self, doors: Vec<Door>) -> io::Result<()> {
        self.tare = self.totals();
        let work = &self.work;
        let ready = Arc::new(Barrier::new(doors.len() + 1));
        self.acceptors = doors
            .into_iter()
            .enumerate()
            .map(|(nr, door)| {
                let ledger = Arc::new(Ledger::new(Who::Acceptor(nr)));
                self.doormen.push(Arc::clone(&ledger));
                Acceptor::start(nr, door, work, ledger, &ready)
            })
            .collect::<io::Result<_>>()?;
        ready.wait();
        Ok(())
    }

    /// The sidechannel wants another number of consumers.
    pub fn set_consumers(&mut self, consumers: usize) {
        if self.consumers != consumers {
            log::info!("{consumers} consumers instead of {}", self.consumers);
            self.consumers = consumers;
            self.work.devices.set_consumers(consumers);
        }
    }

    /// Who hangs in a device is replaced until it comes back.
    fn tend_pool(&mut self, now: Tick) {
        let wanted = self.consumers + self.work.devices.survey(now);
        if wanted != self.pool.wanted() {
            self.work.gate.set_consumers(wanted);
            if let Err(e) = self.pool.resize(wanted) {
                log::error!("consumers: pthread_create: {e}");
            }
        }
        let mut ledgers = self.pool.ledgers();
        ledgers.extend(&self.doormen);
        self.stuck_for = self.stuck.look(now, &ledgers);
    }

    /// The sweep over parked clients: who has waited too long goes.
    pub fn sweep(&mut self) {
        let now = Tick::now();
        self.tend_pool(now);
        let sites = &self.work.sites;
        // The longest of all sites: they have the same.
        let wait = sites[0].timeouts.device;
        self.work.devices.expire(now, wait);
        self.work
            .queue
            .retain(|client| client.may_stay(now, &sites[client.site()]));
        self.work.deliver_calls();
    }

    /// The graceful stop begins: acceptors leave, replies are their
    /// connection's last. `last`: the listen queue is emptied first.
    pub fn begin_drain(&mut self, last: bool) -> io::Result<()> {
        for site in self.work.sites.iter() {
            site.drain();
        }
        self.work.watchers.stop();
        self.work.fsck.stop();
        // Whoever goes on with a lent listener serves who is in its queue.
        let leaves = |acceptor: &Acceptor| !last || acceptor.is_lent();
        if self.dead.is_none() && self.acceptors.iter().any(leaves) {
            self.dead = Some(socket::dead()?);
        }
        for acceptor in &self.acceptors {
            match &self.dead {
                Some(dead) if leaves(acceptor) => acceptor.leave(dead.as_fd())?,
                _ => acceptor.empty()?,
            }
        }
        self.work.gate.close();
        Ok(())
    }

    /// Whether the acceptors have left and every client has been served to the
    /// end. An acceptor of a full worker can leave only as clients do, so the
    /// sweeps must go on meanwhile; each call kicks those that have not left.
    pub fn is_drained(&mut self) -> bool {
        // With the acceptor goes this process's hold on the listener.
        for acceptor in self.acceptors.extract_if(.., |a| a.is_gone()) {
            acceptor.join();
        }
        for acceptor in &self.acceptors {
            acceptor.kick();
        }
        self.acceptors.is_empty() && self.work.queue.is_empty()
    }

    /// Stops the consumers; clients that are left are closed with the queue.
    pub fn stop(mut self, last: bool) -> io::Result<()> {
        self.begin_drain(last)?;
        for acceptor in self.acceptors {
            acceptor.join();
        }
        self.pool.stop()
    }
}

/// A worker's life. It ends the process by its return value: 0 after a stop.
pub fn run(start: Start) -> i32 {
    // A panic of any thread is our own bug: the process ends, and the master
    // says so. The hook runs first, so the log has the reason.
    std::panic::set_hook(Box::new(|info| {
        log::error!("bug: {info}");
        std::process::abort();
    }));
    let (nr, slot) = (start.nr, start.slot);
    let scoreboard = start.scoreboard.clone();
    match live(start) {
        Ok(()) => 0,
        Err(e) => {
            log::error!("worker {nr}: {e}");
            // Its phase stays on the scoreboard: the master tells it.
            scoreboard.slot(slot).set_last_error(&e.to_string());
            1
        }
    }
}

fn live(start: Start) -> io::Result<()> {
    let named = |what: &'static str| move |e: io::Error| io::Error::other(format!("{what}: {e}"));
    let config = &start.config;
    let slot = start.scoreboard.slot(start.slot);
    entitle(&slot, ", starting");
    slot.set_state(State::Privileges);
    start.privileges.take()?;
    let channel = Arc::new(start.channel);
    let devices = Devices::new(
        start.consumers,
        config.sites.len(),
        start.scoreboard.clone(),
    );
    slot.set_state(State::Docroots);
    let sites = config
        .sites
        .iter()
        .enumerate()
        .map(|(nr, site)| {
            let docroot = &site.docroot;
            let cache = config.cache / config.workers / config.sites.len();
            let store = Store::open(docroot, config.durability, start.umask, cache)
                .map_err(|e| io::Error::other(format!("docroot {}: {e}", docroot.display())))?;
            Ok(Site::new(
                nr,
                store,
                config.timeouts,
                Arc::clone(&devices),
                start.scoreboard.clone(),
                Arc::clone(&channel),
            ))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let share = config.max_connections.div_ceil(config.workers);
    let room = Room::find(sites.len() + start.doors.len(), start.consumers)?;
    let connections = share.min(room.connections());
    if connections < share {
        log::warn!(
            "worker {}: RLIMIT_NOFILE allows {connections} connections of its share {share} of --maxconns",
            start.nr
        );
    }
    process::grow_descriptor_table(channel.as_fd(), room.descriptors(connections));
    slot.set_state(State::Threads);
    let board = start.scoreboard.clone();
    let mut housekeeper =
        Housekeeper::new(Arc::clone(&channel), start.signals, board, &config.timeouts)
            .map_err(named("the housekeeper's loop"))?;
    // Threads inherit the mask: signals are the housekeeper's, that is ours.
    let ours = Mask::all().apply();
    let docroots: Vec<PathBuf> = config.sites.iter().map(|s| s.docroot.clone()).collect();
    let run = start.run.clone();
    let cores = Cores::shared_by(config.workers);
    let crew = Crew::start(sites, devices, run, start.consumers, cores, connections)
        .map_err(named("starting threads"))
        .and_then(|mut crew| {
            slot.set_state(State::SelfTest);
            selftest::run(&crew.work, &docroots, &start.scoreboard)?;
            crew.open(start.doors).map_err(named("starting threads"))?;
            Ok(crew)
        });
    // Nobody waits for it: where a disk hangs, so does this thread alone.
    let sweeper = std::thread::Builder::new()
        .name("sweep".to_owned())
        .spawn(move || {
            docroots.iter().for_each(|docroot| sweep(docroot));
        });
    ours.apply();
    if let Err(e) = sweeper {
        log::warn!("what dead workers left in the temporary directories stays there: {e}");
    }
    let mut crew = crew?;
    slot.set_state(State::Ready);
    entitle(&slot, "");
    crate::log::leave_stderr().map_err(named("stderr"))?;
    housekeeper.report_ready()?;
    // What the start alone has needed.
    memory::trim_heap();
    let elected = health::start(health::Start {
        worker: start.slot,
        sites: config.sites.clone(),
        knobs: config.health.clone(),
        run: start.run,
        board: start.scoreboard.clone(),
        umask: start.umask,
        first_round: Box::new(move || {
            // EPIPE: the master has gone, which the housekeeper notices.
            let _ = channel.send(Message::Surveyed);
        }),
    })
    .map_err(named("the elected worker's thread"))?;

    let workers = config.workers;
    let stop = housekeeper.wait_for_word(|housekeeper| {
        if housekeeper.shall_resign() {
            elected.step_down();
        }
        let threads = start.scoreboard.threads();
        if threads > 0 {
            crew.set_consumers(threads.div_ceil(workers));
        }
        crew.sweep();
        crew.report(&slot);
    })?;
    // First of all: another worker looks after the devices while this one drains.
    elected.resign();
    let Stop::Graceful { last } = stop else {
        return Ok(());
    };
    slot.set_state(State::Draining);
    entitle(&slot, ", draining");
    thread::name_thread(c"draining");
    crew.begin_drain(last)?;
    let limit = config.supervision.graceful;
    let mut patience = Patience::new(limit, crew.progress());
    let mut is_over = false;
    let fast = housekeeper.wait_until(|| {
        crew.sweep();
        crew.report(&slot);
        is_over = patience.is_over(crew.progress());
        is_over || crew.is_drained()
    })?;
    if fast {
        return Ok(());
    }
    if is_over && !crew.is_drained() {
        crew.say_survivors(limit.unwrap_or_default());
        return Ok(());
    }
    crew.stop(last)
}

/// Says in the process's title who it is and what it does.
fn entitle(slot: &Slot<'_>, what: &str) {
    let (nr, generation) = slot.worker();
    title::set(&format!("rmogstored: worker {nr}, gen {generation}{what}"));
}

/// When one worker has been told to stop, by the master or by a signal to the
/// whole process group, the master's word reaches the others within this.
const WORD_COMES: Duration = Duration::from_millis(200);

/// The longest that a drain's tick may take to see that it is over.
pub(crate) const DRAIN_TICK: Duration = Duration::from_millis(10);

/// A moment from now.
pub(crate) fn after(span: Duration) -> Instant {
    Instant::now() + span
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_small() {
        // 72 bytes are 80 of glibc's; the next size is 96.
        assert!(size_of::<Connection>() <= 72);
    }
}
