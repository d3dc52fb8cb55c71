//! The elected worker's rounds: what is due is ordered from the hands, what they
//! bring is published, and who does not come back is dead.

use super::hand::{Bell, Hand};
use super::iostat::command::Runner;
use super::iostat::{Mounts, Sampler};
use super::survey::{self, device_id};
use super::{probe, usage};
use crate::config::{self, Utilization};
use crate::scoreboard::{Device, Name, Scoreboard};
use crate::sys::mount::Mount;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A round, unless a hand rings before.
pub(super) const ROUND: Duration = Duration::from_millis(100);

/// The first round is over after this, whoever has not come back.
const FIRST: Duration = Duration::from_secs(2);

/// Refreshes that `watch` asks for come at most so often.
const REFRESH: Duration = Duration::from_secs(1);

/// What a device's hand does.
enum Job {
    /// Finds its mount, and writes its usage file if it shall have one.
    Usage,
    Probe,
}

/// What came of it.
enum Done {
    Usage(io::Result<Mount>),
    Probe(io::Result<()>),
}

/// A device and its hand.
struct Tended {
    site: usize,
    name: Name,
    hand: Hand<Job, Done>,
    mount: Option<Mount>,
    /// Its usage file is written, or cannot be.
    is_used: bool,
    /// What the last probe said, for a log line.
    why: String,
    /// How often it was suspected when it was last probed.
    suspected: u64,
    /// An error of its usage file that was told.
    complaint: Option<String>,
}

/// See the module.
pub(super) struct Rounds {
    sites: Vec<config::Site>,
    knobs: config::Health,
    board: Scoreboard,
    umask: u32,
    bell: Arc<Bell>,
    began: Instant,
    first_is_over: bool,
    due: Instant,
    refreshed: Instant,
    refreshes: u64,
    /// Looks at the docroots: their names of devices.
    scout: Option<Hand<(), Vec<io::Result<Vec<Name>>>>>,
    /// By line of the scoreboard. They stay when the lease goes: a hand that
    /// hangs is not doubled.
    tended: HashMap<usize, Tended>,
    sampler: Sampler,
    runner: Option<Runner>,
    complained: bool,
}

impl Rounds {
    pub(super) fn new(
        sites: Vec<config::Site>,
        knobs: config::Health,
        board: Scoreboard,
        umask: u32,
        bell: Arc<Bell>,
    ) -> Rounds {
        let now = Instant::now();
        Rounds {
            sites,
            knobs,
            refreshes: 0,
            board,
            umask,
            bell,
            began: now,
            first_is_over: false,
            due: now,
            refreshed: now,
            scout: None,
            tended: HashMap::new(),
            sampler: Sampler::default(),
            runner: None,
            complained: false,
        }
    }

