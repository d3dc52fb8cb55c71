//! The sidechannel's conversation.

use crate::buffer::Desk;
use crate::device::{Line, Ticket};
use crate::queue::Next;
use crate::site::Site;
use crate::sys::clock::Tick;
use crate::sys::socket::Peer;
use std::os::fd::BorrowedFd;

/// What a consumer lends to a conversation for its turn.
pub struct Visit<'a> {
    pub socket: BorrowedFd<'a>,
    pub peer: &'a Peer,
    pub site: &'a Site,
    /// What the client holds of the devices.
    pub ticket: &'a mut Ticket,
    pub desk: &'a mut Desk,
}

/// Who takes a client that has left its consumer.
pub enum Detached {
    /// The line before a device.
    Line(Line),
    /// The watchers of utilization.
    Watch,
    /// The digests of low priority, of this filesystem (st_dev).
    Fsck(u64),
}

/// See the module.
pub struct Conversation {}

impl Default for Conversation {
    fn default() -> Conversation {
        Conversation::new()
    }
}

impl Conversation {
    /// A connection that has said nothing yet.
    pub fn new() -> Conversation {
        Conversation {}
    }

    /// One turn: serve what is there, say what to wait for.
    pub fn step(&mut self, _visit: &mut Visit<'_>) -> Next {
        Next::Close
    }

    /// After [`Next::Detach`]: to whom it goes.
    pub fn detached(&mut self) -> Option<Detached> {
        None
    }

    /// The sweeper's question about a parked conversation: may it stay?
    pub fn may_stay(
        &mut self,
        _now: Tick,
        _site: &Site,
        _socket: BorrowedFd<'_>,
        _peer: &Peer,
    ) -> bool {
        true
    }
}
