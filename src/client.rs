//! A client: a socket and its conversation, in HTTP or on the sidechannel.

use crate::buffer::Desk;
use crate::device::{Call, Ticket};
use crate::http;
use crate::http::response::Date;
use crate::ledger::Ledger;
use crate::listener::Serves;
use crate::mgmt::{self, Detached};
use crate::queue::Next;
use crate::site::Site;
use crate::sys::clock::Tick;
use crate::sys::socket::Peer;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// See the module. Small: ten thousand of them may be idle.
pub struct Client<P> {
    socket: OwnedFd,
    peer: Peer,
    /// The number of its site.
    site: u16,
    read_only: bool,
    conversation: Conversation,
    /// Its place among the worker's connections: given back by its drop.
    place: P,
}

enum Conversation {
    Http(http::Conversation),
    Mgmt(Box<mgmt::Conversation>),
}

impl<P> Client<P> {
    /// A connection that has said nothing yet.
    pub fn new(socket: OwnedFd, peer: Peer, site: usize, serves: Serves, place: P) -> Client<P> {
        Client {
            socket,
            peer,
            site: site as u16,
            read_only: serves == Serves::HttpGet,
            conversation: match serves {
                Serves::Http | Serves::HttpGet => Conversation::Http(http::Conversation::new()),
                Serves::Mgmt => Conversation::Mgmt(Box::default()),
            },
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

    /// The number of its site.
    pub fn site(&self) -> usize {
        usize::from(self.site)
    }

    /// One turn on a consumer's desk. `ticket`: what it holds of the devices.
    pub fn step(
        &mut self,
        site: &Site,
        ticket: &mut Ticket,
        desk: &mut Desk,
        date: &mut Date,
    ) -> Next {
        self.advance(site, ticket, desk, date, true)
    }

    /// Its first turn, for whoever has no time to wait for a disk: what needs
    /// one is left as it is, and is to be served at once by who has. None: all
    /// that it could say needs one.
    pub fn first_step(
        &mut self,
        site: &Site,
        ticket: &mut Ticket,
        desk: &mut Desk,
        date: &mut Date,
    ) -> Option<Next> {
        let is_http = matches!(self.conversation, Conversation::Http(_));
        (is_http && site.store.can_recall()).then(|| self.advance(site, ticket, desk, date, false))
    }

    fn advance(
        &mut self,
        site: &Site,
        ticket: &mut Ticket,
        desk: &mut Desk,
        date: &mut Date,
        may_wait: bool,
    ) -> Next {
        let socket = self.socket.as_fd();
        match &mut self.conversation {
            Conversation::Http(conversation) => conversation.step(&mut http::Visit {
                socket,
                peer: &self.peer,
                read_only: self.read_only,
                site,
                ticket,
                desk,
                date,
                may_wait,
            }),
            Conversation::Mgmt(conversation) => conversation.step(&mut mgmt::Visit {
                socket,
                peer: &self.peer,
                site,
                ticket,
                desk,
            }),
        }
    }

    /// After [`Next::Detach`]: to whom it goes. None: it does not know itself,
    /// and is hopeless.
    pub fn detached(&mut self) -> Option<Detached> {
        match &mut self.conversation {
            Conversation::Http(conversation) => conversation.line().map(Detached::Line),
            Conversation::Mgmt(conversation) => conversation.detached(),
        }
    }

    /// It is called from its line.
    pub fn receive(&mut self, call: Call) {
        match &mut self.conversation {
            Conversation::Http(conversation) => conversation.hear(call),
            Conversation::Mgmt(conversation) => conversation.hear(call),
        }
    }

    /// The digest that has left its consumer, to its end; its reply leaves in
    /// the next turn.
    pub fn digest(&mut self, ledger: &Ledger) {
        if let Conversation::Mgmt(conversation) = &mut self.conversation {
            conversation.digest(ledger);
        }
    }

    /// That digest shall be made by consumers, in turns, after all.
    pub fn digest_in_turns(&mut self) {
        if let Conversation::Mgmt(conversation) = &mut self.conversation {
            conversation.digest_in_turns();
        }
    }

    /// The sweeper's question: may it stay parked?
    pub fn may_stay(&mut self, now: Tick, site: &Site) -> bool {
        let socket = self.socket.as_fd();
        match &mut self.conversation {
            Conversation::Http(conversation) => {
                conversation.may_stay(now, site, socket, &self.peer)
            }
            Conversation::Mgmt(conversation) => {
                conversation.may_stay(now, site, socket, &self.peer)
            }
        }
    }

    /// What it waits for while it is parked, and how long it has, for a log line.
    pub fn tell(&self, now: Tick) -> String {
        let (what, ms) = match &self.conversation {
            Conversation::Http(conversation) => conversation.tell(now),
            Conversation::Mgmt(conversation) => conversation.tell(now),
        };
        let seconds = f64::from(ms) / 1000.0;
        format!("{} has waited {seconds:.1} s for {what}", self.peer)
    }

    /// Milliseconds since its last request, when it is between two and may give
    /// way. The sidechannel never does.
    pub fn idle_for(&self, now: Tick) -> Option<u32> {
        match &self.conversation {
            Conversation::Http(conversation) => conversation.idle_for(now),
            Conversation::Mgmt(_) => None,
        }
    }
}

impl<P> AsFd for Client<P> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
