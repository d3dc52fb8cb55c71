//! A site: what all conversations about one docroot share, in one worker.

use crate::channel::Channel;
use crate::config::Timeouts;
use crate::device::Devices;
use crate::scoreboard::Scoreboard;
use crate::store::Store;
use crate::sys::clock::Tick;
use std::sync::{Arc, OnceLock};

/// See the module.
pub struct Site {
    /// Its number among the sites of this server.
    pub nr: usize,
    pub store: Store,
    pub timeouts: Timeouts,
    pub devices: Arc<Devices>,
    pub board: Scoreboard,
    pub master: Arc<Channel>,
    /// Since then each reply is its connection's last: this worker is stopping.
    draining: OnceLock<Tick>,
}

impl Site {
    pub fn new(
        nr: usize,
        store: Store,
        timeouts: Timeouts,
        devices: Arc<Devices>,
        board: Scoreboard,
        master: Arc<Channel>,
    ) -> Site {
        Site {
            nr,
            store,
            timeouts,
            devices,
            board,
            master,
            draining: OnceLock::new(),
        }
    }

    /// From now on each reply is its connection's last.
    pub fn drain(&self) {
        self.draining.get_or_init(Tick::now);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// Milliseconds since the stop began.
    pub fn draining_for(&self, now: Tick) -> Option<u32> {
        self.draining.get().map(|begun| now.since(*begun))
    }
}
