//! The master's side: a few askers at a time, none of whom it ever waits for.

use super::{FAILED, LONGEST_ORDER, OK, Order, PREFIX, PROCESSING, socket_of};
use crate::sys::{process, socket, watch};
use mio::{Registry, Token};
use std::fmt::Display;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Askers at a time; who comes beyond is told to come again.
pub const MOST_ASKERS: usize = 16;

/// Who has not said an order within this, or not taken the answer, is let go.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that an asker may leave unread before lines of progress are left out.
/// The outcome never is.
const MOST_UNREAD: usize = 64 * 1024;

/// See the module. Dropping it leaves its path: a forked child must not remove
/// it; the master does, by [`Office::remove`].
pub struct Office {
    listener: UnixListener,
    path: PathBuf,
    /// Which file it is (st_dev, st_ino), so that only our own is removed.
    file: (u64, u64),
    token: Token,
    first: Token,
    desks: [Option<Desk>; MOST_ASKERS],
    /// Askers so far.
    serial: u64,
    /// One could not be accepted, for want of a descriptor: tried again.
    is_behind: bool,
}

/// Who has asked, and waits for the answer. Should they leave, what is said to
/// them is said to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    desk: usize,
    serial: u64,
}

/// Where an asker is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Has not said a whole line yet.
    Listening,
    /// Waits for the outcome.
    Asked,
    /// The outcome is in the outbox.
    Answered,
    /// It is sent, and its end: whoever reads that closes.
    Leaving,
}

struct Desk {
    stream: UnixStream,
    serial: u64,
    phase: Phase,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// They will say no more.
    is_mute: bool,
    /// In the phases that have an end.
    deadline: Option<Instant>,
}

impl Office {
    /// Listens in the run folder as master `pid`, and removes what dead masters
    /// have left there. `first` and the tokens after it, [`MOST_ASKERS`] of
    /// them, are the askers'.
    pub fn open(
        run: &Path,
        pid: u32,
        registry: &Registry,
        listener: Token,
        first: Token,
    ) -> io::Result<Office> {
        let path = socket_of(run, pid);
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        sweep(run);
        match std::fs::remove_file(&path) {
            // Of a dead master that had our number.
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(named(e)),
            _ => {}
        }
        let socket = socket::listen_alone(&path, MOST_ASKERS as i32).map_err(named)?;
        let made = std::fs::symlink_metadata(&path).map_err(named)?;
        watch::readable(registry, socket.as_fd(), listener)?;
        Ok(Office {
            listener: socket,
            file: (made.dev(), made.ino()),
            path,
            token: listener,
            first,
            desks: [const { None }; MOST_ASKERS],
            serial: 0,
            is_behind: false,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether events of this token are for [`Office::hear`].
    pub fn owns(&self, token: Token) -> bool {
        token == self.token || self.desk_of(token).is_some()
    }

    fn desk_of(&self, token: Token) -> Option<usize> {
        let desk = token.0.checked_sub(self.first.0)?;
        (desk < MOST_ASKERS).then_some(desk)
    }

    /// Something has happened to one of its sockets: the orders that came by
    /// it. Each is to be answered by [`Office::done`].
    pub fn hear(&mut self, token: Token, registry: &Registry) -> Vec<(Asker, Order)> {
        if token == self.token {
            self.admit(registry);
            return Vec::new();
        }
        let heard = self.desk_of(token).and_then(|desk| self.listen(desk));
        heard.into_iter().collect()
    }

    /// Takes in who has come.
    fn admit(&mut self, registry: &Registry) {
        let was_behind = std::mem::take(&mut self.is_behind);
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.seat(stream, registry),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                Err(e) => {
                    if !was_behind {
                        log::warn!("{}: nobody can be let in: {e}", self.path.display());
                    }
                    self.is_behind = true;
                    return;
                }
            }
        }
    }

    fn seat(&mut self, stream: UnixStream, registry: &Registry) {
        let free = self.desks.iter().position(Option::is_none);
        let refused = match (may_ask(&stream), free) {
            (Err(why), _) => why,
            (Ok(()), None) => "too many are asking already: come again".to_owned(),
            (Ok(()), Some(desk)) => match self.prepare(&stream, desk, registry) {
                Ok(()) => {
                    self.serial += 1;
                    self.desks[desk] = Some(Desk {
                        stream,
                        serial: self.serial,
                        phase: Phase::Listening,
                        inbox: Vec::new(),
                        outbox: Vec::new(),
                        is_mute: false,
                        deadline: Some(Instant::now() + PATIENCE),
                    });
                    return;
                }
                Err(e) => format!("inside of the server: {e}"),
            },
        };
        // What has come is swallowed, see Desk::read; an empty socket has room.
        let _ = stream.set_nonblocking(true);
        let _ = (&stream).read(&mut [0; 256]);
        let _ = (&stream).write_all(format!("{FAILED} {refused}\n").as_bytes());
    }

    fn prepare(&self, stream: &UnixStream, desk: usize, registry: &Registry) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        watch::both_ways(registry, stream.as_fd(), Token(self.first.0 + desk))
    }

