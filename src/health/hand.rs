//! A hand: a thread that does one job at a time, for somebody who must not wait.
//! A job that hangs keeps its hand; it is seen, never doubled, and done with
//! when it comes back.

use crate::sync::{Condvar, Mutex};
use crate::sys::process;
use std::ffi::CString;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Wakes the one who looks at all hands.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.rung.lock() = true;
        self.heard.notify_all();
    }

    /// Waits until it rings, or has rung since the last wait; not longer than
    /// this.
    pub(super) fn wait(&self, longest: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.heard.wait_for(&mut rung, longest);
        }
        *rung = false;
    }
}

/// See the module.
pub(super) struct Hand<J, R> {
    shared: Arc<Shared<J, R>>,
}

struct Shared<J, R> {
    state: Mutex<State<J, R>>,
    ordered: Condvar,
}

struct State<J, R> {
    /// The newest order that has not begun.
    next: Option<J>,
    /// Since when a job has been going on.
    busy: Option<Instant>,
    done: Option<R>,
    ended: bool,
}

impl<J: Send + 'static, R: Send + 'static> Hand<J, R> {
    /// Starts the thread, named so; `bell` rings at the end of each job.
    pub(super) fn start(
        name: &str,
        bell: &Arc<Bell>,
        mut work: impl FnMut(J) -> R + Send + 'static,
    ) -> io::Result<Hand<J, R>> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                next: None,
                busy: None,
                done: None,
                ended: false,
            }),
            ordered: Condvar::new(),
        });
        let (theirs, bell) = (Arc::clone(&shared), Arc::clone(bell));
        let name = CString::new(name).unwrap_or_default();
        std::thread::Builder::new().spawn(move || {
            process::name_thread(&name);
            while let Some(job) = theirs.begin() {
                let result = work(job);
                theirs.end(result);
                bell.ring();
            }
        })?;
        Ok(Hand { shared })
    }

    /// Does this next. An older order that has not begun is dropped.
    pub(super) fn order(&self, job: J) {
        self.shared.state.lock().next = Some(job);
        self.shared.ordered.notify_one();
    }

    /// Whether it has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.shared.state.lock();
        state.busy.is_none() && state.next.is_none()
    }

    /// How long the job that is going on has taken.
    pub(super) fn busy_for(&self) -> Option<Duration> {
        self.shared.state.lock().busy.map(|since| since.elapsed())
    }

    /// What the last job came to; once.
    pub(super) fn result(&self) -> Option<R> {
        self.shared.state.lock().done.take()
    }
}

impl<J, R> Drop for Hand<J, R> {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.ordered.notify_one();
    }
}

impl<J, R> Shared<J, R> {
    fn begin(&self) -> Option<J> {
        let mut state = self.state.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(job) = state.next.take() {
                state.busy = Some(Instant::now());
                return Some(job);
            }
            self.ordered.wait(&mut state);
        }
    }

    fn end(&self, result: R) {
        let mut state = self.state.lock();
        state.busy = None;
        state.done = Some(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_job_that_hangs_is_seen_and_the_newest_order_follows_it() {
        let bell = Arc::new(Bell::default());
        let (go, wait) = channel::<()>();
        let hand = Hand::start("hand", &bell, move |job: u32| {
            wait.recv().expect("the test lets it go");
            job
        })
        .unwrap();
        assert!(hand.is_idle());
        hand.order(1);
        while hand.busy_for().is_none() {
            std::thread::yield_now();
        }
        hand.order(2);
        hand.order(3);
        assert_eq!(hand.result(), None);
        for expected in [1, 3] {
            go.send(()).unwrap();
            let result = loop {
                bell.wait(Duration::from_secs(5));
                if let Some(result) = hand.result() {
                    break result;
                }
            };
            assert_eq!(result, expected);
        }
        assert!(hand.is_idle());
    }
}