    /// The lease has come.
    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
        self.first_is_over = false;
        self.due = self.began;
        self.refreshes = self.board.refreshes_wanted();
        self.sampler = Sampler::default();
        for tended in self.tended.values_mut() {
            tended.is_used = false;
        }
        match &self.knobs.utilization {
            Utilization::Off => self.board.set_utilization(false),
            Utilization::Kernel => {}
            Utilization::Command(command) => match Runner::start(command, &self.board) {
                Ok(runner) => self.runner = Some(runner),
                Err(e) => {
                    log::error!("MOG_IOSTAT_CMD: {e}: no utilization");
                    self.board.set_utilization(false);
                }
            },
        }
        // The devices that are known go first; the scout may find others.
        self.tend();
    }

    /// The lease goes.
    pub(super) fn end(&mut self) {
        self.runner = None;
    }

    /// One round; returns whether the first look at all devices is over.
    pub(super) fn round(&mut self) -> bool {
        let now = Instant::now();
        let refreshes = self.board.refreshes_wanted();
        let is_wanted = refreshes != self.refreshes && now >= self.refreshed + REFRESH;
        if now >= self.due || is_wanted {
            self.refreshes = refreshes;
            self.refreshed = now;
            self.due = now + self.knobs.usage_interval;
            self.send_scout();
            for tended in self.tended.values() {
                if tended.hand.is_idle() {
                    tended.hand.order(Job::Usage);
                }
            }
        }
        self.hear_scout();
        let rows: Vec<usize> = self.tended.keys().copied().collect();
        for row in rows {
            self.look_after(row);
        }
        self.sample();
        self.first_is_over |=
            self.began.elapsed() >= FIRST || self.tended.values().all(|tended| tended.is_used);
        self.first_is_over
    }

    fn send_scout(&mut self) {
        if self.scout.is_none() {
            let docroots: Vec<PathBuf> = self.sites.iter().map(|s| s.docroot.clone()).collect();
            let look = move |()| docroots.iter().map(|root| survey::names(root)).collect();
            match Hand::start("scout", &self.bell, look) {
                Ok(scout) => self.scout = Some(scout),
                Err(e) => self.complain("new devices are not seen", &e),
            }
        }
        if let Some(scout) = self.scout.as_ref().filter(|scout| scout.is_idle()) {
            scout.order(());
        }
    }

    fn hear_scout(&mut self) {
        let Some(found) = self.scout.as_ref().and_then(Hand::result) else {
            return;
        };
        for (site, names) in found.into_iter().enumerate() {
            match names {
                Ok(names) => {
                    survey::place(site, &names, &self.board);
                    self.forget_all_but(site, &names);
                }
                Err(e) => {
                    let docroot = self.sites[site].docroot.display().to_string();
                    self.complain(&format!("docroot {docroot} cannot be listed"), &e);
                }
            }
        }
        self.tend();
    }

    /// Devices that have gone from a docroot.
    fn forget_all_but(&mut self, site: usize, names: &[Name]) {
        let gone: Vec<usize> = self
            .board
            .rows()
            .filter_map(|(nr, row)| {
                let (of, name) = row.device()?;
                (of == site && !names.contains(&name)).then_some(nr)
            })
            .collect();
        for nr in gone {
            self.board.free(nr);
            self.tended.remove(&nr);
        }
    }

    /// A hand for each device that has none.
    fn tend(&mut self) {
        let rows: Vec<(usize, usize, Name)> = self
            .board
            .rows()
            .filter_map(|(nr, row)| row.device().map(|(site, name)| (nr, site, name)))
            .collect();
        for (nr, site, name) in rows {
            let is_known = |tended: &Tended| (tended.site, tended.name) == (site, name);
            if self.tended.get(&nr).is_some_and(is_known) {
                continue;
            }
            match self.hire(site, name) {
                Ok(hand) => {
                    hand.order(Job::Usage);
                    self.tended.insert(
                        nr,
                        Tended {
                            site,
                            name,
                            hand,
                            mount: None,
                            is_used: false,
                            why: String::new(),
                            suspected: self.board.row(nr).suspected(),
                            complaint: None,
                        },
                    );
                }
                Err(e) => self.complain(&format!("device {name} is not looked after"), &e),
            }
        }
    }

    fn hire(&self, site: usize, name: Name) -> io::Result<Hand<Job, Done>> {
        use std::os::unix::ffi::OsStrExt;
        let config = &self.sites[site];
        let file_name = std::ffi::OsStr::from_bytes(&name).to_owned();
        let docroot = config.docroot.clone();
        let device = docroot.join(&file_name);
        let has_usage = config.has_mgmt() && device_id(&name).is_some();
        let umask = self.umask;
        Hand::start(&format!("dev:{name}"), &self.bell, move |job| match job {
            Job::Usage => Done::Usage(usage::mount_of(&device).and_then(|mount| {
                if has_usage {
                    let shown = std::fs::canonicalize(&docroot)?.join(&file_name);
                    usage::write(&device, &shown, &mount, umask)?;
                }
                Ok(mount)
            })),
            Job::Probe => Done::Probe(probe::probe(&device)),
        })
    }

    /// What its hand brought, what it shall do, and whether it hangs.
    fn look_after(&mut self, nr: usize) {
        let Some(tended) = self.tended.get_mut(&nr) else {
            return;
        };
        let row = self.board.row(nr);
        let was = row.state();
        let is_probed = self.sites[tended.site].is_written();
        match tended.hand.result() {
            Some(Done::Usage(result)) => {
                tended.is_used = true;
                tended.note_usage(result);
                if is_probed {
                    tended.suspected = row.suspected();
                    tended.hand.order(Job::Probe);
                } else if was == Device::Dead {
                    // It came back, and is asked nothing more.
                    row.set_state(Device::Good);
                    tended.report(was, Device::Good);
                }
            }
            Some(Done::Probe(result)) => {
                let now = probe::judge(&result);
                if let Err(e) = &result {
                    tended.why = e.to_string();
                }
                row.set_state(now);
                tended.report(was, now);
            }
            None => {}
        }
        let timeout = self.knobs.probe_timeout;
        match tended.hand.busy_for() {
            Some(busy) if busy >= timeout && was != Device::Dead => {
                tended.why = format!("its probe has not come back for {timeout:?}");
                tended.is_used = true;
                row.set_state(Device::Dead);
                tended.report(was, Device::Dead);
            }
            None if row.suspected() != tended.suspected && tended.hand.is_idle() => {
                tended.suspected = row.suspected();
                // Usage first: it finds out as much, and the probe follows.
                tended.hand.order(Job::Usage);
            }
            _ => {}
        }
    }

    fn sample(&mut self) {
        let mounts: Mounts = self
            .tended
            .iter()
            .filter_map(|(nr, tended)| Some((*nr, tended.mount.clone()?)))
            .collect();
        match &self.knobs.utilization {
            Utilization::Off => {}
            Utilization::Command(_) => {
                if let Some(runner) = &self.runner {
                    runner.know(&mounts);
                }
            }
            Utilization::Kernel => {
                if let Err(e) = self.sampler.sample(&self.board, &mounts) {
                    self.board.set_utilization(false);
                    self.complain("no utilization", &e);
                }
            }
        }
    }

    /// Once for each time that this worker leads: the next round finds the same.
    fn complain(&mut self, what: &str, e: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            log::error!("{what}: {e}");
        }
    }
}

