//! The master: one process, one thread, no clients. It minds the workers: a
//! mio loop over signals and the workers' channels; take one event, do one
//! thing.

mod birth;
pub mod children;
mod daemon;
mod pidfile;
mod run;
pub mod service;

use crate::config::{Config, Snapshot};
use crate::listener::{Address, Listener};
use crate::scoreboard::Scoreboard;
use crate::sys::signal::{Inbox, Mask, Signal};
use crate::sys::{process, socket, title, watch};
use crate::worker::image::Image;
use crate::worker::privileges::Privileges;
use children::Children;
use daemon::Daemon;
use mio::{Events, Poll, Token};
use pidfile::Pidfile;
use service::Service;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Tokens below this are the channels of the workers of that number.
const SIGNALS: Token = Token(crate::scoreboard::MAX_WORKERS);

/// Heartbeats are looked at in this interval.
const LOOK: Duration = Duration::from_secs(1);

/// "Ready" is said when the elected worker has looked at every device once: it
/// waits this long for those that hang, and so do we for it.
const SURVEYED_WITHIN: Duration = Duration::from_secs(4);

/// If no worker is elected within this, one of another server on this docroot
/// is: our predecessor, which we shall replace.
const LED_WITHIN: Duration = Duration::from_millis(500);

/// After the word to stop at once: then SIGKILL.
const KILL_AFTER: Duration = Duration::from_secs(1);

/// And then the master leaves: a process inside a dead disk's call cannot be
/// killed, nor waited for.
const GIVE_UP_AFTER: Duration = Duration::from_secs(6);

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

/// How far a stop has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    Graceful,
    /// Since then.
    Fast(Instant),
    /// SIGKILL was sent; since then.
    Killed(Instant),
}

/// See the module.
struct Master {
    config: Config,
    listeners: Vec<Listener>,
    scoreboard: Scoreboard,
    image: Image,
    children: Children,
    poll: Poll,
    signals: Inbox,
    stopping: Stopping,
    /// All workers of the start have been ready once, and it was said.
    started: bool,
    /// They have been since then.
    ready_since: Option<Instant>,
    consumers: usize,
    umask: u32,
    privileges: Privileges,
    /// Where the lock files are.
    run: PathBuf,
    daemon: Daemon,
    service: Service,
}

/// What a start would find out before it serves, without serving: the line that
/// says that all is well.
pub fn check(config: &Config) -> Result<String, Failure> {
    open_docroots(config)?;
    find_privileges(config)?;
    let listeners: usize = config.sites.iter().map(|site| site.listeners.len()).sum();
    let sites = config.sites.len();
    Ok(format!(
        "configuration is fine: {sites} site(s), {listeners} listener(s)"
    ))
}

/// For the errors alone, and for what the run folder is named by: each worker
/// opens its own.
fn open_docroots(config: &Config) -> Result<Vec<OwnedFd>, Failure> {
    let sites = config.sites.iter();
    sites
        .map(|site| {
            crate::sys::file::open_root(&site.docroot)
                .map_err(failed(format_args!("docroot={}", site.docroot.display())))
        })
        .collect()
}

fn find_privileges(config: &Config) -> Result<Privileges, Failure> {
    Privileges::find(config).map_err(|e| Failure(e.to_string()))
}

