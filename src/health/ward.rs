//! The devices in the elected worker's care: each has a thread, of which it is
//! known since when it has been inside of its disk. It is started when it is
//! first needed and never doubled: one that is stuck in a dead disk is left
//! alone, and when it comes back the device is probed again.

use super::mounts::Seat;
use super::probe::{self, Finding, Id, Order};
use super::rounds::News;
use super::survey::Found;
use crate::config::Site;
use crate::scoreboard::{Device, Scoreboard, device_id};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// A device that workers suspect is probed at most so often.
const SUSPECTED_AGAIN: Duration = Duration::from_secs(1);

/// See the module.
pub struct Ward {
    devices: HashMap<Id, Patient>,
    sites: Vec<Site>,
    board: Scoreboard,
    umask: u32,
    /// A device whose thread is away for longer is dead.
    timeout: Duration,
    tell: Sender<News>,
}

struct Patient {
    /// Its line on the scoreboard.
    row: usize,
    path: PathBuf,
    seat: Option<Seat>,
    /// Its thread.
    orders: Option<Sender<Order>>,
    /// The thread has been at work since.
    busy: Option<Instant>,
    /// It was wanted again meanwhile.
    again: bool,
    /// It has left the docroot; its thread has not left it.
    gone: bool,
    checked: Option<Instant>,
    suspected: u64,
    /// What was said last about its usage file.
    complaint: Option<String>,
    /// Its usage file was written by this leader, or could not be.
    seen: bool,
}

impl Patient {
    fn name(&self) -> String {
        let path = self.path.display();
        match &self.seat {
            Some(seat) => format!("device {path} ({})", seat.source.display()),
            None => format!("device {path}"),
        }
    }
}

impl Ward {
    pub fn new(
        sites: Vec<Site>,
        board: Scoreboard,
        umask: u32,
        timeout: Duration,
        tell: Sender<News>,
    ) -> Ward {
        Ward {
            devices: HashMap::new(),
            sites,
            board,
            umask,
            timeout,
            tell,
        }
    }

    /// This worker is elected, perhaps not for the first time.
    pub fn begin(&mut self) {
        for patient in self.devices.values_mut() {
            patient.seen = false;
        }
    }

    /// These are the site's devices now. Each is looked at.
    pub fn admit(&mut self, site: usize, found: Vec<Found>) {
        let mut left_out = 0;
        let mut there = HashSet::new();
        for Found { name, path, seat } in found {
            let Some(row) = self.board.place(site, &name) else {
                left_out += 1;
                continue;
            };
            there.insert(row);
            match self.devices.entry((site, name)) {
                Entry::Occupied(mut known) => {
                    let patient = known.get_mut();
                    (patient.row, patient.path, patient.seat) = (row, path, seat);
                    patient.gone = false;
                }
                Entry::Vacant(new) => {
                    new.insert(Patient {
                        row,
                        path,
                        seat,
                        orders: None,
                        busy: None,
                        again: false,
                        gone: false,
                        checked: None,
                        suspected: self.board.row(row).suspected(),
                        complaint: None,
                        seen: false,
                    });
                }
            }
            self.check((site, name));
        }
        if left_out > 0 {
            log::error!("the scoreboard is full: {left_out} devices are not looked after");
        }
        for (row, line) in self.board.rows() {
            if line.device().is_some_and(|(of, _)| of == site) && !there.contains(&row) {
                self.board.free(row);
            }
        }
        self.devices.retain(|(of, _), patient| {
            patient.gone |= *of == site && !there.contains(&patient.row);
            !patient.gone || patient.busy.is_some()
        });
    }

    /// All devices of a site, as they are known, are looked at.
    pub fn check_all(&mut self, site: usize) {
        let ids: Vec<Id> = self.devices.keys().copied().collect();
        for id in ids.into_iter().filter(|(of, _)| *of == site) {
            self.check(id);
        }
    }

    /// Sends a device's thread to it.
    fn check(&mut self, id: Id) {
        let Some(patient) = self.devices.get_mut(&id).filter(|patient| !patient.gone) else {
            return;
        };
        if patient.busy.is_some() {
            patient.again = true;
            return;
        }
        let site = &self.sites[id.0];
        let usage = site.has_mgmt() && device_id(&id.1).is_some();
        let order = Order {
            device: id,
            path: patient.path.clone(),
            usage: usage.then(|| patient.seat.as_ref().map(|seat| seat.source.clone())),
            // Where a filesystem check puts what it found, nothing else belongs.
            writes: site.is_written() && &*id.1 != b"lost+found",
            umask: self.umask,
        };
        patient.seen |= !usage;
        if patient.orders.is_none() {
            match probe::start(id, &self.tell) {
                Ok(orders) => patient.orders = Some(orders),
                // The next round tries again.
                Err(e) => log::error!("{}: not probed: pthread_create: {e}", patient.name()),
            }
        }
        let now = Instant::now();
        patient.checked = Some(now);
        if let Some(orders) = &patient.orders {
            // The thread lives as long as we can speak to it.
            let _ = orders.send(order);
            (patient.busy, patient.again) = (Some(now), false);
        }
    }

