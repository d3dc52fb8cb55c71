//! One forked process: start the threads, wait for the word, drain.

pub mod acceptor;
pub mod consumer;
pub mod gate;
pub mod housekeeper;

use crate::channel::Channel;
use crate::client::Client;
use crate::config::Config;
use crate::http::Site;
use crate::listener::Serves;
use crate::queue::Queue;
use crate::scoreboard::{Scoreboard, State};
use crate::store::Store;
use crate::store::upload::sweep;
use crate::sys::signal::{self, Mask};
use crate::sys::{process, socket};
use acceptor::Acceptor;
use consumer::{Pool, Work};
use gate::Gate;
use housekeeper::Housekeeper;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// A client and its place among this worker's connections.
pub type Connection = Client<gate::Place>;

/// Descriptors that a connection can hold: its socket, and the file that it
/// sends or receives.
const PER_CONNECTION: usize = 2;

/// Descriptors that a consumer needs for a moment: a directory and a temporary
/// name of an upload that becomes visible.
const PER_TURN: usize = 2;

/// Turns of that kind that are counted on at the same time, at most: where
/// descriptors are so few that this matters, a 503 in place of a reply does
/// less harm than a connection that is not accepted.
const TURNS: usize = 4;

/// What the master gives to a new worker.
pub struct Start {
    pub nr: usize,
    pub config: Config,
    pub listeners: Vec<(OwnedFd, Serves)>,
    pub channel: Channel,
    pub scoreboard: Scoreboard,
    /// Consumers of this worker.
    pub consumers: usize,
    pub umask: u32,
    pub signals: signal::Inbox,
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
    queue: Arc<Queue<Connection>>,
    gate: Arc<Gate>,
    site: Arc<Site>,
    acceptors: Vec<Acceptor>,
    pool: Pool,
    /// Takes the listeners' place when the acceptors are stopped.
    dead: Option<OwnedFd>,
}

impl Crew {
    /// Starts consumers first, then acceptors: who is accepted is served.
    pub fn start(
        site: Site,
        listeners: Vec<(OwnedFd, Serves)>,
        consumers: usize,
        connections: usize,
    ) -> io::Result<Crew> {
        let queue = Arc::new(Queue::new()?);
        let site = Arc::new(site);
        let gate = Gate::new(consumers, connections);
        let work = Work {
            queue: Arc::clone(&queue),
            gate: Arc::clone(&gate),
            site: Arc::clone(&site),
        };
        let pool = Pool::start(consumers, &work)?;
        let ready = Arc::new(Barrier::new(listeners.len() + 1));
        let acceptors = listeners
            .into_iter()
            .enumerate()
            .map(|(nr, (listener, serves))| {
                Acceptor::start(nr, listener, serves, &gate, &queue, &ready)
            })
            .collect::<io::Result<_>>()?;
        ready.wait();
        Ok(Crew {
            queue,
            gate,
            site,
            acceptors,
            pool,
            dead: None,
        })
    }

    /// The sweep over parked clients: who has waited too long goes.
    pub fn sweep(&self) {
        let now = crate::sys::clock::Tick::now();
        self.queue.retain(|client| client.may_stay(now, &self.site));
    }

    /// Connections, and busy consumers.
    pub fn load(&self) -> (usize, usize) {
        self.gate.load()
    }

    /// The graceful stop begins: acceptors leave, replies are their
    /// connection's last. `last`: the listen queue is emptied first.
    pub fn begin_drain(&mut self, last: bool) -> io::Result<()> {
        self.site.drain();
        if !last && self.dead.is_none() {
            self.dead = Some(socket::dead()?);
        }
        for acceptor in &self.acceptors {
            match &self.dead {
                Some(dead) => acceptor.leave(std::os::fd::AsFd::as_fd(dead))?,
                None => acceptor.empty()?,
            }
        }
        self.gate.close();
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
        self.acceptors.is_empty() && self.queue.is_empty()
    }

