//! A clock that stands still until a scenario lets time pass.

use super::sync::{Sleepers, time_out};
use shuttle::thread;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Far from 0, which the gate takes for "never".
const START: u64 = 1_000_000_000_000;

struct Alarm {
    at: u64,
    sleepers: Arc<Sleepers>,
    number: usize,
}

// shuttle's threads are coroutines on the thread of the test: this is theirs in common, and no other test's.
thread_local! {
    static NOW: Cell<u64> = const { Cell::new(START) };
    static ALARMS: RefCell<Vec<Alarm>> = const { RefCell::new(Vec::new()) };
}

/// To be called first in each execution.
pub fn reset() {
    NOW.set(START);
    ALARMS.take();
}

pub fn monotonic_ns() -> u64 {
    NOW.get()
}

pub fn coarse_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

pub fn was_within(when: u64, ms: u64) -> bool {
    when > 0 && coarse_ms().saturating_sub(when) < ms
}

pub fn set_alarm(after: Duration, sleepers: Arc<Sleepers>, number: usize) {
    let at = NOW.get() + after.as_nanos() as u64;
    ALARMS.with_borrow_mut(|alarms| {
        alarms.push(Alarm {
            at,
            sleepers,
            number,
        })
    });
}

/// Lets time pass, and wakes those who waited for it.
pub fn pass(span: Duration) {
    let now = NOW.get() + span.as_nanos() as u64;
    NOW.set(now);
    let due: Vec<Alarm> =
        ALARMS.with_borrow_mut(|alarms| alarms.extract_if(.., |alarm| alarm.at <= now).collect());
    for alarm in due {
        time_out(&alarm.sleepers, alarm.number);
    }
    thread::yield_now();
}

/// A slice of the time in which scenarios count: finer than any span that they check.
pub const MOMENT: Duration = Duration::from_micros(250);

/// Runs beside a scenario and lets time pass until that is over.
pub fn with_time<T: Send + 'static>(scenario: impl FnOnce() -> T + Send + 'static) -> T {
    let done = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&done);
    let scenario = thread::spawn(move || {
        let result = scenario();
        over.store(true, Ordering::SeqCst);
        result
    });
    while !done.load(Ordering::SeqCst) {
        pass(MOMENT);
    }
    scenario.join().unwrap()
}

/// Milliseconds, as in `src/sys/clock.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(u32);

impl Tick {
    pub fn now() -> Tick {
        Tick((monotonic_ns() / 1_000_000) as u32)
    }

    pub fn since(self, earlier: Tick) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}
