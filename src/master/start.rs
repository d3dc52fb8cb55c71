//! From a configuration to a master that serves.

use super::daemon::Daemon;
use super::reload::Reload;
use super::service::Service;
use super::stop::Stopping;
use super::take_over::Upgrade;
use super::upgrade::predecessor::Predecessor;
use super::upgrade::program::Program;
use super::upgrade::{VARIABLE, Word};
use super::{ASKERS, CONTROL, Children, Failure, Master, PREDECESSOR, SIGNALS, failed};
use crate::config::{Config, Site, Snapshot};
use crate::control::Office;
use crate::listener::{Inherited, Listener, Origin};
use crate::pidfile::Pidfile;
use crate::run::{self, Owner};
use crate::scoreboard::Scoreboard;
use crate::sys::inherit::take_variable;
use crate::sys::process::{self, Solo};
use crate::sys::signal::{Inbox, Mask};
use crate::sys::{memory, title, watch};
use crate::worker::image::Image;
use crate::worker::privileges::Privileges;
use mio::Poll;
use std::io;
use std::time::Instant;

/// What a start would find out before it serves, without serving: the line that
/// says that all is well.
pub fn check(config: &Config) -> Result<String, Failure> {
    open_docroots(&config.sites)?;
    find_privileges(config)?;
    let listeners: usize = config.sites.iter().map(|site| site.listeners.len()).sum();
    let sites = config.sites.len();
    Ok(format!(
        "configuration is fine: {sites} site(s), {listeners} listener(s)"
    ))
}

/// For the errors alone: each worker opens its own.
pub(super) fn open_docroots<'a>(sites: impl IntoIterator<Item = &'a Site>) -> Result<(), Failure> {
    for site in sites {
        crate::sys::file::open_root(&site.docroot)
            .map_err(failed(format_args!("docroot={}", site.docroot.display())))?;
    }
    Ok(())
}

pub(super) fn find_privileges(config: &Config) -> Result<Privileges, Failure> {
    Privileges::find(config).map_err(|e| Failure(e.to_string()))
}

/// There will be no master, for this reason: whoever has executed us as its
/// successor is told.
pub fn give_up(why: &str) {
    if let Ok(Some(predecessor)) = predecessor() {
        predecessor.say(&Word::Failed(why.to_owned()));
    }
}

fn predecessor() -> io::Result<Option<Predecessor>> {
    let solo = Solo::prove()?;
    let variable = take_variable(&solo, VARIABLE);
    variable
        .map(|text| Predecessor::speaking(&text.to_string_lossy()))
        .transpose()
}

/// Runs until it is told to stop.
pub fn run(snapshot: Snapshot, config: Config) -> Result<(), Failure> {
    let mut predecessor = predecessor().map_err(failed("the upgrade"))?;
    match Master::start(snapshot, config, &mut predecessor) {
        Ok(mut master) => {
            master.predecessor = predecessor;
            master.note_shared();
            if master.is_in_charge {
                master.set_listeners();
            }
            // Each worker would have its own copy of what the start has left.
            memory::trim_heap();
            let ended = master.mind();
            master.leave(ended)
        }
        Err(failure) => {
            if let Some(predecessor) = predecessor {
                predecessor.say(&Word::Failed(failure.to_string()));
            }
            Err(failure)
        }
    }
}