    /// Stops the consumers; clients that are left are closed with the queue.
    pub fn stop(mut self, last: bool) -> io::Result<()> {
        self.begin_drain(last)?;
        for acceptor in self.acceptors {
            acceptor.join();
        }
        self.pool.stop(&self.queue)
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
    let slot_nr = start.nr;
    let scoreboard = start.scoreboard.clone();
    match live(start) {
        Ok(()) => 0,
        Err(e) => {
            log::error!("worker {slot_nr}: {e}");
            scoreboard.slot(slot_nr).set_state(State::Empty);
            1
        }
    }
}

fn live(start: Start) -> io::Result<()> {
    let named = |what: &'static str| move |e: io::Error| io::Error::other(format!("{what}: {e}"));
    let slot = start.scoreboard.slot(start.nr);
    let docroot = &start.config.docroot;
    let store = Store::open(docroot, start.config.durability, start.umask)
        .map_err(|e| io::Error::other(format!("docroot {}: {e}", docroot.display())))?;
    let share = start.config.max_connections.div_ceil(start.config.workers);
    let room = Room::find(start.listeners.len(), start.consumers)?;
    let connections = share.min(room.connections());
    if connections < share {
        log::warn!(
            "worker {}: RLIMIT_NOFILE allows {connections} connections of its share {share} of --maxconns",
            start.nr
        );
    }
    process::grow_descriptor_table(start.channel.as_fd(), room.descriptors(connections));
    let mut housekeeper = Housekeeper::new(start.channel, start.signals, &start.config.timeouts)
        .map_err(named("the housekeeper's loop"))?;
    // Threads inherit the mask: signals are the housekeeper's, that is ours.
    let ours = Mask::all().apply();
    let crew = Crew::start(
        Site::new(store, start.config.timeouts),
        start.listeners,
        start.consumers,
        connections,
    )
    .map_err(named("starting threads"));
    // Nobody waits for it: where a disk hangs, so does this thread alone.
    let swept = docroot.clone();
    let sweeper = std::thread::Builder::new().spawn(move || {
        process::name_thread(c"sweep");
        sweep(&swept);
    });
    ours.apply();
    if let Err(e) = sweeper {
        log::warn!("what dead workers left in the temporary directories stays there: {e}");
    }
    let mut crew = crew?;
    slot.set_state(State::Ready);
    housekeeper.report_ready()?;

    let stop = housekeeper.wait_for_word(|| {
        crew.sweep();
        let (connections, busy) = crew.load();
        slot.tick(connections, busy);
    })?;
    let Stop::Graceful { last } = stop else {
        return Ok(());
    };
    slot.set_state(State::Draining);
    process::name_thread(c"draining");
    crew.begin_drain(last)?;
    let fast = housekeeper.wait_until(|| {
        crew.sweep();
        let (connections, busy) = crew.load();
        slot.tick(connections, busy);
        crew.is_drained()
    })?;
    if fast {
        return Ok(());
    }
    crew.stop(last)
}

/// What RLIMIT_NOFILE leaves for connections.
struct Room {
    /// Descriptors that the worker and its threads need themselves.
    own: usize,
    limit: usize,
}

impl Room {
    fn find(listeners: usize, consumers: usize) -> io::Result<Room> {
        /// 0, 1, 2; the docroot; channel; two of the self-pipe; the
        /// housekeeper's loop; the queue and its poison; one to spare.
        const OWN: usize = 11;
        let (soft, _) = process::descriptor_limits()?;
        Ok(Room {
            own: OWN + listeners + PER_TURN * consumers.min(TURNS),
            limit: usize::try_from(soft).unwrap_or(usize::MAX),
        })
    }

    /// One at least: without any there would be no worker.
    fn connections(&self) -> usize {
        (self.limit.saturating_sub(self.own) / PER_CONNECTION).max(1)
    }

    /// What that many connections need in all.
    fn descriptors(&self, connections: usize) -> u64 {
        (self.own + PER_CONNECTION * connections).min(self.limit) as u64
    }
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
