//! Consumers: wait for a client, serve it one turn, do what it asks. All of
//! them wait on the one queue, and none ever adds to it.

use super::Connection;
use super::cores::Cores;
use super::fsck::Fsck;
use super::gate::Gate;
use super::pace::Pace;
use super::watchers::Watchers;
use crate::buffer::Desk;
use crate::device::{Devices, Ticket};
use crate::http::response::Date;
use crate::ledger::{Act, Ledger, Totals, Who};
use crate::mgmt::Detached;
use crate::queue::{LONGEST_WAIT, Next, Queue, Turn, Woken};
use crate::seats::{Seat, Seats};
use crate::site::Site;
use crate::sys::signal::Mask;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// While the consumers leave, the poison is thrown in again in this interval:
/// a belt against kernels that drop its wake-up.
const POISON_AGAIN: Duration = Duration::from_millis(10);

/// What a consumer works with.
#[derive(Clone)]
pub struct Work {
    pub queue: Arc<Queue<Connection>>,
    /// What is this worker's of them.
    pub cores: Cores,
    /// Of those consumers who wait for clients, or serve them.
    pub seats: Arc<Seats>,
    pub gate: Arc<Gate>,
    pub devices: Arc<Devices>,
    pub sites: Arc<[Site]>,
    pub watchers: Arc<Watchers>,
    pub fsck: Fsck,
}

impl Work {
    /// Tells parked clients what their devices' lines have for them.
    pub fn deliver_calls(&self) {
        self.devices.deliver(&self.queue, Connection::receive);
    }

    /// One turn of a client, and what it asks for.
    fn serve(
        &self,
        mut turn: Turn<Connection>,
        ticket: &mut Ticket,
        desk: &mut Desk,
        date: &mut Date,
    ) {
        let site = &self.sites[turn.site()];
        let next = turn.step(site, ticket, desk, date);
        match next {
            // It keeps its pass: what it drops may be on a disk.
            Next::Close => {
                desk.ledger.go(Act::Close);
                self.queue.close(turn);
                ticket.leave();
            }
            Next::Rearm(wait) => {
                ticket.leave();
                if let Err(e) = self.queue.rearm(turn, wait) {
                    log::error!("a client was closed: arming it again: {e}");
                }
            }
            Next::Detach => {
                ticket.leave();
                match turn.detached() {
                    Some(Detached::Line(line)) => {
                        let token = self.queue.park(turn);
                        self.devices.line_up(line, token);
                    }
                    Some(Detached::Watch) => self.watchers.take(turn),
                    Some(Detached::Fsck(filesystem)) => self.fsck.take(turn, filesystem),
                    None => self.queue.close(turn),
                }
            }
        }
        self.deliver_calls();
    }
}

/// How many consumers there are, and shall be.
#[derive(Default)]
struct Size {
    wanted: AtomicUsize,
    running: AtomicUsize,
}

impl Size {
    /// Whether a consumer that asks is one too many: then it must leave.
    fn is_surplus(&self) -> bool {
        let wanted = self.wanted.load(Ordering::Relaxed);
        self.running
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |running| {
                running.checked_sub(1).filter(|left| *left >= wanted)
            })
            .is_ok()
    }
}

/// A consumer.
struct Member {
    thread: JoinHandle<()>,
    ledger: Arc<Ledger>,
}

/// The consumers of one worker.
pub struct Pool {
    work: Work,
    size: Arc<Size>,
    members: Vec<Member>,
    /// What those who have left had counted.
    left: Totals,
    /// The next one's number, for its name.
    next: usize,
}

impl Pool {
    /// Starts `wanted` consumers; fewer, with a warning, where the system has
    /// no more threads to give (EAGAIN: RLIMIT_NPROC, pids of a cgroup).
    pub fn start(wanted: usize, work: &Work) -> io::Result<Pool> {
        let mut pool = Pool {
            work: work.clone(),
            size: Arc::default(),
            members: Vec::with_capacity(wanted),
            left: Totals::default(),
            next: 0,
        };
        pool.resize(wanted)?;
        Ok(pool)
    }

