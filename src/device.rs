//! Devices: whose calls hold how many consumers. A disk that hangs keeps every
//! thread that enters it, so a thread enters only with a [`Pass`], and no device
//! gets so many of them that nobody is left for the others.
//!
//! Who finds no place (`lane.rs` has the rule) waits in the device's own line,
//! off the consumers, up to a bound and a deadline. For a device that is known
//! to hang nobody waits.
//!
//! Locks: a pass may be dropped under a lock of the queue, so nothing here
//! calls the queue, or drops a pass, under the lock of the table.

use crate::closer::Closer;
use crate::lane::{Hanging, Lanes};
use crate::queue::{Queue, Token};
use crate::scoreboard::{Device, Name, Scoreboard};
use crate::seats::Seat;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sys::clock::Tick;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// One worker's devices.
pub struct Devices {
    table: Mutex<Table>,
    /// Calls that nobody has delivered yet.
    due: AtomicUsize,
    closer: Closer,
    board: Scoreboard,
    /// Lanes of the docroots themselves come first, one a site.
    sites: usize,
}

/// A lane's number is that of the site, or the number of sites plus that of the
/// device's line on the scoreboard.
struct Table {
    lanes: Lanes,
    names: HashMap<(usize, Name), usize>,
    /// Of the scoreboard when `names` was made.
    layout: Option<u64>,
    calls: Vec<(Token, Call)>,
}

/// What a client in a line is told.
pub enum Call {
    /// There is a place for it.
    Enter(Pass),
    /// There was none in time, or the device is dead.
    TooLate,
}

/// A line to wait in. Small: every connection has room for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// In bytes, which need no padding.
    lane: [u8; 2],
    /// For the next turn of a transfer that has begun. That is not refused
    /// because a device has much to do, but only when it does nothing.
    begun: bool,
}

impl Line {
    fn lane(self) -> u32 {
        u32::from(u16::from_ne_bytes(self.lane))
    }
}

/// Why a device cannot be entered now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Wait in this line.
    Wait(Line),
    /// Its line is full.
    Full(Line),
    /// There was no place in time.
    TooLate,
    /// It is known to hang.
    Dead,
}

impl Refusal {
    /// For a log line.
    pub fn why(self) -> &'static str {
        match self {
            Refusal::Wait(_) => "its device is busy",
            Refusal::Full(_) => "its device is busy, and so is the line before it",
            Refusal::TooLate => "its device had no place within --device-wait",
            Refusal::Dead => "its device hangs (its probe does not come back)",
        }
    }
}

/// The right to make calls that a device may hold. Dropped, it goes to the next.
pub struct Pass {
    devices: Arc<Devices>,
    lane: u32,
    serial: u64,
    /// It came from the line, and no consumer has its client yet.
    is_new: bool,
    /// Who had it has waited, and could not know it before.
    has_waited: bool,
}

/// What a consumer holds in a turn: its seat, and what its client has of the
/// devices.
#[derive(Default)]
pub struct Ticket {
    seat: Seat,
    pass: Option<Pass>,
    too_late: bool,
}

impl Ticket {
    /// For a consumer's turns.
    pub fn new(seat: Seat) -> Ticket {
        Ticket {
            seat,
            ..Ticket::default()
        }
    }

    /// The consumer's.
    pub fn seat(&self) -> &Seat {
        &self.seat
    }

    /// The client was called from its line, and has its turn now.
    pub fn receive(&mut self, call: Call) {
        match call {
            Call::Enter(pass) => self.pass = Some(pass),
            Call::TooLate => self.too_late = true,
        }
    }

    /// Enters the device that the first segment of a path names. A pass that
    /// the ticket has for it will do; one for another is given back.
    ///
    /// Who finds no place lets other threads run once and looks again: those
    /// inside of a disk that answers at once are often only waiting for a core.
    /// The way through the line costs an event and a wake-up more.
    pub fn enter(
        &mut self,
        devices: &Arc<Devices>,
        site: usize,
        name: &[u8],
    ) -> Result<Line, Refusal> {
        match self.enter_at_once(devices, site, name) {
            Err(Refusal::Wait(_)) => {
                std::thread::yield_now();
                self.enter_at_once(devices, site, name)
            }
            done => done,
        }
    }

