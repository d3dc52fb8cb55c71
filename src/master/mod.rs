//! The master: one process, one thread, no clients. It minds the workers: a
//! mio loop over signals, the workers' channels, and those who ask something of
//! it; take one event, do one thing.

mod birth;
pub mod children;
mod daemon;
mod reload;
pub mod service;
mod start;
mod status;
mod stop;
mod take_over;
pub mod upgrade;

use crate::config::{Config, Snapshot};
use crate::control::{Asker, Office, Order};
use crate::listener::{Listener, Origin};
use crate::pidfile::Pidfile;
use crate::scoreboard::{MAX_SLOTS, MAX_WORKERS, Scoreboard};
use crate::sys::signal::{Inbox, Signal};
use crate::sys::{process, title};
use crate::worker::image::Image;
use crate::worker::privileges::Privileges;
use children::{Children, Dead};
use daemon::Daemon;
use mio::{Events, Poll, Token};
use reload::Reload;
use service::Service;
pub use start::{check, give_up, run};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stop::Stopping;
use take_over::Upgrade;
use upgrade::Word;
use upgrade::predecessor::Predecessor;

/// Tokens below this are the channels of the workers of that line.
const SIGNALS: Token = Token(MAX_SLOTS);
const CONTROL: Token = Token(MAX_SLOTS + 1);
const SUCCESSOR: Token = Token(MAX_SLOTS + 2);
const PREDECESSOR: Token = Token(MAX_SLOTS + 3);
/// And from this on those who ask.
const ASKERS: Token = Token(MAX_SLOTS + 4);

/// Heartbeats are looked at in this interval.
const LOOK: Duration = Duration::from_secs(1);

/// And where something is under way that has a deadline, in this.
const WATCH: Duration = Duration::from_millis(50);

/// "Ready" is said when the elected worker has looked at every device once: it
/// waits this long for those that hang, and so do we for it.
const SURVEYED_WITHIN: Duration = Duration::from_secs(4);

/// If no worker is elected within this, one of another server on this docroot
/// is: our predecessor, which we shall replace.
const LED_WITHIN: Duration = Duration::from_millis(500);

/// Why the master ended otherwise than it was told to: one line.
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn failed(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |e| Failure(format!("{what}: {e}"))
}

/// See the module.
struct Master {
    config: Config,
    snapshot: Snapshot,
    listeners: Vec<Listener>,
    scoreboard: Scoreboard,
    image: Image,
    children: Children,
    poll: Poll,
    signals: Inbox,
    office: Office,
    /// Who waits for the log to be opened anew.
    log_askers: Vec<Asker>,
    service: Service,
    stopping: Stopping,
    /// Workers that could not be ended since the stop began.
    undead: usize,
    /// Why it stops, if that is no operator's wish.
    failure: Option<Failure>,
    /// Directories of the docroots that are devices.
    devices: usize,
    /// Workers there shall be; none of them while `is_retired`.
    workers: usize,
    /// The workers were sent home, and the master stays.
    is_retired: bool,
    /// All workers of the start have been ready once, and it was said.
    started: bool,
    /// They have been since then.
    ready_since: Option<Instant>,
    since: Instant,
    consumers: usize,
    umask: u32,
    privileges: Privileges,
    /// Where the lock files are.
    run: PathBuf,
    pidfile: Option<Pidfile>,
    daemon: Daemon,
    reload: Reload,
    upgrade: Upgrade,
    predecessor: Option<Predecessor>,
    /// The pidfile names us, or would.
    is_in_charge: bool,
}

