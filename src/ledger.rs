//! The ledger of a consumer or an acceptor: what it is about, since when, and
//! what it has done so far. Its owner alone writes it, without a lock and
//! without waiting; the housekeeper reads it, also when the owner has not come
//! back from a disk.

use crate::sys::clock::Tick;
use crate::sys::thread::Thread;
use crate::text::{self, Text};
use std::array::from_fn;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whose a ledger is, by its number among its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Consumer(usize),
    Acceptor(usize),
}

impl Who {
    pub fn is_consumer(self) -> bool {
        matches!(self, Who::Consumer(_))
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Consumer(nr) => write!(f, "consumer {nr}"),
            Who::Acceptor(nr) => write!(f, "acceptor {nr}"),
        }
    }
}

/// What its owner does in a client's turn. All but the first may wait for
/// a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Act {
    /// Listens to its client, answers it.
    Talk = 1,
    /// Looks up a name, opens or makes what it leads to.
    Open = 2,
    Read = 3,
    Write = 4,
    /// Makes an upload visible.
    Commit = 5,
    Remove = 6,
    Digest = 7,
    Close = 8,
}

impl Act {
    const ALL: [Act; 8] = [
        Act::Talk,
        Act::Open,
        Act::Read,
        Act::Write,
        Act::Commit,
        Act::Remove,
        Act::Digest,
        Act::Close,
    ];

    /// For a log line.
    fn name(self) -> &'static str {
        match self {
            Act::Talk => "talk",
            Act::Open => "open",
            Act::Read => "read",
            Act::Write => "write",
            Act::Commit => "commit",
            Act::Remove => "remove",
            Act::Digest => "digest",
            Act::Close => "close",
        }
    }
}

/// In one word, so that a reader sees what belongs together: the moment, the
/// act, and whether the subject is this turn's. 0: no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

const ACT: u32 = 32;
const HAS_SUBJECT: u64 = 1 << 40;

impl Entry {
    fn new(act: Act, since: Tick, flags: u64) -> Entry {
        Entry(u64::from(since.to_bits()) | (act as u64) << ACT | flags)
    }

    fn act(self) -> Option<Act> {
        let act = (self.0 >> ACT) as u8;
        Act::ALL.into_iter().find(|known| *known as u8 == act)
    }

    /// When the owner began with it.
    pub fn since(self) -> Tick {
        Tick::from_bits(self.0 as u32)
    }

    /// Milliseconds since the owner began with it; None: it waits for clients.
    pub fn lasts(self, now: Tick) -> Option<u32> {
        (self.0 != 0).then(|| now.since(self.since()))
    }
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Answered.
    pub requests: u64,
    /// Bytes from clients, and to them.
    pub received: u64,
    pub sent: u64,
    /// Bytes read for digests, which no client sees.
    pub digested: u64,
}

impl Totals {
    pub fn add(&mut self, other: Totals) {
        self.requests += other.requests;
        self.received += other.received;
        self.sent += other.sent;
        self.digested += other.digested;
    }
}

/// See the module. A cache line's own: others' are written all the time.
#[repr(align(64))]
pub struct Ledger {
    entry: AtomicU64,
    requests: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    digested: AtomicU64,
    /// Verb and path.
    subject: [AtomicU64; text::WORDS],
    /// The owner, by our number and by the system's.
    who: Who,
    owner: OnceLock<Thread>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger::new(Who::Consumer(0))
    }
}

impl Ledger {
    /// That of a thread that will take it.
    pub fn new(who: Who) -> Ledger {
        Ledger {
            entry: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            digested: AtomicU64::new(0),
            subject: from_fn(|_| AtomicU64::new(0)),
            who,
            owner: OnceLock::new(),
        }
    }

    /// The calling thread is its owner.
    pub fn take(&self) {
        self.owner.get_or_init(Thread::this);
    }

    fn set(&self, entry: Entry) {
        self.entry.store(entry.0, Ordering::Release);
    }

    /// A client's turn begins: at this nanosecond of the monotonic clock.
    pub fn begin(&self, ns: u64) {
        self.set(Entry::new(Act::Talk, Tick::of_ns(ns), 0));
    }

    /// The turn is over.
    pub fn end(&self) {
        self.set(Entry(0));
    }

    /// What the turn is about, from here on this act.
    pub fn about(&self, subject: &[&[u8]], act: Act) {
        Text(&self.subject).set(subject);
        self.set(Entry::new(act, Tick::now(), HAS_SUBJECT));
    }

    /// The same, at once: without another look at the clock. For a turn of one
    /// request.
    pub fn then_about(&self, subject: &[&[u8]], act: Act) {
        Text(&self.subject).set(subject);
        self.set(Entry::new(act, self.entry().since(), HAS_SUBJECT));
    }

    /// The same subject, the next act; or the next step of the same.
    pub fn go(&self, act: Act) {
        let flags = self.entry.load(Ordering::Relaxed) & HAS_SUBJECT;
        self.set(Entry::new(act, Tick::now(), flags));
    }

