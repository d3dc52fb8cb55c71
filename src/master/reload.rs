//! HUP: the options and files are read again. Everything is found out before
//! anything changes; then one new worker at a time is started, and relieves an
//! old one when it is ready. The first that fails ends it, and what was is
//! restored.

use super::start::{open_docroots, raise_descriptor_limit, survey, threads};
use super::{Failure, Master};
use crate::config::{Config, Site, Snapshot};
use crate::control::Asker;
use crate::listener::{Binding, Change, Listener};
use crate::worker::privileges::Privileges;
use std::path::PathBuf;
use std::time::Instant;

/// See the module.
#[derive(Default)]
pub(super) struct Reload {
    phase: Phase,
    /// Generations after the first, so far.
    generations: u64,
    last: Option<(Instant, Result<String, String>)>,
    askers: Vec<Asker>,
    /// Another one was asked for meanwhile, perhaps by these: files may have
    /// changed since this one has read them.
    is_wanted_again: bool,
    later_askers: Vec<Asker>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    /// An address is in use, perhaps not for long.
    Binding {
        change: Change,
        again: Instant,
        wanted: Box<Wanted>,
    },
    Renewing {
        generation: u64,
        /// What to go back to.
        before: Box<Before>,
        /// Listeners that are not in the new configuration.
        gone: Vec<Listener>,
        is_door_closed: bool,
    },
}

struct Wanted {
    config: Config,
    snapshot: Snapshot,
    privileges: Privileges,
}

struct Before {
    config: Config,
    snapshot: Snapshot,
    privileges: Privileges,
    listeners: Vec<Listener>,
    generation: u64,
    workers: usize,
    consumers: usize,
    devices: usize,
}

impl Reload {
    pub(super) fn is_running(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }

    /// Whether workers of this generation are being started for one.
    pub(super) fn is_under_way(&self, of: u64) -> bool {
        matches!(self.phase, Phase::Renewing { generation, .. } if generation == of)
    }

    /// How the last one ended, and when.
    pub(super) fn last(&self) -> Option<&(Instant, Result<String, String>)> {
        self.last.as_ref()
    }
}

impl Master {
    /// HUP, or the control socket's word.
    pub(super) fn reload(&mut self, asker: Option<Asker>) {
        if self.reload.is_running() {
            self.reload.is_wanted_again = true;
            self.reload.later_askers.extend(asker);
            return;
        }
        self.reload.askers.extend(asker);
        // As unicorn and nginx do. There may be no log file.
        if self.config.log_file.is_some() {
            self.reopen_logs(None);
        }
        if self.upgrade.has_successor() {
            // What nginx makes of it: the old one's workers come back.
            if self.is_retired {
                self.come_back();
                self.end_reload(Ok("the workers come back".to_owned()));
            } else {
                self.refuse_reload("an upgrade is under way".to_owned());
            }
            return;
        }
        self.service.reloading();
        match self.read_anew() {
            Ok(Some(wanted)) => {
                let change = Change::plan(&self.listeners, wanted.config.places());
                self.bind_anew(change, Box::new(wanted));
            }
            Ok(None) => {
                log::info!("reload: nothing has changed");
                self.end_reload(Ok("nothing has changed".to_owned()));
            }
            Err(why) => self.refuse_reload(why),
        }
        self.come_back();
    }

    /// Who has asked for another one meanwhile is told why there will be none.
    pub(super) fn refuse_later_reload(&mut self, why: &str) {
        self.reload.is_wanted_again = false;
        let askers = self.reload.later_askers.drain(..);
        self.office.done_all(askers, &Err(why.to_owned()));
    }

    fn refuse_reload(&mut self, why: String) {
        log::error!("reload failed: {why}; the old configuration serves on");
        self.end_reload(Err(why));
    }

    fn end_reload(&mut self, outcome: Result<String, String>) {
        self.office.done_all(self.reload.askers.drain(..), &outcome);
        self.reload.last = Some((Instant::now(), outcome));
        if self.started {
            let status = format!("{} workers", self.children.wanted());
            self.service.ready(&status);
        }
        if std::mem::take(&mut self.reload.is_wanted_again) {
            self.reload.askers = std::mem::take(&mut self.reload.later_askers);
            self.reload(None);
        }
    }

    /// What the options and files say now, if that can be done. None: what they
    /// said before.
    fn read_anew(&mut self) -> Result<Option<Wanted>, String> {
        let argv = self.snapshot.argv().to_vec();
        let snapshot = Snapshot::read(argv.into_iter(), |name| std::env::var_os(name))
            .map_err(|end| end.text())?;
        let mut config = snapshot.config().map_err(|end| end.text())?;
        keep_what_stays(&self.config, &mut config);
        if config == self.config {
            return Ok(None);
        }
        // Those that are served already may hang now.
        let is_new = |site: &&Site| self.docroots().all(|old| *old != site.docroot);
        open_docroots(config.sites.iter().filter(is_new))
            .map_err(|failure: Failure| failure.to_string())?;
        let privileges = self.privileges.renewed(&config);
        Ok(Some(Wanted {
            config,
            snapshot,
            privileges,
        }))
    }

    fn docroots(&self) -> impl Iterator<Item = &PathBuf> {
        self.config.sites.iter().map(|site| &site.docroot)
    }

