//! What a crew has done and is about: for the scoreboard, and for the log when
//! a drain is given up.

use super::Crew;
use super::patience::Progress;
use crate::ledger::Totals;
use crate::scoreboard::{Counts, Slot};
use crate::sys::clock::Tick;
use std::time::Duration;

/// Lines about clients that are left when a drain is given up.
const SURVIVORS: usize = 10;

impl Crew {
    pub(super) fn totals(&self) -> Totals {
        let mut sum = self.work.fsck.totals();
        sum.add(self.pool.totals());
        for ledger in &self.doormen {
            sum.add(ledger.totals());
        }
        sum
    }

    /// What a drain that goes on changes.
    pub(super) fn progress(&self) -> Progress {
        Progress {
            totals: self.totals(),
            connections: self.work.gate.load().0,
        }
    }

    /// Writes on the scoreboard what there is to see.
    pub(super) fn report(&self, slot: &Slot<'_>) {
        let totals = self.totals();
        slot.count(Counts {
            requests: totals.requests - self.tare.requests,
            bytes_in: totals.received - self.tare.received,
            bytes_out: totals.sent - self.tare.sent,
        });
        slot.set_consumers(self.pool.len());
        if let (Some(_), None) = (self.stuck_for, slot.stuck_for()) {
            let example = self.stuck.example().unwrap_or("nobody knows where");
            let error = format!("all {} consumers are stuck: {example}", self.pool.len());
            log::error!("{error}");
            slot.set_last_error(&error);
        }
        slot.set_stuck_for(self.stuck_for.map(u64::from));
        let (connections, busy) = self.work.gate.load();
        slot.tick(connections, busy);
    }

    /// Who is left of a drain that goes on no more.
    pub(super) fn say_survivors(&self, waited: Duration) {
        let now = Tick::now();
        let mut lines: Vec<String> = Vec::new();
        for ledger in self.pool.ledgers().into_iter().chain(&self.doormen) {
            let entry = ledger.entry();
            if let Some(told) = ledger.tell(entry) {
                let seconds = f64::from(entry.lasts(now).unwrap_or_default()) / 1000.0;
                lines.push(format!("{}: {told}, for {seconds:.1} s", ledger.who()));
            }
        }
        self.work.queue.retain(|client| {
            if lines.len() < SURVIVORS {
                lines.push(client.tell(now));
            }
            true
        });
        let left = self.work.queue.len();
        log::warn!("nothing has moved for {waited:?}: {left} clients are left, and closed");
        for line in lines.iter().take(SURVIVORS) {
            log::warn!("left: {line}");
        }
    }
}