    /// Reads and writes what can be read and written now.
    fn listen(&mut self, nr: usize) -> Option<(Asker, Order)> {
        let desk = self.desks[nr].as_mut()?;
        let mut heard = None;
        if desk.read().is_err() {
            self.desks[nr] = None;
            return None;
        }
        if desk.phase == Phase::Listening
            && let Some(order) = desk.order()
        {
            match order {
                Ok(order) => {
                    desk.phase = Phase::Asked;
                    desk.deadline = None;
                    // A report is its own answer.
                    if !matches!(order, Order::Status { .. }) {
                        desk.put(PROCESSING, &order.to_string());
                    }
                    let serial = desk.serial;
                    heard = Some((Asker { desk: nr, serial }, order));
                }
                Err(why) => desk.answer(FAILED, &why),
            }
        }
        self.settle(nr);
        heard
    }

    /// Sends what is to be sent; who has got everything is let go.
    fn settle(&mut self, nr: usize) {
        let Some(desk) = &mut self.desks[nr] else {
            return;
        };
        let mut is_over = desk.flush().is_err();
        if desk.phase == Phase::Answered && desk.outbox.is_empty() {
            // Once: each time would be an event, and that the next time.
            is_over |= desk.stream.shutdown(Shutdown::Write).is_err();
            desk.phase = Phase::Leaving;
        }
        is_over |= desk.is_mute && matches!(desk.phase, Phase::Listening | Phase::Leaving);
        if is_over {
            self.desks[nr] = None;
        }
    }

    fn desk(&mut self, asker: Asker) -> Option<&mut Desk> {
        let desk = self.desks[asker.desk].as_mut()?;
        (desk.serial == asker.serial && desk.phase == Phase::Asked).then_some(desk)
    }

    /// Tells an asker how far it is.
    pub fn say(&mut self, asker: Asker, text: impl Display) {
        if let Some(desk) = self.desk(asker) {
            if desk.outbox.len() < MOST_UNREAD {
                desk.put(PROCESSING, &one_line(&text.to_string()));
            }
            self.settle(asker.desk);
        }
    }

    /// Tells an asker the outcome. Only an `Ok` may have several lines.
    pub fn done(&mut self, asker: Asker, outcome: Result<String, String>) {
        if let Some(desk) = self.desk(asker) {
            match outcome {
                Ok(text) => desk.answer(OK, text.trim_end_matches('\n')),
                Err(why) => desk.answer(FAILED, &one_line(&why)),
            }
            self.settle(asker.desk);
        }
    }

    /// The same to all of these.
    pub fn done_all(
        &mut self,
        askers: impl IntoIterator<Item = Asker>,
        outcome: &Result<String, String>,
    ) {
        for asker in askers {
            self.done(asker, outcome.clone());
        }
    }

    /// Lets go who is silent for too long: to be called when [`Office::next`]
    /// has come, or at each turn.
    pub fn tend(&mut self, registry: &Registry) {
        let now = Instant::now();
        for nr in 0..MOST_ASKERS {
            let Some(desk) = &mut self.desks[nr] else {
                continue;
            };
            if desk.deadline.is_none_or(|deadline| deadline > now) {
                continue;
            }
            if desk.phase == Phase::Listening {
                let why = format!("no order came within {} s", PATIENCE.as_secs());
                desk.answer(FAILED, &why);
                self.settle(nr);
            } else {
                self.desks[nr] = None;
            }
        }
        if self.is_behind {
            self.admit(registry);
        }
    }

    /// When [`Office::tend`] has something to do.
    pub fn next(&self) -> Option<Instant> {
        let desks = self.desks.iter().flatten();
        desks.filter_map(|desk| desk.deadline).min()
    }

