//! Devices: whose calls hold how many consumers. A disk that hangs keeps every
//! thread that enters it, so a thread enters only with a [`Pass`], and no device
//! gets so many of them that nobody is left for the others.
//!
//! A device may hold one more consumer as long as it holds fewer than are left
//! for all others: of n consumers one busy device gets n/2, k of them n/(k+1)
//! each, and as many stay free. Who finds no place waits in the device's own
//! line, off the consumers, up to a bound and a deadline. Of a device that is
//! known to hang nobody waits for.
//!
//! A consumer that has been inside of a device for [`HANGS_MS`] counts as lost:
//! the pool replaces it, and it weighs on its own device alone.

use crate::queue::Token;
use crate::scoreboard::{Device, Name, Scoreboard};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sys::clock::Tick;
use crate::sys::process;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Clients that wait for one device, in one worker; more are refused at once.
pub const LINE: usize = 128;

/// A call that has not come back for so long hangs. Milliseconds; a turn reads
/// or writes a few MiB at most.
const HANGS_MS: u32 = 1000;

/// One worker's devices.
pub struct Devices {
    table: Mutex<Table>,
    /// Calls that nobody has delivered yet.
    due: AtomicUsize,
    /// What is closed by a thread of its own.
    closer: Mutex<Option<Sender<Box<dyn Send>>>>,
    board: Scoreboard,
    /// Lanes of the docroots themselves come first, one a site.
    sites: usize,
}

/// A device's lane: who is inside, who waits. Its number is that of the site,
/// or the number of sites plus that of its line on the scoreboard.
#[derive(Default)]
struct Lane {
    inside: Vec<Visitor>,
    line: VecDeque<(Token, Tick)>,
    /// Of those inside, how many are lost.
    lost: usize,
}

struct Visitor {
    serial: u32,
    since: Tick,
    lost: bool,
}

struct Table {
    consumers: usize,
    /// Passes that are out, and those of them that count as lost.
    inside: usize,
    lost: usize,
    /// Clients in all lines.
    waiting: usize,
    next_serial: u32,
    lanes: Vec<Lane>,
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

/// A line to wait in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line(u32);

/// Why a device cannot be entered now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Wait in this line.
    Wait(Line),
    /// Its line is full.
    Full,
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
            Refusal::Full => "its device is busy, and so is the line before it",
            Refusal::TooLate => "its device had no place within --device-wait",
            Refusal::Dead => "its device hangs (its probe does not come back)",
        }
    }
}

/// The right to make calls that a device may hold. Dropped, it goes to the next.
pub struct Pass {
    devices: Arc<Devices>,
    lane: u32,
    serial: u32,
}

/// What a client holds of the devices.
#[derive(Default)]
pub struct Ticket {
    pass: Option<Pass>,
    too_late: bool,
}

impl Ticket {
    /// The client is called from its line.
    pub fn receive(&mut self, call: Call) {
        match call {
            Call::Enter(pass) => self.pass = Some(pass),
            Call::TooLate => self.too_late = true,
        }
    }

    /// Enters the device that the first segment of a path names. A pass that
    /// the ticket has for it will do; one for another is given back.
    pub fn enter(
        &mut self,
        devices: &Arc<Devices>,
        site: usize,
        name: &[u8],
    ) -> Result<Line, Refusal> {
        let lane = devices.lane(site, name);
        self.enter_again(devices, lane)?;
        Ok(lane)
    }

    /// Enters a device once more, for the next turn of the same transfer.
    pub fn enter_again(&mut self, devices: &Arc<Devices>, lane: Line) -> Result<(), Refusal> {
        if std::mem::take(&mut self.too_late) {
            return Err(Refusal::TooLate);
        }
        if self.pass.as_ref().is_some_and(|pass| pass.lane == lane.0) {
            return Ok(());
        }
        self.leave();
        self.pass = Some(devices.enter(lane)?);
        Ok(())
    }

    /// The turn is over, or goes elsewhere.
    pub fn leave(&mut self) {
        self.pass = None;
    }
}

impl Devices {
    /// For a worker with so many consumers, and the docroots of so many sites.
    pub fn new(consumers: usize, sites: usize, board: Scoreboard) -> Arc<Devices> {
        Arc::new(Devices {
            table: Mutex::new(Table {
                consumers,
                inside: 0,
                lost: 0,
                waiting: 0,
                next_serial: 0,
                lanes: Vec::new(),
                names: HashMap::new(),
                layout: None,
                calls: Vec::new(),
            }),
            due: AtomicUsize::new(0),
            closer: Mutex::new(None),
            board,
            sites,
        })
    }

    /// The lane of a device; of its docroot where it has none of its own.
    fn lane(&self, site: usize, name: &[u8]) -> Line {
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
        Line(lane.unwrap_or(site) as u32)
    }

    fn is_dead(&self, lane: u32) -> bool {
        (lane as usize)
            .checked_sub(self.sites)
            .is_some_and(|row| self.board.row(row).state() == Device::Dead)
    }

    fn enter(self: &Arc<Self>, line: Line) -> Result<Pass, Refusal> {
        if self.is_dead(line.0) {
            return Err(Refusal::Dead);
        }
        let mut table = self.table.lock();
        let waiting = table.lane(line.0).line.len();
        if waiting == 0 && table.has_room(line.0) {
            return Ok(table.let_in(self, line.0));
        }
        Err(if waiting >= LINE {
            Refusal::Full
        } else {
            Refusal::Wait(line)
        })
    }

    /// The client of this token, parked, waits in this line.
    pub fn line_up(self: &Arc<Self>, line: Line, token: Token) {
        let mut table = self.table.lock();
        table.lane(line.0).line.push_back((token, Tick::now()));
        table.waiting += 1;
        // Somebody may have left since it was refused.
        self.call_in(&mut table);
    }