/// Runs until it is told to stop.
pub fn run(snapshot: &Snapshot, config: Config) -> Result<(), Failure> {
    let solo = process::Solo::prove().map_err(failed("at start"))?;
    let umask = process::umask(&solo);
    let docroots = open_docroots(&config)?;
    let privileges = find_privileges(&config)?;
    // The process that goes on from here is another one when it detaches.
    let daemon = Daemon::detach(&config).map_err(failed("--daemonize"))?;
    process::adopt_orphans();
    title::set("rmogstored: master, starting");
    if let Some(path) = &config.log_file {
        crate::log::to_file(path).map_err(failed(format_args!("log-file={}", path.display())))?;
    }
    let pidfile = config
        .pidfile
        .as_deref()
        .map(|path| {
            Pidfile::claim(path).map_err(failed(format_args!("pidfile={}", path.display())))
        })
        .transpose()?;
    let run = run::folder(&config, &docroots[0], privileges.identity())?;
    drop(docroots);
    raise_descriptor_limit(&config);
    let (scoreboard, memory) =
        Scoreboard::with_file().map_err(failed("the scoreboard's memory"))?;
    let image = Image::open(snapshot, memory).map_err(failed("the program for workers"))?;
    let devices: usize = config
        .sites
        .iter()
        .enumerate()
        .map(|(nr, site)| crate::health::survey(nr, &site.docroot, &scoreboard))
        .sum();
    let threads = config
        .threads
        .unwrap_or_else(|| (10 * devices.max(1)).clamp(10, 100));
    let mut listeners = Vec::new();
    for (nr, site) in config.sites.iter().enumerate() {
        for (address, serves) in &site.listeners {
            let listener = Listener::bind(address, *serves, nr)
                .map_err(failed(format_args!("cannot listen on {address}")))?;
            log::info!("listening on {serves} {}", listener.address);
            listeners.push(listener);
        }
    }
    let poll = Poll::new().map_err(failed("the master's loop"))?;
    let signals = Inbox::open().map_err(failed("signal handlers"))?;
    watch::readable(poll.registry(), signals.as_fd(), SIGNALS).map_err(failed("signals"))?;
    // Whoever started us may have blocked some.
    Mask::none().apply();
    if let Some(pidfile) = &pidfile {
        // Not before: a start that fails leaves the file as it was.
        pidfile
            .write(std::process::id())
            .map_err(failed(format_args!("pidfile={}", pidfile.path().display())))?;
    }
    let mut master = Master {
        children: Children::new(config.workers, scoreboard.clone()),
        consumers: threads.div_ceil(config.workers),
        config,
        listeners,
        scoreboard,
        image,
        poll,
        signals,
        stopping: Stopping::No,
        started: false,
        ready_since: None,
        umask,
        privileges,
        run,
        daemon,
        service: Service::from_env(),
    };
    let ended = master.mind();
    if let Some(Err(e)) = pidfile.as_ref().map(Pidfile::clear) {
        log::warn!("the pidfile names a process that has ended: {e}");
    }
    for listener in &master.listeners {
        listener.unlink();
    }
    ended
}

