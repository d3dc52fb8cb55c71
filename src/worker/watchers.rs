//! Watchers of utilization: who said `watch` on the sidechannel is owned from
//! then on by this one thread, which sends each new report to all of them. No
//! send waits: a watcher whose socket is full misses reports, and gets the rest
//! of its half-sent one when there is room again.

use super::Connection;
use crate::mgmt::watch::report;
use crate::queue::{Queue, Turn};
use crate::scoreboard::Scoreboard;
use crate::sync::Mutex;
use crate::sys::{socket, watch};
use mio::{Events, Poll, Token, Waker};
use slab::Slab;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the thread looks for a new report, while somebody watches.
const LOOK: Duration = Duration::from_millis(50);

/// Sockets that one wait tells of.
const EVENTS: usize = 64;

const WAKE: Token = Token(usize::MAX);

/// One worker's watchers. The thread starts with the first one.
pub struct Watchers {
    queue: Arc<Queue<Connection>>,
    board: Scoreboard,
    desk: Mutex<Option<Arc<Desk>>>,
    stopping: Arc<AtomicBool>,
}

/// Where new watchers are left for the thread.
struct Desk {
    arrived: Mutex<Vec<Turn<Connection>>>,
    stopping: Arc<AtomicBool>,
    waker: Waker,
}

impl Watchers {
    pub fn new(queue: Arc<Queue<Connection>>, board: Scoreboard) -> Watchers {
        Watchers {
            queue,
            board,
            desk: Mutex::new(None),
            stopping: Arc::default(),
        }
    }

    /// Takes a client that watches from now on.
    pub fn take(&self, turn: Turn<Connection>) {
        let desk = {
            let mut desk = self.desk.lock();
            if desk.is_none() && !self.is_stopping() {
                match self.start() {
                    Ok(started) => *desk = Some(started),
                    Err(e) => log::error!("nobody can watch: the watchers' thread: {e}"),
                }
            }
            desk.clone()
        };
        match desk {
            Some(desk) if !self.is_stopping() => {
                desk.arrived.lock().push(turn);
                desk.wake();
            }
            _ => self.queue.close(turn),
        }
    }

    /// Whether anybody has watched.
    pub fn is_started(&self) -> bool {
        self.desk.lock().is_some()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// All are dropped, and who comes from now on.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(desk) = &*self.desk.lock() {
            desk.wake();
        }
    }

    fn start(&self) -> io::Result<Arc<Desk>> {
        let poll = Poll::new()?;
        let desk = Arc::new(Desk {
            arrived: Mutex::new(Vec::new()),
            stopping: Arc::clone(&self.stopping),
            waker: Waker::new(poll.registry(), WAKE)?,
        });
        let mut room = Room {
            queue: Arc::clone(&self.queue),
            board: self.board.clone(),
            poll,
            watchers: Slab::new(),
        };
        let theirs = Arc::clone(&desk);
        std::thread::Builder::new()
            .name("watchers".to_owned())
            .spawn(move || {
                if let Err(e) = room.run(&theirs) {
                    log::error!("waiting for watchers: {e}; this worker ends");
                    std::process::abort();
                }
            })?;
        Ok(desk)
    }
}

impl Desk {
    fn wake(&self) {
        if let Err(e) = self.waker.wake() {
            log::error!("waking the watchers' thread: {e}");
        }
    }
}

struct Watcher {
    turn: Turn<Connection>,
    /// The newest report when it came, or was sent one: a later one is news.
    seen: u64,
    /// A report that the socket did not take whole, and what it took of it.
    half: Option<(Arc<[u8]>, usize)>,
}

/// The thread's own.
struct Room {
    queue: Arc<Queue<Connection>>,
    board: Scoreboard,
    poll: Poll,
    watchers: Slab<Watcher>,
}

impl Room {
    /// Returns when all shall go.
    fn run(&mut self, desk: &Desk) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut newest = self.board.reports();
        loop {
            let patience = (!self.watchers.is_empty()).then_some(LOOK);
            match self.poll.poll(&mut events, patience) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => other?,
            }
            for event in events.iter().filter(|event| event.token() != WAKE) {
                let has_gone = event.is_error() || event.is_write_closed();
                self.serve(event.token().0, has_gone);
            }
            for turn in std::mem::take(&mut *desk.arrived.lock()) {
                self.welcome(turn);
            }
            if desk.stopping.load(Ordering::Acquire) {
                // Who comes later finds that it stops, and is closed there; who
                // came meanwhile is in the next look.
                self.close_all();
            }
            let report = self.board.reports();
            if report != newest {
                newest = report;
                self.tell(report);
            }
        }
    }

    fn welcome(&mut self, turn: Turn<Connection>) {
        let place = self.watchers.vacant_entry();
        let token = Token(place.key());
        match watch::writable(self.poll.registry(), turn.as_fd(), token) {
            Ok(()) => {
                place.insert(Watcher {
                    turn,
                    seen: self.board.reports(),
                    half: None,
                });
            }
            Err(e) => {
                crate::log::client(format_args!("{} cannot watch: {e}", turn.peer()));
                self.queue.close(turn);
            }
        }
    }

    /// A socket has room, or is broken.
    fn serve(&mut self, key: usize, has_gone: bool) {
        let Some(watcher) = self.watchers.get_mut(key) else {
            return;
        };
        if has_gone || watcher.go_on().is_err() {
            self.close(key);
        }
    }

    /// A new report, for all who are not busy with an older one.
    fn tell(&mut self, report: u64) {
        let mut texts: Vec<Option<Arc<[u8]>>> = Vec::new();
        let mut gone = Vec::new();
        for (key, watcher) in &mut self.watchers {
            if watcher.seen == report || watcher.half.is_some() {
                continue;
            }
            watcher.seen = report;
            let site = watcher.turn.site();
            if texts.len() <= site {
                texts.resize(site + 1, None);
            }
            let text = texts[site].get_or_insert_with(|| text_of(&self.board, site));
            watcher.half = Some((Arc::clone(text), 0));
            if watcher.go_on().is_err() {
                gone.push(key);
                continue;
            }
            // It took nothing: this one is missed whole.
            if matches!(watcher.half, Some((_, 0))) {
                watcher.half = None;
            }
        }
        for key in gone {
            self.close(key);
        }
    }

    fn close(&mut self, key: usize) {
        let turn = self.watchers.remove(key).turn;
        // It fails when the descriptor was never registered: it was.
        let _ = watch::forget(self.poll.registry(), turn.as_fd());
        self.queue.close(turn);
    }

    fn close_all(&mut self) {
        let all: Vec<usize> = self.watchers.iter().map(|(key, _)| key).collect();
        for key in all {
            self.close(key);
        }
    }
}

impl Watcher {
    /// Sends what is left of its report, as far as the socket takes it.
    fn go_on(&mut self) -> io::Result<()> {
        while let Some((text, sent)) = &mut self.half {
            match socket::send(self.turn.as_fd(), &text[*sent..], false) {
                Ok(n) => *sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if *sent == text.len() {
                self.half = None;
            }
        }
        Ok(())
    }
}

/// The newest report of a site.
fn text_of(board: &Scoreboard, site: usize) -> Arc<[u8]> {
    let rows = board.rows().filter_map(|(_, row)| {
        let (of, name) = row.device()?;
        (of == site).then(|| (name, row.util()))
    });
    report(rows).into()
}
