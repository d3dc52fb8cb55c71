//! A model check of what is hard to test by running it: the hand-over of clients between the queue and its
//! consumers, the lines before devices, the gate, the seats, and the stop of an acceptor. shuttle runs each scenario under thousands of schedules.
//!
//! `src/queue.rs`, `src/device.rs`, `src/seats/` and `src/worker/gate.rs` are the real ones, mounted at the root of this crate. What they import
//! from `crate::sync` and `crate::sys` is made here: shuttle's locks and atomics, a clock that moves when the
//! scenario says so, and a kernel in memory. Timeouts never fire unless a scenario lets time pass, so that a lost
//! wake-up is a deadlock, which shuttle reports with the schedule that led to it.

mod model {
    pub mod clock;
    pub mod kernel;
    pub mod scoreboard;
    pub mod selector;
    pub mod sync;

    mod device;
    mod echo;
    mod gate;
    mod hand_over;
    mod seats;
    mod stop;
}

mod sync {
    pub use crate::model::sync::{Condvar, Mutex, MutexGuard};
    pub use shuttle::sync::atomic;
}

mod sys {
    pub use crate::model::{clock, selector};

    pub mod thread {
        /// One that never runs: whoever takes long hangs.
        #[derive(Clone, Copy)]
        pub struct Thread;

        impl Thread {
            pub fn this() -> Thread {
                Thread
            }

            pub fn is_running(self) -> bool {
                false
            }
        }
    }
}

#[allow(
    dead_code,
    reason = "the real file; the scenarios need not use all of it"
)]
#[path = "../src/queue.rs"]
mod queue;

#[allow(
    dead_code,
    reason = "the real file; the scenarios need not use all of it"
)]
#[path = "../src/worker/gate.rs"]
mod gate;

#[allow(
    dead_code,
    reason = "the real file; the scenarios need not use all of it"
)]
#[path = "../src/device.rs"]
mod device;

#[allow(
    dead_code,
    reason = "the real file; the scenarios need not use all of it"
)]
#[path = "../src/lane.rs"]
mod lane;

#[allow(
    dead_code,
    reason = "the real file; the scenarios need not use all of it"
)]
#[path = "../src/seats/mod.rs"]
mod seats;

use model::scoreboard;

/// Closes at once: no device's files hang here.
mod closer {
    #[derive(Default)]
    pub struct Closer(());

    impl Closer {
        pub fn close(&self, _lane: u32, held: impl Send + 'static) {
            drop(held);
        }
    }
}

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Preemptions that a schedule of the PCT kind has, besides those that blocking forces. Few are enough for most
/// bugs, and the fewer the likelier each is to be found.
const PCT_DEPTH: usize = 3;

/// Longer than any scenario that ends; one that takes more steps goes round in circles.
const MOST_STEPS: usize = 50_000;

/// Runs a scenario under so many random schedules, and half as many of the PCT kind.
fn explore(schedules: usize, scenario: impl Fn() + Send + Sync + Clone + 'static) {
    check(RandomScheduler::new(schedules), scenario.clone());
    check(PctScheduler::new(PCT_DEPTH, schedules / 2), scenario);
}

/// For scenarios with a planted fault, which must be found each time: schedules from a fixed seed.
fn find_fault(schedules: usize, scenario: impl Fn() + Send + Sync + 'static) {
    check(RandomScheduler::new_from_seed(1, schedules), scenario);
}

fn check(schedules: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    // It warns that all atomics are sequentially consistent here; queue and gate ask for no less where it matters.
    config.silence_warnings = true;
    Runner::new(schedules, config).run(scenario);
}