    /// Who has room is called in.
    fn call_in(self: &Arc<Self>, table: &mut Table) {
        for lane in 0..table.lanes.len() as u32 {
            while !table.lane(lane).line.is_empty() && table.has_room(lane) {
                let Some((token, _)) = table.lane(lane).line.pop_front() else {
                    break;
                };
                table.waiting -= 1;
                let pass = table.let_in(self, lane);
                table.calls.push((token, Call::Enter(pass)));
            }
        }
        self.due.store(table.calls.len(), Ordering::Release);
    }

    /// Calls to be delivered now. Whoever ends a turn asks, and the sweeper.
    pub fn calls(&self) -> Vec<(Token, Call)> {
        if self.due.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut table = self.table.lock();
        self.due.store(0, Ordering::Release);
        std::mem::take(&mut table.calls)
    }

    /// Who has waited longer than `wait`, or for a device that has died, waits
    /// no more.
    pub fn expire(&self, now: Tick, wait: Duration) {
        let wait = wait.as_millis() as u32;
        let mut table = self.table.lock();
        if table.waiting == 0 {
            return;
        }
        let mut late = Vec::new();
        for (nr, lane) in table.lanes.iter_mut().enumerate() {
            let is_dead = !lane.line.is_empty() && self.is_dead(nr as u32);
            while let Some((token, since)) = lane.line.front() {
                if !is_dead && now.since(*since) < wait {
                    break;
                }
                late.push((*token, Call::TooLate));
                lane.line.pop_front();
            }
        }
        table.waiting -= late.len();
        table.calls.append(&mut late);
        self.due.store(table.calls.len(), Ordering::Release);
    }

    /// Looks for calls that hang, once a tick: says so once, has their devices
    /// probed, and returns how many consumers are lost in them.
    pub fn survey(self: &Arc<Self>, now: Tick) -> usize {
        let mut news = Vec::new();
        let lost = {
            let mut table = self.table.lock();
            let before = table.lost;
            let Table { lanes, lost, .. } = &mut *table;
            for (nr, lane) in lanes.iter_mut().enumerate() {
                let were = lane.lost;
                for visitor in &mut lane.inside {
                    if !visitor.lost && now.since(visitor.since) >= HANGS_MS {
                        visitor.lost = true;
                        lane.lost += 1;
                        *lost += 1;
                    }
                }
                if lane.lost > 0 {
                    news.push((nr, were, lane.lost));
                }
            }
            if table.lost > before {
                // Those who are lost weigh on their own device alone.
                self.call_in(&mut table);
            }
            table.lost
        };
        for (lane, were, are) in news {
            self.report(lane, were, are);
        }
        lost
    }

    fn report(&self, lane: usize, were: usize, are: usize) {
        let Some(row) = lane.checked_sub(self.sites) else {
            if were == 0 {
                log::warn!("{are} calls below the docroot itself hang for 1 s or more");
            }
            return;
        };
        // The elected worker probes it, and knows whether it is dead.
        self.board.suspect(row);
        if let (0, Some((_, name))) = (were, self.board.row(row).device()) {
            log::warn!(
                "device {name}: {are} calls hang for 1 s or more; its requests wait in line, \
                 and are refused after --device-wait"
            );
        }
    }

    /// Drops something that holds files of a device which may hang: in a thread
    /// that nobody waits for.
    pub fn close_later(&self, held: impl Send + 'static) {
        let mut closer = self.closer.lock();
        if closer.is_none() {
            let (give, take) = channel::<Box<dyn Send>>();
            let started = std::thread::Builder::new().spawn(move || {
                process::name_thread(c"closer");
                take.into_iter().for_each(drop);
            });
            match started {
                Ok(_) => *closer = Some(give),
                Err(e) => log::warn!("files of a busy device are closed at once: {e}"),
            }
        }
        // Without a thread it is dropped here.
        if let Some(closer) = &*closer {
            let _ = closer.send(Box::new(held));
        }
    }

    /// The pool has another size.
    pub fn set_consumers(self: &Arc<Self>, consumers: usize) {
        let mut table = self.table.lock();
        table.consumers = consumers;
        self.call_in(&mut table);
    }

    fn leave(self: &Arc<Self>, lane: u32, serial: u32) {
        let mut table = self.table.lock();
        let place = table.lane(lane);
        let Some(at) = place.inside.iter().position(|v| v.serial == serial) else {
            return;
        };
        if place.inside.swap_remove(at).lost {
            place.lost -= 1;
            table.lost -= 1;
        }
        table.inside -= 1;
        if table.waiting > 0 {
            self.call_in(&mut table);
        }
    }
}

impl Table {
    fn lane(&mut self, lane: u32) -> &mut Lane {
        let lane = lane as usize;
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, Lane::default);
        }
        &mut self.lanes[lane]
    }

    /// See the module: fewer inside than are left for all others.
    fn has_room(&mut self, lane: u32) -> bool {
        let own = self.lane(lane);
        let (inside, lost) = (own.inside.len(), own.lost);
        let taken = self.inside - self.lost + lost;
        inside < self.consumers.saturating_sub(taken)
    }

    fn let_in(&mut self, devices: &Arc<Devices>, lane: u32) -> Pass {
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        self.inside += 1;
        self.lane(lane).inside.push(Visitor {
            serial,
            since: Tick::now(),
            lost: false,
        });
        Pass {
            devices: Arc::clone(devices),
            lane,
            serial,
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.devices.leave(self.lane, self.serial);
    }
}
