//! A worker's lines: which one it is, where in its life, what it has done.

use super::Line;
use crate::sys::clock;
use crate::text::{self, Text};
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines of one worker: what changes seldom, what each tick writes, its last
/// error.
pub(super) const LINES: usize = 2 + text::WORDS / 8;

/// What stands where: line and word. Moments are milliseconds of the monotonic
/// clock, which all processes share.
type Place = (usize, usize);
const STATE: Place = (0, 0);
/// The worker's number and its configuration's generation.
const WORKER: Place = (0, 1);
const GENERATION: Place = (0, 2);
const PID: Place = (0, 3);
/// When the master forked it.
const BORN: Place = (0, 4);
const HEARTBEAT: Place = (1, 0);
const CONNECTIONS: Place = (1, 1);
const BUSY: Place = (1, 2);
const CONSUMERS: Place = (1, 3);
const REQUESTS: Place = (1, 4);
const BYTES_IN: Place = (1, 5);
const BYTES_OUT: Place = (1, 6);
/// Since then all consumers are stuck; 0: they are not.
const STUCK_SINCE: Place = (1, 7);
const ERROR: usize = 2;

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum State {
    Empty = 0,
    /// The master is about to fork it.
    Born = 1,
    /// It runs: its first act.
    Alive = 2,
    /// It gives up the master's rights.
    Privileges = 3,
    /// It opens the docroots.
    Docroots = 4,
    /// It starts its threads.
    Threads = 5,
    /// It tries whether it can serve.
    SelfTest = 6,
    Ready = 7,
    Draining = 8,
}

impl State {
    const ALL: [State; 9] = [
        State::Empty,
        State::Born,
        State::Alive,
        State::Privileges,
        State::Docroots,
        State::Threads,
        State::SelfTest,
        State::Ready,
        State::Draining,
    ];

    /// For status and log lines.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "empty",
            State::Born => "born",
            State::Alive => "alive",
            State::Privileges => "privileges",
            State::Docroots => "docroots",
            State::Threads => "threads",
            State::SelfTest => "self-test",
            State::Ready => "ready",
            State::Draining => "draining",
        }
    }
}

/// What a worker counts, since its birth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered, on all listeners.
    pub requests: u64,
    /// Received from clients, and sent to them.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// One worker's lines.
pub struct Slot<'a>(pub(super) &'a [Line; LINES]);

