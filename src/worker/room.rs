//! What RLIMIT_NOFILE leaves for connections.

use crate::sys::process;
use std::io;

/// Descriptors that a connection can hold: its socket, and the file that it
/// sends or receives.
const PER_CONNECTION: usize = 2;

/// Descriptors that a consumer needs for a moment: a directory and a temporary
/// name of an upload that becomes visible.
const PER_TURN: usize = 2;

/// Turns of that kind that are counted on at the same time, at most: where
/// descriptors are so few that this matters, a 503 in place of a reply does
/// less harm than a connection that is not accepted.
const TURNS: usize = 4;

/// See the module.
pub struct Room {
    /// Descriptors that the worker and its threads need themselves.
    own: usize,
    limit: usize,
}

impl Room {
    /// `fixed`: listeners, and a docroot a site.
    pub fn find(fixed: usize, consumers: usize) -> io::Result<Room> {
        /// 0, 1, 2; channel; two of the self-pipe; the
        /// housekeeper's loop; the queue and its poison; two of the watchers'
        /// loop; the lock file of the election, where its
        /// thread has no table of its own; one to spare.
        const OWN: usize = 13;
        let (soft, _) = process::descriptor_limits()?;
        Ok(Room {
            own: OWN + fixed + PER_TURN * consumers.min(TURNS),
            limit: usize::try_from(soft).unwrap_or(usize::MAX),
        })
    }

    /// One at least: without any there would be no worker.
    pub fn connections(&self) -> usize {
        (self.limit.saturating_sub(self.own) / PER_CONNECTION).max(1)
    }

    /// What that many connections need in all.
    pub fn descriptors(&self, connections: usize) -> u64 {
        (self.own + PER_CONNECTION * connections).min(self.limit) as u64
    }
}