    /// A device's thread says something.
    pub fn hear(&mut self, id: Id, finding: Finding) {
        let Some(patient) = self.devices.get_mut(&id) else {
            return;
        };
        match finding {
            Finding::Usage(written) => {
                patient.seen = true;
                let complaint = written.err();
                if complaint != patient.complaint && !patient.gone {
                    match &complaint {
                        Some(why) => log::error!(
                            "{}: its usage file is not written: {why}; trackers see old numbers",
                            patient.name()
                        ),
                        None => log::info!("{}: its usage file is written", patient.name()),
                    }
                }
                patient.complaint = complaint;
            }
            Finding::Probe(probe) => {
                let late = patient
                    .busy
                    .take()
                    .is_some_and(|s| s.elapsed() >= self.timeout);
                if patient.gone {
                    self.devices.remove(&id);
                } else if late || patient.again {
                    // What took so long says nothing about now.
                    if !late {
                        self.conclude(id, &probe);
                    }
                    self.check(id);
                } else {
                    self.conclude(id, &probe);
                }
            }
        }
    }

    fn conclude(&mut self, id: Id, probe: &io::Result<()>) {
        let Some(device) = probe::verdict(probe) else {
            return;
        };
        let patient = &mut self.devices.get_mut(&id).expect("it was heard just now");
        // Where the device could not even be opened there is no usage file.
        patient.seen = true;
        let why = probe.as_ref().err().map(ToString::to_string);
        announce(&self.board, patient, device, &why.unwrap_or_default());
    }

    /// Who has been away for too long is dead; who is suspected is probed.
    pub fn look(&mut self, now: Instant) {
        let mut suspects = Vec::new();
        for (id, patient) in &mut self.devices {
            let suspected = self.board.row(patient.row).suspected();
            match patient.busy {
                _ if patient.gone => {}
                Some(since) if now.saturating_duration_since(since) >= self.timeout => {
                    let why = format!("its probe has not come back for {:?}", self.timeout);
                    announce(&self.board, patient, Device::Dead, &why);
                }
                Some(_) => {}
                None if suspected != patient.suspected => {
                    let recently =
                        |at: Instant| now.saturating_duration_since(at) < SUSPECTED_AGAIN;
                    if !patient.checked.is_some_and(recently) {
                        patient.suspected = suspected;
                        suspects.push(*id);
                    }
                }
                None => {}
            }
        }
        suspects.into_iter().for_each(|id| self.check(id));
    }

    /// Whether this leader has written all usage files that can be.
    pub fn is_seen(&self) -> bool {
        self.devices
            .values()
            .all(|patient| patient.seen || patient.gone)
    }

    /// Where the devices are: line on the scoreboard, and seat.
    pub fn seats(&self) -> impl Iterator<Item = (usize, Option<&Seat>)> {
        let here = self.devices.values().filter(|patient| !patient.gone);
        here.map(|patient| (patient.row, patient.seat.as_ref()))
    }

    /// Another leads: idle threads end.
    pub fn end(&mut self) {
        for patient in self.devices.values_mut() {
            if patient.busy.is_none() {
                patient.orders = None;
            }
        }
    }
}

/// Publishes what became of a device, and says it when it is news: also to
/// what an earlier leader said.
fn announce(board: &Scoreboard, patient: &Patient, device: Device, why: &str) {
    let row = board.row(patient.row);
    let before = row.state();
    if before == device {
        return;
    }
    row.set_state(device);
    let name = patient.name();
    match device {
        Device::Good if before == Device::Unknown => {}
        Device::Good => log::info!("{name} is well again: it is served as before"),
        Device::Unknown => log::warn!("{name} cannot be probed: {why}; it is served as it is"),
        Device::ReadOnly => log::error!(
            "{name} is read-only: {why}; uploads to it are refused, reads go on; see dmesg"
        ),
        Device::Full => {
            log::error!("{name} is full: {why}; uploads to it are refused, reads go on")
        }
        Device::Failing => log::error!("{name} fails: {why}; see dmesg and smartctl"),
        Device::Dead => {
            log::error!("{name} is dead: {why}; its requests get 503 until it answers; see dmesg")
        }
    }
}