impl Slot<'_> {
    fn word(&self, (line, word): Place) -> &AtomicU64 {
        &self.0[line][word]
    }

    fn get(&self, place: Place) -> u64 {
        self.word(place).load(Ordering::Relaxed)
    }

    fn set(&self, place: Place, value: u64) {
        self.word(place).store(value, Ordering::Relaxed);
    }

    fn error(&self) -> Text<'_> {
        Text(self.0[ERROR..].as_flattened())
    }

    /// A new worker takes the lines, nothing of the one before is left: said by
    /// the master, before it forks it.
    pub fn begin(&self, worker: usize, generation: u64) {
        for place in [PID, CONNECTIONS, BUSY, CONSUMERS, STUCK_SINCE] {
            self.set(place, 0);
        }
        self.count(Counts::default());
        self.error().clear();
        self.set(WORKER, worker as u64);
        self.set(GENERATION, generation);
        let now = clock::monotonic_ms();
        self.set(BORN, now);
        self.word(HEARTBEAT).store(now, Ordering::Release);
        self.set_state(State::Born);
    }

    /// The worker's first act: it runs.
    pub fn enter(&self, pid: u32) {
        self.set(PID, u64::from(pid));
        self.set_state(State::Alive);
    }

    /// The worker says where it is.
    pub fn set_state(&self, state: State) {
        self.word(STATE).store(state as u64, Ordering::Release);
    }

    /// Where the worker last said it was.
    pub fn state(&self) -> State {
        let state = self.word(STATE).load(Ordering::Acquire) as usize;
        State::ALL.get(state).copied().unwrap_or(State::Empty)
    }

    /// The number of the worker that has the lines, and its configuration's
    /// generation.
    pub fn worker(&self) -> (usize, u64) {
        (self.get(WORKER) as usize, self.get(GENERATION))
    }

    /// Its process, once that runs.
    pub fn pid(&self) -> Option<u32> {
        Some(self.get(PID) as u32).filter(|pid| *pid != 0)
    }

    /// Milliseconds since it was forked.
    pub fn uptime_ms(&self) -> u64 {
        clock::monotonic_ms().saturating_sub(self.get(BORN))
    }

    /// The housekeeper is alive, and this is what it sees.
    pub fn tick(&self, connections: usize, busy: usize) {
        self.set(CONNECTIONS, connections as u64);
        self.set(BUSY, busy as u64);
        self.word(HEARTBEAT)
            .store(clock::monotonic_ms(), Ordering::Release);
    }

    /// Milliseconds since the last tick.
    pub fn silent_for(&self) -> u64 {
        let tick = self.word(HEARTBEAT).load(Ordering::Acquire);
        clock::monotonic_ms().saturating_sub(tick)
    }

    /// Connections at the last tick, and consumers that were serving one.
    pub fn load(&self) -> (u64, u64) {
        (self.get(CONNECTIONS), self.get(BUSY))
    }

    /// What was counted up to the last tick.
    pub fn count(&self, counts: Counts) {
        self.set(REQUESTS, counts.requests);
        self.set(BYTES_IN, counts.bytes_in);
        self.set(BYTES_OUT, counts.bytes_out);
    }

    /// See [`Slot::count`].
    pub fn counts(&self) -> Counts {
        Counts {
            requests: self.get(REQUESTS),
            bytes_in: self.get(BYTES_IN),
            bytes_out: self.get(BYTES_OUT),
        }
    }

    /// Consumers that run, with those in the place of stuck ones.
    pub fn set_consumers(&self, consumers: usize) {
        self.set(CONSUMERS, consumers as u64);
    }

    /// See [`Slot::set_consumers`].
    pub fn consumers(&self) -> u64 {
        self.get(CONSUMERS)
    }

    /// For so many milliseconds no consumer of the worker has come on, those in
    /// the place of stuck ones included; None: at least one does.
    pub fn set_stuck_for(&self, stuck: Option<u64>) {
        // 0 is "they are not": the first millisecond after boot has no worker.
        let since = stuck.map_or(0, |ms| clock::monotonic_ms().saturating_sub(ms).max(1));
        self.word(STUCK_SINCE).store(since, Ordering::Release);
    }

    /// See [`Slot::set_stuck_for`].
    pub fn stuck_for(&self) -> Option<u64> {
        match self.word(STUCK_SINCE).load(Ordering::Acquire) {
            0 => None,
            since => Some(clock::monotonic_ms().saturating_sub(since)),
        }
    }

    /// What went wrong with this worker: the newest stays, [`super::MAX_TEXT`]
    /// bytes of it.
    pub fn set_last_error(&self, error: &str) {
        let len = error.floor_char_boundary(text::MAX_TEXT);
        self.error().set(&[&error.as_bytes()[..len]]);
    }

    /// See [`Slot::set_last_error`].
    pub fn last_error(&self) -> Option<String> {
        let text = self.error().get()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::{MAX_SLOTS, Scoreboard};

    #[test]
    fn a_new_worker_finds_nothing_of_the_one_before() {
        let board = Scoreboard::new().unwrap();
        let slot = board.slot(MAX_SLOTS - 1);
        let counts = Counts {
            requests: 1,
            bytes_in: 2,
            bytes_out: 3,
        };
        slot.begin(7, 9);
        assert_eq!((slot.state(), slot.pid()), (State::Born, None));
        slot.enter(42);
        slot.tick(4, 5);
        slot.count(counts);
        slot.set_consumers(6);
        slot.set_stuck_for(Some(1000));
        slot.set_last_error("self-test: lock");
        assert_eq!((slot.worker(), slot.pid()), ((7, 9), Some(42)));
        assert_eq!(slot.state(), State::Alive);
        assert_eq!((slot.load(), slot.counts()), ((4, 5), counts));
        assert_eq!(slot.consumers(), 6);
        assert!(slot.stuck_for() >= Some(1000));
        assert_eq!(slot.last_error().as_deref(), Some("self-test: lock"));
        slot.set_last_error(&"ä".repeat(text::MAX_TEXT));
        assert_eq!(slot.last_error(), Some("ä".repeat(text::MAX_TEXT / 2)));
        slot.begin(8, 10);
        assert_eq!((slot.worker(), slot.pid()), ((8, 10), None));
        assert_eq!((slot.load(), slot.counts()), ((0, 0), Counts::default()));
        assert_eq!((slot.stuck_for(), slot.last_error()), (None, None));
        assert_eq!(
            board.slot(0).state(),
            State::Empty,
            "others are not touched"
        );
    }

    #[test]
    fn states_have_their_number_and_a_name() {
        for (nr, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, nr);
            assert!(!state.name().is_empty());
        }
    }

    #[test]
    fn the_trees_flag_is_nobody_elses() {
        let board = Scoreboard::new().unwrap();
        assert!(!board.is_shared());
        board.set_shared(true);
        assert!(board.is_shared());
        assert_eq!((board.threads(), board.layout()), (0, 0));
    }
}