    /// Makes it so many consumers, one at least. More start at once; who is one
    /// too many leaves when it has served somebody, or waited in vain.
    pub fn resize(&mut self, wanted: usize) -> io::Result<()> {
        let wanted = wanted.max(1);
        self.size.wanted.store(wanted, Ordering::Relaxed);
        let gone = |member: &mut Member| member.thread.is_finished();
        for member in self.members.extract_if(.., gone) {
            self.left.add(member.ledger.totals());
        }
        while self.len() < wanted {
            self.size.running.fetch_add(1, Ordering::AcqRel);
            if let Err(e) = self.add() {
                self.size.running.fetch_sub(1, Ordering::AcqRel);
                if self.is_empty() {
                    return Err(e);
                }
                let running = self.len();
                log::warn!("only {running} of {wanted} consumers: pthread_create: {e}");
                self.size.wanted.store(running, Ordering::Relaxed);
            }
        }
        if self.len() > wanted {
            self.work.seats.rouse();
        }
        Ok(())
    }

    fn add(&mut self) -> io::Result<()> {
        let (work, size, nr) = (self.work.clone(), Arc::clone(&self.size), self.next);
        let ledger = Arc::new(Ledger::new(Who::Consumer(nr)));
        let theirs = Arc::clone(&ledger);
        let thread = std::thread::Builder::new()
            .name(format!("con:{nr}"))
            .spawn(move || {
                Mask::all().apply();
                run(&work, &size, theirs);
            })?;
        self.next += 1;
        self.members.push(Member { thread, ledger });
        Ok(())
    }

    /// Consumers that there shall be.
    pub fn wanted(&self) -> usize {
        self.size.wanted.load(Ordering::Relaxed)
    }

    /// Consumers that run.
    pub fn len(&self) -> usize {
        self.size.running.load(Ordering::Acquire)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ledgers of those who run.
    pub fn ledgers(&self) -> Vec<&Arc<Ledger>> {
        let running = self.members.iter().filter(|m| !m.thread.is_finished());
        running.map(|member| &member.ledger).collect()
    }

    /// What all have counted, those who have left as well.
    pub fn totals(&self) -> Totals {
        let mut sum = self.left;
        for member in &self.members {
            sum.add(member.ledger.totals());
        }
        sum
    }

    /// Poisons the queue and waits until the last consumer has left it. Parked
    /// clients stay where they are.
    pub fn stop(self) -> io::Result<()> {
        let queue = &self.work.queue;
        queue.poison()?;
        for Member { thread, .. } in self.members {
            while !thread.is_finished() {
                std::thread::park_timeout(POISON_AGAIN / 10);
                queue.poison()?;
            }
            // It ends by returning; a panic aborts the process.
            let _ = thread.join();
        }
        Ok(())
    }
}

fn run(work: &Work, size: &Size, ledger: Arc<Ledger>) {
    ledger.take();
    // Made when it is needed: many a consumer of a quiet server never is.
    let mut desk = None;
    let mut date = Date::new();
    let mut pace = Pace::new(work.cores.sharers());
    let mut ticket = Ticket::new(Seat::new(&work.seats));
    loop {
        if !ticket.seat().take() {
            if size.is_surplus() {
                return;
            }
            continue;
        }
        let at_most = ticket.seat().waits_at_most(LONGEST_WAIT);
        let mut turn = match pace.next(&work.queue, at_most) {
            Ok(Woken::By(turn)) => turn,
            Ok(Woken::Late) if !size.is_surplus() => continue,
            Ok(Woken::Late | Woken::Poisoned) => return,
            Err(e) => {
                log::error!("waiting for clients: {e}; this worker ends");
                std::process::abort();
            }
        };
        let desk = desk.get_or_insert_with(|| Desk::new(Arc::clone(&ledger)));
        let now = pace.turn();
        desk.ledger.begin(now);
        ticket.seat().begin(now);
        work.gate.begin();
        turn.place().served();
        work.serve(turn, &mut ticket, desk, &mut date);
        work.gate.end();
        desk.ledger.end();
        ticket.seat().end();
        if size.is_surplus() {
            return;
        }
        pace.rest();
    }
}
