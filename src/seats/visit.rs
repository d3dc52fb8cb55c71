//! How long a visit to a device takes, where nobody can say before whether it
//! will be made to wait. A wait that was known before is not counted.

use crate::sys::clock;
use std::cell::Cell;

/// What may have waited and took so long has waited. Nanoseconds.
const LONG_NS: u64 = 2_000_000;

/// A consumer's, of its visit to a device.
#[derive(Default)]
pub(super) struct Visit {
    /// Since then it has not waited knowingly: nanoseconds of the monotonic
    /// clock. 0: it will be looked at when the timing starts.
    since: Cell<u64>,
    is_timed: Cell<bool>,
    /// It has waited, and could not know it before.
    has_waited: Cell<bool>,
    /// The device makes threads wait, lately.
    is_slow: Cell<bool>,
}

impl Visit {
    /// A turn begins, at this moment, and the first visit with it.
    pub(super) fn turn_begins(&self, now: u64) {
        self.since.set(now);
    }

    /// It begins. `is_slow`: the device has made threads wait, lately.
    pub(super) fn begin(&self, is_slow: bool) {
        self.is_timed.set(false);
        self.has_waited.set(false);
        self.is_slow.set(is_slow);
    }

    pub(super) fn is_slow(&self) -> bool {
        self.is_slow.get()
    }

    /// From here on it may wait.
    pub(super) fn start_timing(&self) {
        if !self.is_timed.replace(true) && self.since.get() == 0 {
            self.since.set(clock::monotonic_ns());
        }
    }

    /// What comes now is no surprise.
    pub(super) fn stop_timing(&self) {
        if self.is_timed.take() {
            let took = clock::monotonic_ns().saturating_sub(self.since.get());
            self.has_waited
                .set(self.has_waited.get() || took >= LONG_NS);
        }
        self.since.set(0);
    }

    /// It ends. Whether it has waited, and could not know it before.
    pub(super) fn end(&self) -> bool {
        self.stop_timing();
        self.has_waited.get()
    }
}
