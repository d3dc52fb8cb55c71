//! parking_lot's locks, as far as `src` uses them, over shuttle's.

use super::clock;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::sync::mpsc::{Sender, channel};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub struct Mutex<T>(shuttle::sync::Mutex<T>);

pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// None while its holder waits on a condition.
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            mutex: self,
            held: Some(self.acquire()),
        }
    }

    /// parking_lot knows no poisoning.
    fn acquire(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("held")
    }
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WaitTimeoutResult {
    timed_out: bool,
}

impl WaitTimeoutResult {
    pub fn timed_out(self) -> bool {
        self.timed_out
    }
}

/// Threads that wait, by a number that is theirs alone.
pub(super) type Sleepers = std::sync::Mutex<Vec<(usize, Sender<WaitTimeoutResult>)>>;

/// shuttle's own never times out; this one does when [`clock::pass`] reaches the moment.
pub struct Condvar {
    sleepers: Arc<Sleepers>,
    /// A visible operation: a moment at which other threads may run.
    step: AtomicUsize,
    next: std::sync::atomic::AtomicUsize,
}

impl Condvar {
    pub fn new() -> Condvar {
        Condvar {
            sleepers: Arc::default(),
            step: AtomicUsize::new(0),
            next: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    pub fn wait_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        timeout: Duration,
    ) -> WaitTimeoutResult {
        let (tx, rx) = channel();
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        // shuttle lets others run before it releases a lock, never between that and the next operation: to release
        // and to fall asleep is one step, as it is in a real condition variable.
        drop(guard.held.take());
        self.sleepers.lock().unwrap().push((number, tx));
        clock::set_alarm(timeout, Arc::clone(&self.sleepers), number);
        let end = rx
            .recv()
            .expect("a sleeper is woken before it is forgotten");
        guard.held = Some(guard.mutex.acquire());
        end
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        // No scenario lets so much time pass.
        self.wait_for(guard, Duration::from_secs(1 << 32));
    }

    pub fn notify_one(&self) {
        self.step.fetch_add(1, Ordering::SeqCst);
        let woken = {
            let mut sleepers = self.sleepers.lock().unwrap();
            let count = sleepers.len();
            // parking_lot wakes the one who waits longest; nobody may rely on it.
            (count > 0).then(|| sleepers.remove(thread_rng().gen_range(0..count)))
        };
        wake(woken, false);
    }

    pub fn notify_all(&self) {
        self.step.fetch_add(1, Ordering::SeqCst);
        let woken = std::mem::take(&mut *self.sleepers.lock().unwrap());
        wake(woken, false);
    }
}

/// Wakes one sleeper by its number, if it is asleep still.
pub(super) fn time_out(sleepers: &Sleepers, number: usize) {
    let woken = {
        let mut sleepers = sleepers.lock().unwrap();
        let place = sleepers.iter().position(|(n, _)| *n == number);
        place.map(|place| sleepers.remove(place))
    };
    wake(woken, true);
}

fn wake(woken: impl IntoIterator<Item = (usize, Sender<WaitTimeoutResult>)>, timed_out: bool) {
    for (_, sleeper) in woken {
        sleeper
            .send(WaitTimeoutResult { timed_out })
            .expect("a sleeper listens");
    }
}