    /// The same for whoever has no time.
    pub fn enter_at_once(
        &mut self,
        devices: &Arc<Devices>,
        site: usize,
        name: &[u8],
    ) -> Result<Line, Refusal> {
        let line = devices.line(site, name);
        self.go(devices, line)?;
        Ok(line)
    }

    /// Enters a device once more, for the next turn of the same transfer.
    pub fn enter_again(&mut self, devices: &Arc<Devices>, line: Line) -> Result<(), Refusal> {
        self.go(
            devices,
            Line {
                begun: true,
                ..line
            },
        )
    }

    fn go(&mut self, devices: &Arc<Devices>, line: Line) -> Result<(), Refusal> {
        if std::mem::take(&mut self.too_late) {
            return Err(Refusal::TooLate);
        }
        let is_slow = match self.pass.as_mut().filter(|pass| pass.lane == line.lane()) {
            Some(pass) => pass.begin(),
            None => {
                self.give_back();
                let (pass, is_slow) = devices.enter(line)?;
                self.pass = Some(pass);
                is_slow
            }
        };
        self.seat.enters(is_slow);
        Ok(())
    }

    /// The turn is over, or goes elsewhere.
    pub fn leave(&mut self) {
        self.too_late = false;
        self.give_back();
    }

    fn give_back(&mut self) {
        if let Some(mut pass) = self.pass.take() {
            pass.has_waited = self.seat.leaves();
        }
    }
}

impl Devices {
    /// For a worker with so many consumers, and the docroots of so many sites.
    pub fn new(consumers: usize, sites: usize, board: Scoreboard) -> Arc<Devices> {
        Arc::new(Devices {
            table: Mutex::new(Table {
                lanes: Lanes::new(consumers),
                names: HashMap::new(),
                layout: None,
                calls: Vec::new(),
            }),
            due: AtomicUsize::new(0),
            closer: Closer::default(),
            board,
            sites,
        })
    }

    /// The line of a device; of its docroot where it has none of its own.
    fn line(&self, site: usize, name: &[u8]) -> Line {
        let layout = self.board.layout();
        let mut table = self.table.lock();
        if table.layout != Some(layout) {
            table.layout = Some(layout);
            table.names = self
                .board
                .rows()
                .filter_map(|(nr, row)| Some((row.device()?, self.sites + nr)))
                .collect();
        }
        let lane = Name::new(name).and_then(|name| table.names.get(&(site, name)).copied());
        Line {
            lane: (lane.unwrap_or(site) as u16).to_ne_bytes(),
            begun: false,
        }
    }

    fn is_dead(&self, lane: u32) -> bool {
        (lane as usize)
            .checked_sub(self.sites)
            .is_some_and(|row| self.board.row(row).state() == Device::Dead)
    }

    /// A pass, and whether the device is slow, lately.
    fn enter(self: &Arc<Self>, line: Line) -> Result<(Pass, bool), Refusal> {
        if self.is_dead(line.lane()) {
            return Err(Refusal::Dead);
        }
        let mut table = self.table.lock();
        if table.lanes.waiting_for(line.lane()) == 0 && table.lanes.has_room(line.lane()) {
            let is_slow = table.lanes.is_slow(line.lane());
            let pass = self.pass(&mut table, line.lane(), Some(Tick::now()));
            return Ok((pass, is_slow));
        }
        Err(if !line.begun && table.lanes.is_full(line.lane()) {
            Refusal::Full(line)
        } else {
            Refusal::Wait(line)
        })
    }

    /// The client of this token, parked, waits in this line.
    pub fn line_up(self: &Arc<Self>, line: Line, token: Token) {
        let mut table = self.table.lock();
        table.lanes.line_up(line.lane(), token, line.begun);
        // Somebody may have left since it was refused.
        self.call_in(&mut table);
    }

    /// Who has room is called in.
    fn call_in(self: &Arc<Self>, table: &mut Table) {
        while let Some((lane, token)) = table.lanes.next() {
            let pass = self.pass(table, lane, None);
            table.calls.push((token, Call::Enter(pass)));
        }
        self.due.store(table.calls.len(), Ordering::Release);
    }

