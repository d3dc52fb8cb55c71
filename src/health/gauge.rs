//! Utilization, from wherever it comes, onto the scoreboard: one report a
//! second, and every worker's watchers are told.

use super::iostat::{self, Ticks};
use super::mounts::Seat;
use super::reporter::Reporter;
use super::rounds::News;
use super::ward::Ward;
use crate::config::Utilization;
use crate::scoreboard::{Scoreboard, Util};
use crate::sys::{clock, disk};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub struct Gauge {
    from: Utilization,
    /// The last count, and when it was made: nanoseconds of the monotonic clock.
    before: Option<(u64, Ticks)>,
    /// When the next count is due.
    due: Instant,
    reporter: Option<Reporter>,
    /// It was said that the kernel has no counters.
    told: bool,
}

impl Gauge {
    pub fn new(from: Utilization) -> Gauge {
        Gauge {
            from,
            before: None,
            due: Instant::now(),
            reporter: None,
            told: false,
        }
    }

    /// This worker is elected.
    pub fn begin(&mut self, board: &Scoreboard, tell: &Sender<News>) {
        (self.before, self.due) = (None, Instant::now());
        if let Utilization::Command(command) = &self.from {
            match Reporter::start(command, tell) {
                Ok(reporter) => self.reporter = Some(reporter),
                Err(e) => log::error!("MOG_IOSTAT_CMD: pthread_create: {e}"),
            }
        }
        board.set_utilization(match &self.from {
            Utilization::Kernel => disk::counters().is_ok(),
            Utilization::Command(_) => self.reporter.is_some(),
            Utilization::Off => false,
        });
    }

    /// Another is.
    pub fn end(&mut self) {
        self.reporter = None;
    }

    /// When [`Gauge::look`] is wanted.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Counts when it is time to.
    pub fn look(&mut self, now: Instant, ward: &Ward, board: &Scoreboard) {
        if now < self.due {
            return;
        }
        // After a pause no count is made up for.
        self.due = (self.due + INTERVAL).max(now + INTERVAL / 2);
        if self.from != Utilization::Kernel {
            return;
        }
        let counters = match disk::counters() {
            Ok(counters) => counters,
            Err(e) => {
                if !std::mem::replace(&mut self.told, true) {
                    log::warn!("no utilization of disks: {e}");
                }
                return;
            }
        };
        let (at, after) = (clock::monotonic_ns(), iostat::ticks(&counters));
        if let Some((since, before)) = &self.before {
            publish(ward, board, |seat| {
                let disk = seat.disk?;
                iostat::percent(*before.get(&disk)?, *after.get(&disk)?, at - since)
            });
        }
        self.before = Some((at, after));
    }

    /// The operator's command has reported.
    pub fn hear(&mut self, report: &[iostat::Line], ward: &Ward, board: &Scoreboard) {
        // One that was killed may have spoken last.
        if self.reporter.is_some() {
            publish(ward, board, |seat| iostat::of_seat(report, seat));
        }
    }
}

fn publish(ward: &Ward, board: &Scoreboard, util: impl Fn(&Seat) -> Option<Util>) {
    for (row, seat) in ward.seats() {
        board.row(row).set_util(seat.and_then(&util));
    }
    board.announce_report();
}
