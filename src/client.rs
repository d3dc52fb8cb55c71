//! A client: a socket and its conversation.

use crate::buffer::Desk;
use crate::http::response::Date;
use crate::http::{Conversation, Site, Visit};
use crate::queue::Next;
use crate::sys::clock::Tick;
use crate::sys::socket::Peer;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// See the module. Small: ten thousand of them may be idle.
pub struct Client<P> {
    socket: OwnedFd,
    peer: Peer,
    read_only: bool,
    conversation: Conversation,
    /// Its place among the worker's connections: given back by its drop.
    place: P,
}

impl<P> Client<P> {
    /// A connection that has said nothing yet.
    pub fn new(socket: OwnedFd, peer: Peer, read_only: bool, place: P) -> Client<P> {
        Client {
            socket,
            peer,
            read_only,
            conversation: Conversation::new(),
            place,
        }
    }

    /// Its place, of which the first turn takes note.
    pub fn place(&mut self) -> &mut P {
        &mut self.place
    }

    /// The other end, for a log line.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// One turn on a consumer's desk.
    pub fn step(&mut self, site: &Site, desk: &mut Desk, date: &mut Date) -> Next {
        self.conversation.step(&mut Visit {
            socket: self.socket.as_fd(),
            peer: &self.peer,
            read_only: self.read_only,
            site,
            desk,
            date,
        })
    }

    /// The sweeper's question: may it stay parked?
    pub fn may_stay(&mut self, now: Tick, site: &Site) -> bool {
        self.conversation
            .may_stay(now, site, self.socket.as_fd(), &self.peer)
    }

    /// Milliseconds since its last request, when it is between two.
    pub fn idle_for(&self, now: Tick) -> Option<u32> {
        self.conversation.idle_for(now)
    }
}

impl<P> AsFd for Client<P> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