    /// All listeners, or none.
    fn bind_anew(&mut self, change: Change, wanted: Box<Wanted>) {
        match change.bind() {
            Binding::Ready(ready) => {
                let before: Result<Vec<Listener>, _> =
                    self.listeners.iter().map(Listener::duplicate).collect();
                match before {
                    Ok(before) => {
                        let now = std::mem::take(&mut self.listeners);
                        let (now, gone) = ready.apply(now);
                        self.listeners = now;
                        self.renew(*wanted, before, gone);
                    }
                    Err(e) => self.refuse_reload(format!("the listeners: {e}")),
                }
            }
            Binding::Busy {
                change,
                again,
                refused,
            } => {
                log::warn!("reload: {refused}; trying again");
                self.reload.phase = Phase::Binding {
                    change,
                    again,
                    wanted,
                };
            }
            Binding::Refused(refused) => self.refuse_reload(refused.to_string()),
        }
    }

    /// Nothing is in its way any more: workers are renewed one by one.
    fn renew(&mut self, wanted: Wanted, listeners: Vec<Listener>, gone: Vec<Listener>) {
        let Wanted {
            config,
            snapshot,
            privileges,
        } = wanted;
        raise_descriptor_limit(&config);
        let is_same = self
            .docroots()
            .eq(config.sites.iter().map(|site| &site.docroot));
        let devices = match is_same {
            true => self.devices,
            false => survey(&config, &self.scoreboard),
        };
        let threads = threads(&config, devices);
        self.reload.generations += 1;
        let generation = self.reload.generations + 1;
        let before = Before {
            generation: self.children.generation(),
            workers: self.workers,
            consumers: self.consumers,
            devices: std::mem::replace(&mut self.devices, devices),
            listeners,
            snapshot: std::mem::replace(&mut self.snapshot, snapshot),
            privileges: std::mem::replace(&mut self.privileges, privileges),
            config: std::mem::replace(&mut self.config, config),
        };
        self.renew_image();
        self.set_listeners();
        self.workers = self.config.workers;
        self.consumers = threads.div_ceil(self.workers);
        self.is_retired = false;
        self.children
            .renew(generation, self.workers, &self.config.supervision);
        log::info!("reload: generation {generation} begins");
        self.reload.phase = Phase::Renewing {
            generation,
            before: Box::new(before),
            gone,
            is_door_closed: false,
        };
    }

    /// Workers that are executed find the configuration that there is now.
    fn renew_image(&mut self) {
        if let Err(e) = self.image.renew(&self.snapshot) {
            log::error!("--exec-workers: workers get the old configuration: {e}");
        }
    }

    /// When an address shall be tried again.
    pub(super) fn next_binding(&self) -> Option<Instant> {
        match &self.reload.phase {
            Phase::Binding { again, .. } => Some(*again),
            _ => None,
        }
    }

    /// Sees how far it is.
    pub(super) fn tend_reload(&mut self) {
        match std::mem::take(&mut self.reload.phase) {
            Phase::Binding {
                change,
                again,
                wanted,
            } if again <= Instant::now() => self.bind_anew(change, wanted),
            Phase::Renewing {
                generation,
                before,
                gone,
                is_door_closed,
            } if self.children.are_all_ready() => {
                if self.children.outdated() == 0 {
                    log::info!("reload: generation {generation} serves");
                    self.end_reload(Ok(format!("generation {generation} serves")));
                    return;
                }
                // Nothing can fail any more that would bring these back, and the
                // last old worker still accepts who is in their queues. But where
                // another server has them too, who comes now is that one's.
                if !is_door_closed && !self.is_shared() {
                    gone.iter().for_each(Listener::close_door);
                }
                self.reload.phase = Phase::Renewing {
                    generation,
                    before,
                    gone,
                    is_door_closed: true,
                };
            }
            other => self.reload.phase = other,
        }
    }

    /// What was is restored.
    pub(super) fn fail_reload(&mut self, why: String) {
        match std::mem::take(&mut self.reload.phase) {
            Phase::Idle => return,
            Phase::Binding { .. } => {}
            Phase::Renewing {
                generation, before, ..
            } => {
                let is_new = |one: &&Listener| {
                    let mut old = before.listeners.iter();
                    !old.any(|old| old.address == one.address)
                };
                let new = self.listeners.iter().filter(is_new);
                new.for_each(Listener::unlink);
                self.listeners = before.listeners;
                self.config = before.config;
                self.set_listeners();
                self.snapshot = before.snapshot;
                self.renew_image();
                self.privileges = before.privileges;
                self.workers = before.workers;
                self.consumers = before.consumers;
                self.devices = before.devices;
                self.children
                    .renew(before.generation, before.workers, &self.config.supervision);
                self.children.dismiss_unready(generation);
            }
        }
        self.refuse_reload(why);
    }
}

/// These are decided at start: a reload says so, and leaves them.
fn keep_what_stays(old: &Config, new: &mut Config) {
    let mut kept = Vec::new();
    if old.pidfile != new.pidfile {
        kept.push("pidfile");
        new.pidfile.clone_from(&old.pidfile);
    }
    if old.daemonize != new.daemonize {
        kept.push("daemonize");
        new.daemonize = old.daemonize;
    }
    if old.log_file != new.log_file {
        kept.push("log-file");
        new.log_file.clone_from(&old.log_file);
    }
    // Whose run folder it is was decided, too.
    if (&old.user, &old.group) != (&new.user, &new.group) {
        kept.push("user or group");
        new.user.clone_from(&old.user);
        new.group.clone_from(&old.group);
    }
    for key in kept {
        log::warn!("reload: {key} has changed: only an upgrade or a restart takes that over");
    }
}