    /// Tells the parked clients that are called. Whoever ends a turn does it,
    /// and the sweeper.
    pub fn deliver<T: AsFd>(&self, queue: &Queue<T>, receive: impl Fn(&mut T, Call)) {
        // Again: a call that finds its client gone gives the pass to the next.
        while self.due.load(Ordering::Acquire) > 0 {
            for (token, call) in self.calls() {
                queue.call(token, |client| receive(client, call));
            }
        }
    }

    fn calls(&self) -> Vec<(Token, Call)> {
        let mut table = self.table.lock();
        self.due.store(0, Ordering::Release);
        std::mem::take(&mut table.calls)
    }

    /// Who has waited longer than `wait`, or for a device that has died, waits
    /// no more.
    pub fn expire(&self, now: Tick, wait: Duration) {
        let wait = wait.as_millis() as u32;
        let mut table = self.table.lock();
        let late = table.lanes.expire(now, wait, |lane| self.is_dead(lane));
        let late = late.into_iter().map(|token| (token, Call::TooLate));
        table.calls.extend(late);
        self.due.store(table.calls.len(), Ordering::Release);
    }

    /// Looks for calls that hang, once a tick: says so once, has their devices
    /// probed, and returns how many consumers are to be replaced.
    pub fn survey(self: &Arc<Self>, now: Tick) -> usize {
        let (news, replaced) = {
            let mut table = self.table.lock();
            let news = table.lanes.count_lost(now);
            // Those who are lost weigh on their own device alone.
            self.call_in(&mut table);
            (news, table.lanes.replaced())
        };
        for hanging in news {
            self.report(&hanging);
        }
        replaced
    }

    fn report(&self, hanging: &Hanging) {
        let Hanging { lane, are, is_news } = *hanging;
        let Some(row) = (lane as usize).checked_sub(self.sites) else {
            if is_news {
                log::warn!("{are} calls below the docroot itself hang for 1 s or more");
            }
            return;
        };
        // The elected worker probes it, and knows whether it is dead.
        self.board.suspect(row);
        if let (true, Some((_, name))) = (is_news, self.board.row(row).device()) {
            log::warn!(
                "device {name}: {are} calls hang for 1 s or more; its requests wait in line, \
                 and are refused after --device-wait"
            );
        }
    }

    /// Drops something that holds files of this device, which may hang: in a
    /// thread that nobody waits for.
    pub fn close_later(&self, line: Line, held: impl Send + 'static) {
        self.closer.close(line.lane(), held);
    }

    /// The pool has another size.
    pub fn set_consumers(self: &Arc<Self>, consumers: usize) {
        let mut table = self.table.lock();
        table.lanes.set_consumers(consumers);
        self.call_in(&mut table);
    }

    fn pass(self: &Arc<Self>, table: &mut Table, lane: u32, since: Option<Tick>) -> Pass {
        Pass {
            devices: Arc::clone(self),
            lane,
            serial: table.lanes.let_in(lane, since),
            is_new: since.is_none(),
            has_waited: false,
        }
    }

    fn leave(self: &Arc<Self>, lane: u32, serial: u64, has_waited: bool) {
        let mut table = self.table.lock();
        table.lanes.let_out(lane, serial, has_waited);
        self.call_in(&mut table);
    }
}

impl Pass {
    /// A consumer has its client now. Whether the device is slow, lately.
    fn begin(&mut self) -> bool {
        if !std::mem::take(&mut self.is_new) {
            return false;
        }
        let mut table = self.devices.table.lock();
        table.lanes.begin(self.lane, self.serial);
        table.lanes.is_slow(self.lane)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.devices.leave(self.lane, self.serial, self.has_waited);
    }
}

#[cfg(test)]
impl Devices {
    /// Who is inside, of those lost, who waits; and whether a call is due.
    pub fn counts(&self) -> (usize, usize, usize, bool) {
        let table = self.table.lock();
        let (inside, lost, waiting) = table.lanes.counts();
        (inside, lost, waiting, !table.calls.is_empty())
    }
}