impl Tended {
    fn note_usage(&mut self, result: io::Result<Mount>) {
        match result {
            Ok(mount) => {
                self.mount = Some(mount);
                self.complaint = None;
            }
            Err(e) => {
                let complaint = e.to_string();
                if self.complaint.as_ref() != Some(&complaint) {
                    log::warn!("device {}: no usage file: {complaint}", self.name);
                    self.complaint = Some(complaint);
                }
            }
        }
    }

    /// Says what has changed, and what follows from it.
    fn report(&self, was: Device, now: Device) {
        if was == now || (was == Device::Unknown && now == Device::Good) {
            return;
        }
        let source = self.mount.as_ref().map_or_else(
            || "not seen mounted".to_owned(),
            |mount| mount.source.display().to_string(),
        );
        let name = format!("device {} ({source})", self.name);
        let why = &self.why;
        match now {
            Device::Good => log::info!("{name} is well again"),
            Device::Unknown => log::warn!("{name} is not there: {why}"),
            Device::ReadOnly => log::warn!("{name} cannot be written to: {why}; it is read from"),
            Device::Full => log::warn!("{name} is full: {why}; it is read from"),
            Device::Failing => log::error!(
                "{name} fails: {why}; its requests fail as they meet that: see the kernel's log"
            ),
            Device::Dead => log::error!(
                "{name} hangs: {why}; its requests are answered 503 at once until it comes back"
            ),
        }
    }
}
