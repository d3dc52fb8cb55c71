//! Bytes not parsed yet and bytes not sent yet; both bounded.
//!
//! The buffers belong to the consumer and are lent to a client for its turn
//! (a [`Desk`]); a client takes along only what is left when its turn ends
//! (its [`Rest`]), so an idle connection holds none.

use crate::ledger::Ledger;
use crate::sys::socket;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Input that one client can have waiting: a whole request head of the largest
/// size, or pipelined requests of that many bytes. Bytes.
pub const MAX_INBOX: usize = 64 * 1024;

/// What one recv asks for while an upload's body comes in. Bytes.
pub const BODY_READ: usize = 256 * 1024;

/// The least room for a recv behind half a head. Bytes.
const SMALL_READ: usize = 4096;

/// Replies are sent when this many bytes have gathered; one more reply may come
/// on top. Bytes.
pub const OUTBOX_FULL: usize = 64 * 1024;

/// Bytes received and not parsed yet.
#[derive(Default)]
pub struct Inbox {
    buf: Vec<u8>,
    start: usize,
    /// How far the end of the head was looked for, from the start of
    /// [`Inbox::bytes`]: a client of one byte at a time costs linear time.
    pub looked: usize,
}

impl Inbox {
    /// What has come and was not consumed.
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start..]
    }

    /// Whether nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.start == self.buf.len()
    }

    /// The first `n` bytes are done with.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        self.looked = 0;
        if self.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.buf.clear();
        self.start = 0;
        self.looked = 0;
    }

    /// Receives once, with room for at least one byte and up to `room` in all.
    /// 0 is the peer's end. Must not be full (`MAX_INBOX` unconsumed bytes).
    pub fn receive(&mut self, socket: BorrowedFd<'_>, room: usize) -> io::Result<Received> {
        if self.start > 0 {
            // At most one partial head: what was complete has been consumed.
            self.buf.drain(..self.start);
            self.start = 0;
        }
        // All of it at once on an empty desk, whose memory costs nothing until
        // it is touched; by doubling for a client that sends in crumbs.
        let held = self.buf.len();
        let max = room.saturating_sub(held).max(1);
        self.buf.reserve(match held {
            0 => max,
            held => max.min(held.max(SMALL_READ)),
        });
        // No more than `max`, though a body may have left more room here: what a
        // turn cannot use is copied when it ends.
        let max = max.min(self.buf.capacity() - held);
        let n = socket::recv_append(socket, &mut self.buf, max)?;
        Ok(match n {
            0 => Received::End,
            // A short read has emptied the socket: arming says what comes next.
            n if n < max => Received::All,
            _ => Received::Some,
        })
    }
}

/// What a recv brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes, and there may be more.
    Some,
    /// Bytes, all that there were.
    All,
    /// The peer has closed its direction.
    End,
}

/// Bytes to be sent.
#[derive(Default)]
pub struct Outbox {
    buf: Vec<u8>,
    start: usize,
}