    /// Removes its path, unless another's has taken its place. The askers still
    /// get what is said to them.
    pub fn remove(&self) {
        let there = std::fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.file) {
            // Somebody else was faster.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Desk {
    /// Takes in what has come; what is beyond an order is swallowed, since
    /// closing a socket with unread bytes would take the answer from them.
    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; 256];
        while !self.is_mute {
            match self.stream.read(&mut bytes) {
                Ok(0) => self.is_mute = true,
                Ok(len) if self.phase == Phase::Listening => {
                    let room = LONGEST_ORDER.saturating_sub(self.inbox.len());
                    self.inbox.extend_from_slice(&bytes[..len.min(room)]);
                }
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What was asked for, once it is said whole: by a line end, or by saying
    /// no more.
    fn order(&self) -> Option<Result<Order, String>> {
        let end = self.inbox.iter().position(|byte| *byte == b'\n');
        let line = match end {
            Some(end) => &self.inbox[..end],
            None if self.inbox.len() >= LONGEST_ORDER => {
                return Some(Err(format!("no order has {LONGEST_ORDER} bytes")));
            }
            None if self.is_mute && !self.inbox.is_empty() => &self.inbox,
            None => return None,
        };
        Some(Order::parse(&String::from_utf8_lossy(line)))
    }

    fn put(&mut self, how: &str, text: &str) {
        self.outbox
            .extend_from_slice(format!("{how} {text}\n").as_bytes());
    }

    fn answer(&mut self, how: &str, text: &str) {
        self.put(how, text);
        self.phase = Phase::Answered;
        self.deadline = Some(Instant::now() + PATIENCE);
    }

    /// Sends as much as there is room for; the rest when there is room again.
    fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match socket::send(self.stream.as_fd(), &self.outbox, false) {
                Ok(sent) => drop(self.outbox.drain(..sent)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn one_line(text: &str) -> String {
    text.trim_end().replace('\n', "; ")
}

/// The server's user, and root: the mode of the socket says so too.
fn may_ask(stream: &UnixStream) -> Result<(), String> {
    let ours = process::user();
    match socket::credentials(stream.as_fd()) {
        Ok(peer) if peer.user == ours || peer.user == 0 => Ok(()),
        Ok(peer) => Err(format!(
            "user {} may not ask, only user {ours} and root",
            peer.user
        )),
        Err(e) => Err(format!("who asks is not known: {e}")),
    }
}

/// Removes the sockets of masters that are no more. One of a master that lives
/// stays: that may be our predecessor, or another server that shares the folder.
fn sweep(run: &Path) {
    let Ok(entries) = std::fs::read_dir(run) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if let Some(pid) = pid.and_then(|pid| pid.parse().ok())
            && !process::exists(pid)
        {
            // Another one that starts was faster.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::os::unix::fs::PermissionsExt;

    const DOOR: Token = Token(200);
    const FIRST: Token = Token(300);

    /// An office in a loop like the master's.
    struct Master {
        office: Office,
        poll: Poll,
        folder: tempfile::TempDir,
    }

    impl Master {
        fn new() -> Master {
            let folder = tempfile::tempdir().unwrap();
            let poll = Poll::new().unwrap();
            let pid = std::process::id();
            let office = Office::open(folder.path(), pid, poll.registry(), DOOR, FIRST).unwrap();
            Master {
                office,
                poll,
                folder,
            }
        }

        /// Turns until nothing happens any more.
        fn turn(&mut self) -> Vec<(Asker, Order)> {
            let mut events = Events::with_capacity(4);
            let mut heard = Vec::new();
            loop {
                let wait = Some(Duration::from_millis(50));
                match self.poll.poll(&mut events, wait) {
                    // By a signal of another test's.
                    Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                    other => other.unwrap(),
                }
                if events.is_empty() {
                    return heard;
                }
                for event in &events {
                    assert!(self.office.owns(event.token()));
                    heard.extend(self.office.hear(event.token(), self.poll.registry()));
                }
                self.office.tend(self.poll.registry());
            }
        }

        fn asks(&self, words: &str) -> UnixStream {
            let mut stream = UnixStream::connect(self.office.path()).unwrap();
            let patience = Some(Duration::from_secs(10));
            stream.set_read_timeout(patience).unwrap();
            stream.write_all(words.as_bytes()).unwrap();
            stream
        }

        fn hears_one(&mut self) -> (Asker, Order) {
            let heard = self.turn();
            assert_eq!(heard.len(), 1, "{heard:?}");
            heard[0]
        }

        fn taken(&self) -> usize {
            self.office.desks.iter().flatten().count()
        }

        /// As if all who may be late were.
        fn expire(&mut self) {
            for desk in self.office.desks.iter_mut().flatten() {
                desk.deadline = desk.deadline.map(|_| Instant::now());
            }
            self.office.tend(self.poll.registry());
        }
    }

    /// All that is said to them, to the end.
    fn told(mut stream: UnixStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn an_order_is_heard_and_answered() {
        let mut master = Master::new();
        let stream = master.asks("reload\n");
        let (asker, order) = master.hears_one();
        assert_eq!(order, Order::Reload);
        assert_eq!(master.office.next(), None);
        master.office.say(asker, "half\nway");
        master.office.done(asker, Ok("generation 2 serves".into()));
        // They are told once.
        master.office.say(asker, "more");
        master.office.done(asker, Err("what?".into()));
        let text = "processing reload\nprocessing half; way\nok generation 2 serves\n";
        assert_eq!(told(stream), text);
        assert!(master.turn().is_empty());
        assert_eq!(master.taken(), 0);
        assert_eq!(master.office.next(), None);
    }

    #[test]
    fn a_report_has_lines() {
        let mut master = Master::new();
        let stream = master.asks("status\n");
        let (asker, order) = master.hears_one();
        assert_eq!(order, Order::Status { json: false });
        master.office.done(asker, Ok("one\ntwo\n".into()));
        assert_eq!(told(stream), "ok one\ntwo\n");
        let stream = master.asks("status json\n");
        let (asker, _) = master.hears_one();
        let why = Err("not\nnow\n".into());
        master.office.done(asker, why);
        assert_eq!(told(stream), "failed not; now\n");
    }

    #[test]
    fn a_line_comes_as_it_likes() {
        let mut master = Master::new();
        let mut slow = master.asks("rel");
        assert!(master.turn().is_empty());
        slow.write_all(b"oad").unwrap();
        assert!(master.turn().is_empty());
        slow.write_all(b"\r\nstop\nstop\n").unwrap();
        let (asker, order) = master.hears_one();
        assert_eq!(order, Order::Reload);
        // What comes behind it is no order, and takes nothing from the answer.
        slow.write_all(b"stop\n").unwrap();
        assert!(master.turn().is_empty());
        master.office.done(asker, Ok(String::new()));
        assert_eq!(told(slow), "processing reload\nok \n");
        // Without a line end, but with an end: nc does so.
        let whole = master.asks("workers -1");
        whole.shutdown(Shutdown::Write).unwrap();
        let (asker, order) = master.hears_one();
        assert_eq!(order, Order::Workers(-1));
        master.office.done(asker, Ok(String::new()));
        assert_eq!(told(whole), "processing workers -1\nok \n");
        assert!(master.turn().is_empty());
        assert_eq!(master.taken(), 0);
    }

    #[test]
    fn who_says_nothing_or_nonsense_is_let_go() {
        let mut master = Master::new();
        let (silent, half) = (master.asks(""), master.asks("stat"));
        let mute = master.asks("");
        mute.shutdown(Shutdown::Write).unwrap();
        let endless = master.asks(&"x".repeat(5000));
        let nonsense = master.asks("GET / HTTP/1.0\r\n\r\n");
        let (binary, gone) = (master.asks("\u{0}\u{1}\n"), master.asks("status"));
        drop(gone);
        // The one that left is heard: whether it listens nobody can know.
        assert_eq!(master.turn().len(), 1);
        assert_eq!(told(mute), "");
        assert_eq!(told(endless), "failed no order has 64 bytes\n");
        for stream in [nonsense, binary] {
            let text = told(stream);
            assert!(text.starts_with("failed unknown order \""), "{text}");
        }
        assert!(master.office.next().is_some());
        master.expire();
        for stream in [silent, half] {
            assert_eq!(told(stream), "failed no order came within 5 s\n");
        }
        assert!(master.turn().is_empty());
        assert_eq!(master.taken(), 1);
    }

    #[test]
    fn so_many_and_no_more() {
        let mut master = Master::new();
        let asking: Vec<UnixStream> = (0..MOST_ASKERS).map(|_| master.asks("reload\n")).collect();
        let heard = master.turn();
        assert_eq!(heard.len(), MOST_ASKERS);
        let text = told(in_vain(&mut master, "status\n"));
        assert_eq!(text, "failed too many are asking already: come again\n");
        for (asker, _) in heard {
            master.office.done(asker, Ok("x".into()));
        }
        for stream in asking {
            assert_eq!(told(stream), "processing reload\nok x\n");
        }
        assert!(master.turn().is_empty());
        assert_eq!(master.taken(), 0);
        let _stream = master.asks("status\n");
        master.hears_one();
    }

    fn in_vain(master: &mut Master, words: &str) -> UnixStream {
        let stream = master.asks(words);
        assert!(master.turn().is_empty());
        stream
    }

    /// Far more than a socket holds.
    #[test]
    fn a_long_answer_waits_for_its_reader_alone() {
        let mut master = Master::new();
        let mut slow = master.asks("status\n");
        let (asker, _) = master.hears_one();
        let long = "0123456789\n".repeat(300_000);
        master.office.done(asker, Ok(long.clone()));
        assert!(master.turn().is_empty());
        let other = master.asks("status\n");
        let (next, _) = master.hears_one();
        master.office.done(next, Ok("short".into()));
        assert_eq!(told(other), "ok short\n");
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            slow.read_to_string(&mut text).unwrap();
            text
        });
        while !reading.is_finished() {
            assert!(master.turn().is_empty());
        }
        assert_eq!(reading.join().unwrap(), format!("ok {long}"));
        assert!(master.turn().is_empty());
        assert_eq!(master.taken(), 0);
    }

    #[test]
    fn who_never_reads_costs_little_and_is_let_go() {
        let mut master = Master::new();
        let stream = master.asks("upgrade\n");
        let (asker, _) = master.hears_one();
        for _ in 0..10_000 {
            master.office.say(asker, "x".repeat(100));
        }
        let outbox = |master: &Master| {
            master.office.desks[asker.desk]
                .as_ref()
                .unwrap()
                .outbox
                .len()
        };
        assert!(outbox(&master) < 2 * MOST_UNREAD);
        master.expire();
        assert_eq!(master.taken(), 1, "its order is still carried out");
        master.office.done(asker, Ok("done".into()));
        master.expire();
        assert_eq!(master.taken(), 0);
        assert!(!told(stream).contains("done"));
    }

    #[test]
    fn who_has_left_is_told_nothing_and_nobody_in_their_place_is() {
        let mut master = Master::new();
        drop(master.asks("reload\n"));
        let (gone, _) = master.hears_one();
        master.office.say(gone, "x");
        assert_eq!(master.taken(), 0);
        let next = master.asks("reload\n");
        let (asker, _) = master.hears_one();
        assert_eq!(asker.desk, gone.desk);
        master.office.done(gone, Err("not for you".into()));
        master.office.done(asker, Ok("for you".into()));
        assert_eq!(told(next), "processing reload\nok for you\n");
    }

    #[test]
    fn it_is_for_its_owner_alone_and_leaves_nothing() {
        let master = Master::new();
        let path = master.office.path().to_owned();
        let made = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(made.permissions().mode() & 0o777, 0o600);
        // A second master with our number: not while we live, but it may be.
        let poll = Poll::new().unwrap();
        let pid = std::process::id();
        let next = Office::open(master.folder.path(), pid, poll.registry(), DOOR, FIRST).unwrap();
        master.office.remove();
        assert!(path.exists(), "it is the other's");
        next.remove();
        assert!(!path.exists());
        next.remove();
    }

    #[test]
    fn what_the_dead_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = folder.path().join(format!("control.{}", child.id()));
        let parent = std::os::unix::process::parent_id();
        let living = folder.path().join(format!("control.{parent}"));
        let others = ["control.x", "control.", "health.lock", "xcontrol.1"];
        for path in [&dead, &living] {
            drop(UnixListener::bind(path).unwrap());
        }
        for name in others {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        // And one of a dead master that had our number.
        let pid = std::process::id();
        drop(UnixListener::bind(folder.path().join(format!("control.{pid}"))).unwrap());
        let poll = Poll::new().unwrap();
        let office = Office::open(folder.path(), pid, poll.registry(), DOOR, FIRST).unwrap();
        UnixStream::connect(office.path()).unwrap();
        assert!(!dead.exists() && living.exists());
        for name in others {
            assert!(folder.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    fn a_path_that_is_too_long_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(100));
        std::fs::create_dir(&deep).unwrap();
        let poll = Poll::new().unwrap();
        let refused = Office::open(&deep, 1, poll.registry(), DOOR, FIRST).err();
        let text = refused.unwrap().to_string();
        assert!(text.contains("xxx/control.1: "), "{text}");
    }
}