impl Master {
    /// The loop.
    fn mind(&mut self) -> Result<(), Failure> {
        let mut events = Events::with_capacity(64);
        loop {
            if self.stopping == Stopping::No {
                self.spawn_missing()?;
            } else if self.children.is_empty() {
                return Ok(());
            }
            match self.poll.poll(&mut events, Some(self.nap())) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => other.map_err(failed("the master's loop"))?,
            }
            for event in &events {
                match event.token() {
                    SIGNALS => {}
                    Token(nr) => self.children.listen(nr),
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
            self.children.tend_logs();
            self.service.tend();
            // At each turn, not only at SIGCHLD (signals coalesce), and after
            // they were taken: one that comes later wakes the next turn.
            self.reap()?;
            self.children.kill_silent();
            if self.stopping == Stopping::No {
                self.children.abandon_undead();
            }
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
        let look = match (self.ready_since, self.started) {
            (Some(_), false) => LED_WITHIN / 10,
            _ => LOOK,
        };
        let dues = [self.children.next_spawn(), self.service.next()];
        dues.into_iter().flatten().min().map_or(look, |due| {
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
            } else {
                log::warn!(
                    "no worker is elected: another server on this docroot looks after its devices"
                );
            }
        }
        self.started = true;
        title::set("rmogstored: master");
        let status = format!("ready with {} workers", self.config.workers);
        log::info!("{status}");
        self.service.ready(&status);
        if let Err(e) = self.daemon.ready() {
            log::error!("/dev/null: {e}");
        }
    }

    fn reap(&mut self) -> Result<(), Failure> {
        let stopping = self.stopping != Stopping::No;
        let stillborn = self
            .children
            .reap(stopping)
            .map_err(failed("waiting for workers"))?;
        if let Some(nr) = stillborn.filter(|_| !self.started && !stopping) {
            // The first start of all: the operator is still looking.
            self.tell_stop(Stopping::Fast(Instant::now()));
            return Err(Failure(format!(
                "worker {nr} could not start (its reason is above): giving up"
            )));
        }
        Ok(())
    }

    fn obey(&mut self, signal: Signal) {
        match (signal, self.stopping) {
            (Signal::Usr1, _) => self.children.reopen_logs(),
            (
                Signal::Child
                | Signal::Hup
                | Signal::Usr2
                | Signal::Winch
                | Signal::Ttin
                | Signal::Ttou,
                _,
            ) => {}
            (Signal::Quit | Signal::Term, Stopping::No) => {
                log::info!("stopping: who has begun a request is served to the end");
                self.close_the_door();
                self.tell_stop(Stopping::Graceful);
            }
            (Signal::Quit | Signal::Term, Stopping::Graceful)
            | (Signal::Int, Stopping::No | Stopping::Graceful) => {
                log::info!("stopping at once");
                self.tell_stop(Stopping::Fast(Instant::now()));
            }
            (_, Stopping::Fast(_) | Stopping::Killed(_)) => {}
        }
    }

    /// No new client comes, and none that has come is lost: the workers empty
    /// the listen queues.
    fn close_the_door(&self) {
        for listener in &self.listeners {
            match listener.address {
                Address::Unix(_) => listener.unlink(),
                Address::Inet(_) => match socket::refuse_new(listener.as_fd()) {
                    Err(e) if e.kind() != io::ErrorKind::Unsupported => {
                        log::warn!("{}: SO_ATTACH_FILTER: {e}", listener.address);
                    }
                    _ => {}
                },
            }
        }
    }

    fn tell_stop(&mut self, how: Stopping) {
        self.stopping = how;
        title::set("rmogstored: master, stopping");
        self.service.stopping(match how {
            Stopping::Graceful => "stopping: who has begun a request is served to the end",
            _ => "stopping at once",
        });
        self.children.tell(match how {
            Stopping::Graceful => crate::channel::Message::Quit { last: true },
            _ => crate::channel::Message::Fast,
        });
    }

    /// Who does not obey is killed; true when that did not help either.
    fn press_on(&mut self) -> bool {
        match self.stopping {
            Stopping::Fast(since) if since.elapsed() >= KILL_AFTER => {
                self.children.kill_all();
                self.stopping = Stopping::Killed(since);
                false
            }
            Stopping::Killed(since) => since.elapsed() >= GIVE_UP_AFTER,
            _ => false,
        }
    }

    fn spawn_missing(&mut self) -> Result<(), Failure> {
        while let Some(nr) = self.children.due() {
            match self.children.spawn(nr, &self.poll) {
                Ok(None) => {}
                Ok(Some(heir)) => self.become_worker(nr, heir),
                // The first start of all: the operator is still looking.
                Err(e) if !self.started => {
                    self.tell_stop(Stopping::Fast(Instant::now()));
                    return Err(Failure(format!(
                        "worker {nr} could not be forked: {e}: giving up"
                    )));
                }
                Err(e) => {
                    log::error!("worker {nr} could not be forked: {e}");
                    self.children.postpone(nr);
                }
            }
        }
        Ok(())
    }
}

/// Two descriptors a connection, and some for the worker itself; root raises
/// the hard limit too. What is missing then, the worker says: it takes fewer
/// connections.
fn raise_descriptor_limit(config: &Config) {
    const OWN: u64 = 128;
    let share = config.max_connections.div_ceil(config.workers) as u64;
    let wanted = 2 * share + OWN;
    let Ok((soft, hard)) = process::descriptor_limits() else {
        return;
    };
    if soft < wanted && process::set_descriptor_limits(wanted, hard.max(wanted)).is_err() {
        // Not root: as far as the hard limit goes.
        let _ = process::set_descriptor_limits(wanted.min(hard), hard);
    }
}