impl Master {
    fn start(
        snapshot: Snapshot,
        config: Config,
        predecessor: &mut Option<Predecessor>,
    ) -> Result<Master, Failure> {
        let solo = Solo::prove().map_err(failed("at start"))?;
        let umask = process::umask(&solo);
        let program = Program::ours(snapshot.argv().to_vec());
        // LISTEN_PID names the process that was started, not one that it forks.
        let inherited = Inherited::from_env(&solo).map_err(Failure)?;
        open_docroots(&config.sites)?;
        let privileges = find_privileges(&config)?;
        // The process that goes on from here is another one when it detaches.
        // A successor of one that has detached is detached.
        let is_legacy = inherited.predecessor() == Some(Origin::Cmogstored);
        if is_legacy {
            // One of ours that comes from our own, through another daemon, may
            // have what was said to that.
            *predecessor = Some(Predecessor::silent());
        }
        let is_successor = predecessor.is_some();
        let daemon = Daemon::detach(&config, is_successor).map_err(failed("--daemonize"))?;
        // Before anything is there that a signal could leave behind.
        let signals = Inbox::open().map_err(failed("signal handlers"))?;
        process::adopt_orphans();
        title::set("rmogstored: master, starting");
        if let Some(path) = &config.log_file {
            crate::log::to_file(path)
                .map_err(failed(format_args!("log-file={}", path.display())))?;
        }
        let pidfile = claim(&config, predecessor)?;
        let owner = privileges.identity().map(|one| Owner {
            user: one.user,
            group: one.group,
        });
        let run = run::folder(&config, owner).map_err(|e| Failure(e.to_string()))?;
        raise_descriptor_limit(&config);
        let (scoreboard, memory) =
            Scoreboard::with_file().map_err(failed("the scoreboard's memory"))?;
        let image = Image::open(&snapshot, memory).map_err(failed("the program for workers"))?;
        let devices = survey(&config, &scoreboard);
        let threads = threads(&config, devices);
        let listeners = inherited
            .open(&config.places(), config.listen_exclusive)
            .map_err(|refused| Failure(refused.to_string()))?;
        for listener in &listeners {
            log::info!("listening on {} {}", listener.serves, listener.address);
        }
        let poll = Poll::new().map_err(failed("the master's loop"))?;
        let registry = poll.registry();
        watch::readable(registry, signals.as_fd(), SIGNALS).map_err(failed("signals"))?;
        let office = Office::open(&run, std::process::id(), registry, CONTROL, ASKERS).map_err(
            failed(format_args!("the control socket in {}", run.display())),
        )?;
        // Whoever started us may have blocked some.
        Mask::none().apply();
        match predecessor {
            Some(predecessor) => {
                if let Some(link) = predecessor.as_fd() {
                    watch::readable(registry, link, PREDECESSOR).map_err(failed("the upgrade"))?;
                }
                predecessor.say(&Word::Bound);
            }
            None => {
                if let Some(pidfile) = &pidfile {
                    // Not before: a start that fails leaves the file as it was.
                    pidfile
                        .write(std::process::id())
                        .map_err(failed(format_args!("pidfile={}", pidfile.path().display())))?;
                }
            }
        }
        Ok(Master {
            children: Children::new(config.workers, &config.supervision, scoreboard.clone()),
            consumers: threads.div_ceil(config.workers),
            devices,
            workers: config.workers,
            is_in_charge: predecessor.is_none(),
            upgrade: Upgrade::new(program),
            config,
            snapshot,
            listeners,
            scoreboard,
            image,
            poll,
            signals,
            office,
            service: Service::from_env(),
            stopping: Stopping::No,
            undead: 0,
            failure: None,
            is_retired: false,
            started: false,
            ready_since: None,
            since: Instant::now(),
            umask,
            privileges,
            log_askers: Vec::new(),
            run,
            pidfile,
            daemon,
            reload: Reload::default(),
            predecessor: None,
        })
    }

    /// The end of the master.
    fn leave(mut self, ended: Result<(), Failure>) -> Result<(), Failure> {
        if let (Err(failure), Some(predecessor)) = (&ended, &self.predecessor) {
            predecessor.say(&Word::Failed(failure.to_string()));
        }
        let is_last = self.is_last_to_leave();
        // Whom else the pidfile names, or will, says so itself.
        if let Some(pidfile) = self.pidfile.as_ref().filter(|_| is_last)
            && let Err(e) = pidfile.clear()
        {
            log::warn!("the pidfile names a process that has ended: {e}");
        }
        if is_last {
            self.listeners.iter().for_each(Listener::unlink);
        }
        self.leave_upgrade();
        self.office.remove();
        ended
    }
}

/// The claim of the pidfile: the predecessor's, if it is the same file, or our
/// own. Its content stays as it is.
fn claim(
    config: &Config,
    predecessor: &mut Option<Predecessor>,
) -> Result<Option<Pidfile>, Failure> {
    let Some(path) = config.pidfile.as_deref() else {
        return Ok(None);
    };
    let inherited = predecessor.as_mut().and_then(Predecessor::take_pidfile);
    let claimed = match inherited {
        Some(fd) => Pidfile::inherit(fd, path),
        None => Pidfile::claim(path),
    };
    claimed
        .map(Some)
        .map_err(failed(format_args!("pidfile={}", path.display())))
}

/// Finds the devices of all sites, and places them on the scoreboard; their
/// number.
pub(super) fn survey(config: &Config, scoreboard: &Scoreboard) -> usize {
    let sites = config.sites.iter().enumerate();
    sites
        .map(|(nr, site)| crate::health::survey(nr, &site.docroot, scoreboard))
        .sum()
}

/// Consumers of all workers together.
pub(super) fn threads(config: &Config, devices: usize) -> usize {
    let default = (10 * devices.max(1)).clamp(10, 100);
    config.threads.unwrap_or(default)
}

/// Two descriptors a connection, and some for the worker itself; root raises
/// the hard limit too. What is missing then, the worker says: it takes fewer
/// connections.
pub(super) fn raise_descriptor_limit(config: &Config) {
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
