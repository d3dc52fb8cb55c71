//! Stopping, gracefully or at once, and what is done about those who do not.

use super::Master;
use crate::channel::Message;
use crate::listener::Listener;
use crate::sys::title;
use std::time::{Duration, Instant};

/// After the word to stop at once: then SIGKILL.
const KILL_AFTER: Duration = Duration::from_secs(1);

/// Who is still starting when a graceful stop begins has so long to obey.
const STARTS_WITHIN: Duration = Duration::from_millis(500);

/// And then the master leaves: a process inside a dead disk's call cannot be
/// killed, nor waited for.
const GIVE_UP_AFTER: Duration = Duration::from_secs(6);

/// How far a stop has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    No,
    /// Since then.
    Graceful(Instant),
    /// A successor is in charge: this is no stop that anybody has asked for yet.
    HandedOver(Instant),
    /// Since then.
    Fast(Instant),
    /// SIGKILL was sent; since then.
    Killed(Instant),
}

impl Master {
    /// The first time gracefully, then at once.
    pub(super) fn stop_gracefully(&mut self) {
        match self.stopping {
            Stopping::No => {
                log::info!("stopping: who has begun a request is served to the end");
                self.begin_stop(Stopping::Graceful(Instant::now()));
            }
            // It is under way already, and this is the first to ask for it.
            Stopping::HandedOver(since) => self.stopping = Stopping::Graceful(since),
            Stopping::Graceful(_) => self.stop_at_once(),
            Stopping::Fast(_) | Stopping::Killed(_) => {}
        }
    }

    pub(super) fn stop_at_once(&mut self) {
        if !matches!(self.stopping, Stopping::Fast(_) | Stopping::Killed(_)) {
            log::info!("stopping at once");
            self.end_reloads();
            self.tell_manager("stopping at once");
            self.tell_stop(Stopping::Fast(Instant::now()));
        }
    }

    /// Where the service goes on its manager hears who it is from now on.
    fn tell_manager(&mut self, status: &str) {
        match self.upgrade.heir() {
            Some(heir) => self.service.main_pid(heir),
            None => self.service.stopping(status),
        }
    }

    /// A successor is in charge.
    pub(super) fn hand_over(&mut self) {
        self.begin_stop(Stopping::HandedOver(Instant::now()));
    }

    /// The one that is under way, and the one that would come after it.
    fn end_reloads(&mut self) {
        let why = "this server is stopping";
        self.refuse_later_reload(why);
        self.fail_reload(why.to_owned());
    }

    pub(super) fn begin_stop(&mut self, how: Stopping) {
        self.end_reloads();
        self.tell_manager("stopping: who has begun a request is served to the end");
        if !self.is_shared() {
            self.listeners.iter().for_each(Listener::close_door);
        }
        self.tell_stop(how);
    }

    /// Whether others accept on our listeners. Of those that are lent each door
    /// knows by itself.
    pub(super) fn is_shared(&self) -> bool {
        let predecessor = self.predecessor.as_ref();
        self.upgrade.has_successor() || predecessor.is_some_and(|one| one.is_alive())
    }

    pub(super) fn tell_stop(&mut self, how: Stopping) {
        self.stopping = how;
        title::set("rmogstored: master, stopping");
        let last = !self.is_shared();
        self.children.tell(match how {
            Stopping::Graceful(_) | Stopping::HandedOver(_) => Message::Quit { last },
            _ => Message::Fast,
        });
    }

    /// The successor that was in charge is dead, and we are not: start anew.
    pub(super) fn resume(&mut self) {
        self.stopping = Stopping::No;
        title::set("rmogstored: master");
        self.children.relieve_all();
    }

    /// Who does not obey is killed; true when that did not help either.
    pub(super) fn press_on(&mut self) -> bool {
        match self.stopping {
            Stopping::Graceful(since) | Stopping::HandedOver(since) => {
                if since.elapsed() >= STARTS_WITHIN {
                    self.children.kill_unready();
                }
                false
            }
            Stopping::Fast(since) if since.elapsed() >= KILL_AFTER => {
                self.children.kill_all();
                self.stopping = Stopping::Killed(since);
                false
            }
            Stopping::Killed(since) => since.elapsed() >= GIVE_UP_AFTER,
            _ => false,
        }
    }
}