impl Master {
    /// The loop.
    fn mind(&mut self) -> Result<(), Failure> {
        let mut events = Events::with_capacity(64);
        loop {
            if self.stopping == Stopping::No {
                self.spawn_missing();
            } else if self.children.is_empty() && self.undead == 0 {
                return self.failure.take().map_or(Ok(()), Err);
            } else if self.children.is_empty() {
                return Err(Failure(format!(
                    "{} workers could not end: they are inside of a disk that hangs; \
                     see /proc/PID/task/*/stack",
                    self.undead
                )));
            }
            match self.poll.poll(&mut events, Some(self.nap())) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => other.map_err(failed("the master's loop"))?,
            }
            let mut asked = Vec::new();
            for event in &events {
                match event.token() {
                    // These are looked at in each turn.
                    SIGNALS | SUCCESSOR | PREDECESSOR => {}
                    Token(slot) if slot < MAX_SLOTS => self.children.listen(slot),
                    token => asked.extend(self.office.hear(token, self.poll.registry())),
                }
            }
            if self.children.is_shut_down() && self.stopping == Stopping::No {
                log::info!("the sidechannel says: shutdown");
                self.obey(Signal::Quit);
            }
            self.greet();
            let told: Vec<Signal> = self.signals.take().collect();
            for signal in told {
                self.obey(signal);
            }
            for (asker, order) in asked {
                self.execute(asker, order);
            }
            // At each turn, not only at SIGCHLD (signals coalesce), and after
            // they were taken: one that comes later wakes the next turn.
            self.reap()?;
            self.children.tell_again();
            self.children.kill_silent();
            let undead = self.children.abandon_undead();
            if self.stopping == Stopping::No {
                self.tend_reload();
                self.children.relieve();
            } else {
                self.undead += undead;
            }
            self.tend_predecessor()?;
            self.tend_upgrade();
            self.tend_logs();
            self.office.tend(self.poll.registry());
            self.service.tend();
            if self.press_on() {
                return Err(Failure(format!(
                    "{} did not end; a disk that hangs? see /proc/PID/task/*/stack",
                    self.children.names()
                )));
            }
        }
    }

    /// How long there is nothing to do.
    fn nap(&self) -> Duration {
        let is_greeting = self.ready_since.is_some() && !self.started;
        let is_busy = is_greeting
            || !self.children.are_all_ready()
            || self.upgrade.is_under_way()
            || !self.is_in_charge
            || self.stopping != Stopping::No;
        let look = if is_busy { WATCH } else { LOOK };
        let dues = [
            self.children.next_spawn(),
            self.service.next(),
            self.office.next(),
            self.next_binding(),
        ];
        let due = dues.into_iter().flatten().min();
        due.map_or(look, |due| {
            due.saturating_duration_since(Instant::now()).min(look)
        })
    }

    /// Says "ready", once: all workers are, and the elected one has looked at
    /// the devices.
    fn greet(&mut self) {
        if self.started || !self.children.are_all_ready() {
            return;
        }
        let waited = self.ready_since.get_or_insert_with(Instant::now).elapsed();
        if !self.children.is_surveyed() {
            let is_led = self.scoreboard.leader().is_some();
            if waited < if is_led { SURVEYED_WITHIN } else { LED_WITHIN } {
                return;
            }
            if is_led {
                log::warn!("not all devices could be looked at within {SURVEYED_WITHIN:?}");
            } else if self.predecessor.is_none() {
                log::warn!(
                    "no worker is elected: another server on this docroot looks after its devices"
                );
            }
        }
        self.started = true;
        title::set("rmogstored: master");
        let status = format!("ready with {} workers", self.children.wanted());
        log::info!("{status}");
        self.service.ready(&status);
        if let Err(e) = self.daemon.ready() {
            log::error!("/dev/null: {e}");
        }
    }

    /// What belongs to sockets that others may serve as well: for who is in charge.
    fn set_listeners(&self) {
        let Config {
            listen_exclusive,
            defer_accept,
            ..
        } = self.config;
        for listener in &self.listeners {
            // A neighbour's are its own affair.
            if listen_exclusive || listener.origin == Origin::Here {
                listener.defer_accept(defer_accept);
            }
        }
    }

    /// Takes leave of the dead, and draws the conclusions.
    fn reap(&mut self) -> Result<(), Failure> {
        let stopping = self.stopping != Stopping::No;
        let dead = self
            .children
            .reap(stopping)
            .map_err(failed("waiting for workers"))?;
        for one in dead {
            match one {
                Dead::Relieved => {}
                Dead::Other(pid, end) => self.bury_successor(pid, end),
                Dead::Worker {
                    nr,
                    generation,
                    stillborn,
                    how,
                } => self.mourn(nr, generation, stillborn, &how),
            }
        }
        Ok(())
    }

    fn mourn(&mut self, nr: usize, generation: u64, stillborn: bool, how: &str) {
        if let Some(predecessor) = self.predecessor.as_ref().filter(|_| !self.is_in_charge) {
            predecessor.say(&Word::Died(format!("worker {nr} {how}")));
        }
        if stillborn && self.reload.is_under_way(generation) {
            self.fail_reload(format!("worker {nr} {how}"));
            return;
        }
        if stillborn && self.ready_since.is_none() {
            // The first start of all: the operator is still looking.
            let why = format!("worker {nr} could not start (its reason is above): giving up");
            self.give_up(why, Stopping::Fast(Instant::now()));
            return;
        }
        let most = self.config.supervision.spawn_errors;
        let early = self.children.early_deaths();
        if most.is_some_and(|most| early >= most) {
            let why = format!(
                "worker {nr} has died early {early} times in a row (--spawn-errors): giving up"
            );
            // Those that serve have clients.
            self.give_up(why, Stopping::Graceful(Instant::now()));
        }
    }

    /// The last resort: a stop that nobody has asked for.
    fn give_up(&mut self, why: String, how: Stopping) {
        if self.stopping == Stopping::No {
            // It is said once more at the end, which may take long then.
            if matches!(how, Stopping::Graceful(_)) {
                log::error!("{why}");
            }
            self.failure = Some(Failure(why));
            self.begin_stop(how);
        }
    }

    /// What a signal says. The table is in queues.txt, 7.
    fn obey(&mut self, signal: Signal) {
        let is_serving = self.stopping == Stopping::No;
        match signal {
            Signal::Child => {}
            Signal::Term if self.config.supervision.term_is_fast => self.stop_at_once(),
            Signal::Quit | Signal::Term => self.stop_gracefully(),
            Signal::Int => self.stop_at_once(),
            Signal::Usr1 => self.reopen_logs(None),
            _ if !is_serving => log::warn!("a signal came too late: this server is stopping"),
            Signal::Hup => self.reload(None),
            Signal::Usr2 => self.upgrade(self.config.supervision.upgrade_is_auto, None),
            // A terminal's window was resized; no operator says that.
            Signal::Winch if process::has_terminal() => {}
            Signal::Winch => self.retire(),
            Signal::Ttin => drop(self.scale(1)),
            Signal::Ttou => drop(self.scale(-1)),
        }
    }

    /// USR1, or the control socket's word.
    fn reopen_logs(&mut self, asker: Option<Asker>) {
        self.tell_of_rotation();
        match self.children.reopen_logs() {
            Ok(()) => self.log_askers.extend(asker),
            Err(why) => self.office.done_all(asker, &Err(why)),
        }
    }

    fn tend_logs(&mut self) {
        if let Some(outcome) = self.children.tend_logs() {
            self.office.done_all(self.log_askers.drain(..), &outcome);
        }
    }

    /// What a client of the control socket says.
    fn execute(&mut self, asker: Asker, order: Order) {
        let is_serving = self.stopping == Stopping::No;
        let done = match order {
            Order::Status { json } => {
                let report = self.report();
                Ok(if json {
                    report.json()
                } else {
                    report.to_string()
                })
            }
            Order::Stop { fast } => {
                if fast {
                    self.stop_at_once();
                } else {
                    self.stop_gracefully();
                }
                Ok("stopping".to_owned())
            }
            Order::Reopen => return self.reopen_logs(Some(asker)),
            _ if !is_serving => Err("this server is stopping".to_owned()),
            Order::Reload => return self.reload(Some(asker)),
            Order::Upgrade => return self.upgrade(true, Some(asker)),
            Order::Workers(more) => self.scale(more),
        };
        self.office.done(asker, done);
    }

    /// All workers leave, the master stays, and so do its listeners: who comes
    /// now waits in their queues.
    fn retire(&mut self) {
        if !self.is_retired {
            log::info!("WINCH: the workers leave; HUP or TTIN brings them back");
            self.is_retired = true;
            self.children.set_wanted(0);
        }
    }

    fn come_back(&mut self) {
        if std::mem::take(&mut self.is_retired) {
            log::info!("the workers come back");
            self.children.set_wanted(self.workers);
        }
    }

    /// So many workers more.
    fn scale(&mut self, more: i32) -> Result<String, String> {
        if self.is_retired && more > 0 {
            self.come_back();
            return Ok(format!("{} workers", self.workers));
        }
        let wanted = self.workers.saturating_add_signed(more as isize);
        if !(1..=MAX_WORKERS).contains(&wanted) {
            let why = format!("{} workers: 1 to {MAX_WORKERS} can be", self.workers);
            log::warn!("{why}");
            return Err(why);
        }
        log::info!("{wanted} workers instead of {}", self.workers);
        self.workers = wanted;
        // While none of them shall be there it is for later.
        if !self.is_retired {
            self.children.set_wanted(wanted);
        }
        Ok(format!("{wanted} workers"))
    }

    fn spawn_missing(&mut self) {
        while let Some(nr) = self.children.due() {
            match self.children.spawn(nr, &self.poll) {
                Ok(None) => {}
                Ok(Some(heir)) => self.become_worker(heir),
                // The first start of all: the operator is still looking.
                Err(e) if self.ready_since.is_none() => {
                    let why = format!("worker {nr} could not be forked: {e}: giving up");
                    return self.give_up(why, Stopping::Fast(Instant::now()));
                }
                Err(e) => {
                    log::error!("worker {nr} could not be forked: {e}");
                    self.children.postpone(nr);
                }
            }
        }
    }
}