    /// The same subject, the next act, at once: without another look at the clock.
    pub fn then(&self, act: Act) {
        let Entry(now) = self.entry();
        let flags = now & HAS_SUBJECT;
        self.set(Entry::new(act, Entry(now).since(), flags));
    }

    /// A request was answered.
    pub fn answered(&self) {
        add(&self.requests, 1);
    }

    /// Bytes came from a client.
    pub fn received(&self, bytes: usize) {
        add(&self.received, bytes);
    }

    /// Bytes went to a client.
    pub fn sent(&self, bytes: usize) {
        add(&self.sent, bytes);
    }

    /// Bytes of a file went into a digest. (Digests of low priority share
    /// a ledger.)
    pub fn digested(&self, bytes: usize) {
        self.digested.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn totals(&self) -> Totals {
        Totals {
            requests: self.requests.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            digested: self.digested.load(Ordering::Relaxed),
        }
    }

    /// Whose it is.
    pub fn who(&self) -> Who {
        self.who
    }

    /// What the owner does now.
    pub fn entry(&self) -> Entry {
        Entry(self.entry.load(Ordering::Acquire))
    }

    /// The owner, once it runs.
    pub fn owner(&self) -> Option<Thread> {
        self.owner.get().copied()
    }

    /// What this entry was about. None: it is the owner's no more.
    pub fn tell(&self, entry: Entry) -> Option<Told> {
        let subject = Text(&self.subject).get();
        let subject = subject.filter(|_| entry.0 & HAS_SUBJECT != 0);
        (self.entry() == entry).then_some(Told {
            act: entry.act()?,
            subject,
        })
    }
}

/// The owner alone writes it: no need for a locked instruction.
fn add(counter: &AtomicU64, n: usize) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(n as u64);
    counter.store(sum, Ordering::Relaxed);
}

/// What somebody is about: `GET /dev1/file, open`.
pub struct Told {
    act: Act,
    subject: Option<Vec<u8>>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = self.subject.as_deref().unwrap_or(b"a client");
        write!(f, "{}, {}", subject.escape_ascii(), self.act.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::monotonic_ns;

    fn told(ledger: &Ledger) -> String {
        ledger
            .tell(ledger.entry())
            .map_or("-".to_owned(), |told| told.to_string())
    }

    #[test]
    fn a_turn_and_what_it_is_about() {
        let ledger = Ledger::new(Who::Consumer(7));
        assert_eq!(ledger.entry().lasts(Tick::now()), None);
        assert_eq!(told(&ledger), "-");
        ledger.begin(monotonic_ns());
        assert_eq!(told(&ledger), "a client, talk");
        ledger.about(&[b"GET ", b"/dev1/a\nb"], Act::Open);
        assert_eq!(told(&ledger), "GET /dev1/a\\nb, open");
        let before = ledger.entry();
        ledger.go(Act::Read);
        assert_eq!(told(&ledger), "GET /dev1/a\\nb, read");
        assert!(ledger.tell(before).is_none());
        ledger.then(Act::Open);
        ledger.then(Act::Read);
        assert_eq!(told(&ledger), "GET /dev1/a\\nb, read");
        ledger.end();
        assert_eq!(told(&ledger), "-");
        ledger.begin(monotonic_ns());
        ledger.go(Act::Close);
        assert_eq!(told(&ledger), "a client, close", "of no turn before");
    }

    #[test]
    fn an_act_lasts_from_its_beginning() {
        let ledger = Ledger::default();
        let before = monotonic_ns() - 5_000_000_000;
        ledger.begin(before);
        let lasts = ledger.entry().lasts(Tick::now());
        assert!(
            lasts.is_some_and(|ms| (4900..60_000).contains(&ms)),
            "{lasts:?}"
        );
        ledger.go(Act::Open);
        assert!(
            ledger
                .entry()
                .lasts(Tick::now())
                .is_some_and(|ms| ms < 4900)
        );
    }

    #[test]
    fn what_begins_at_once_lasts_from_the_turn_on() {
        let ledger = Ledger::new(Who::Acceptor(0));
        ledger.begin(monotonic_ns() - 5_000_000_000);
        let begun = ledger.entry().since();
        ledger.then_about(&[b"GET ", b"/dev1/a"], Act::Open);
        assert_eq!(told(&ledger), "GET /dev1/a, open");
        assert_eq!(ledger.entry().since(), begun);
        assert_eq!(ledger.who().to_string(), "acceptor 0");
    }

    #[test]
    fn sums() {
        let ledger = Ledger::default();
        ledger.answered();
        ledger.received(10);
        ledger.sent(20);
        ledger.sent(3);
        ledger.digested(5);
        let mut sum = ledger.totals();
        sum.add(ledger.totals());
        let twice = Totals {
            requests: 2,
            received: 20,
            sent: 46,
            digested: 10,
        };
        assert_eq!(sum, twice);
    }

    #[test]
    fn acts_have_their_number() {
        for act in Act::ALL {
            let entry = Entry::new(act, Tick::now(), 0);
            assert_eq!(entry.act(), Some(act));
        }
    }
}