impl Outbox {
    /// Replies are appended here.
    pub fn buf(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.buf.len() - self.start
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends what waits; true when all of it is gone, false when the socket is
    /// full. `more`: bytes of a file follow at once.
    pub fn flush(&mut self, socket: BorrowedFd<'_>, more: bool) -> io::Result<bool> {
        while !self.is_empty() {
            match socket::send(socket, &self.buf[self.start..], more) {
                Ok(n) => self.start += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.buf.clear();
        self.start = 0;
        Ok(true)
    }
}

/// A consumer's own buffers, and its ledger.
pub struct Desk {
    pub inbox: Inbox,
    pub outbox: Outbox,
    pub ledger: Arc<Ledger>,
    /// The desk's own memory while a client's rest lies on it.
    spare_in: Vec<u8>,
    spare_out: Vec<u8>,
}

/// What a client takes along between its turns.
pub struct Rest {
    inbox: Inbox,
    outbox: Outbox,
}

impl Rest {
    /// Whether replies wait in it.
    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// What has come of a request that is not done with, if anything.
    pub fn input(&self) -> &[u8] {
        self.inbox.bytes()
    }
}

impl Desk {
    /// A desk with room for one read of full size and one batch of replies;
    /// the memory is not touched before it is used.
    pub fn new(ledger: Arc<Ledger>) -> Desk {
        Desk {
            ledger,
            inbox: Inbox {
                buf: Vec::with_capacity(MAX_INBOX),
                ..Inbox::default()
            },
            outbox: Outbox {
                buf: Vec::with_capacity(2 * OUTBOX_FULL),
                ..Outbox::default()
            },
            spare_in: Vec::new(),
            spare_out: Vec::new(),
        }
    }

    /// [Receives](Inbox::receive) once, and counts it.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, room: usize) -> io::Result<Received> {
        // What a client brought is used up: go on in the desk's own memory, which
        // has grown already and is warm.
        if self.inbox.is_empty() && self.spare_in.capacity() > 0 {
            self.inbox.buf = std::mem::take(&mut self.spare_in);
        }
        let before = self.inbox.bytes().len();
        let received = self.inbox.receive(socket, room)?;
        self.ledger.received(self.inbox.bytes().len() - before);
        Ok(received)
    }

    /// Sends what waits; true when all of it is gone, false when the socket is
    /// full. `progress` becomes true when the socket took any of it.
    pub fn flush(&mut self, socket: BorrowedFd<'_>, progress: &mut bool) -> io::Result<bool> {
        let waiting = self.outbox.len();
        if waiting == 0 {
            return Ok(true);
        }
        let all = self.outbox.flush(socket, false)?;
        let sent = waiting - self.outbox.len();
        self.ledger.sent(sent);
        *progress |= sent > 0;
        Ok(all)
    }

    /// Sends what waits before a client leaves its consumer for a line; false
    /// when it must wait for its socket first. A call could not reach one that
    /// reads slowly behind a full socket, and what it is called with would be
    /// with somebody who does nothing.
    pub fn can_be_called(
        &mut self,
        socket: BorrowedFd<'_>,
        progress: &mut bool,
    ) -> io::Result<bool> {
        Ok(self.flush(socket, progress)? && socket::has_room(socket))
    }

    /// A client's turn begins: its rest is laid on the desk, without copying.
    pub fn lay(&mut self, rest: Rest) {
        let Rest { inbox, outbox } = rest;
        if !inbox.is_empty() {
            self.spare_in = std::mem::replace(&mut self.inbox, inbox).buf;
        }
        if !outbox.is_empty() {
            self.spare_out = std::mem::replace(&mut self.outbox, outbox).buf;
        }
    }

    /// Its turn ends: what is left goes with it, and the desk has its own
    /// memory back, empty.
    pub fn clear(&mut self) -> Option<Rest> {
        let left_in = take(&mut self.inbox.buf, self.inbox.start, &mut self.spare_in);
        let looked = std::mem::take(&mut self.inbox.looked);
        self.inbox.start = 0;
        let left_out = take(&mut self.outbox.buf, self.outbox.start, &mut self.spare_out);
        self.outbox.start = 0;
        if left_in.is_none() && left_out.is_none() {
            return None;
        }
        let (in_buf, in_start) = left_in.unwrap_or_default();
        let (out_buf, out_start) = left_out.unwrap_or_default();
        Some(Rest {
            inbox: Inbox {
                buf: in_buf,
                start: in_start,
                looked,
            },
            outbox: Outbox {
                buf: out_buf,
                start: out_start,
            },
        })
    }
}

/// Takes what is left of `buf` from `start`, and leaves the desk's own memory
/// there, empty. What lies in the client's own memory goes back as it is; what
/// lies in the desk's is copied, once.
fn take(buf: &mut Vec<u8>, start: usize, spare: &mut Vec<u8>) -> Option<(Vec<u8>, usize)> {
    let lent = spare.capacity() > 0;
    if start == buf.len() {
        if lent {
            *buf = std::mem::take(spare);
        }
        buf.clear();
        return None;
    }
    if lent {
        return Some((std::mem::replace(buf, std::mem::take(spare)), start));
    }
    let left = buf[start..].to_vec();
    buf.clear();
    Some((left, 0))
}
