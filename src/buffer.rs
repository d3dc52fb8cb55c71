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

/// Room for the head of the reply that comes on top. Bytes.
const HEADS: usize = 4096;

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

/// Bytes that others have as well, to be sent as they are.
pub type Shared = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Bytes to be sent.
#[derive(Default)]
pub struct Outbox {
    buf: Vec<u8>,
    start: usize,
    /// What follows them, and how much of it is sent.
    body: Option<(Shared, usize)>,
}

impl Outbox {
    /// Replies are appended here, while there is [room](Outbox::is_full).
    pub fn buf(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.body.is_none(), "a reply in front of a body");
        &mut self.buf
    }

    /// The body of the last reply, which is not copied: the outbox is full.
    pub fn put_body(&mut self, body: Shared) {
        self.body = Some((body, 0));
    }

    /// Whether it is to be sent before another reply.
    pub fn is_full(&self) -> bool {
        self.body.is_some() || self.len() >= OUTBOX_FULL
    }

    /// What is left of the body.
    fn body(&self) -> &[u8] {
        match &self.body {
            Some((bytes, sent)) => &(**bytes).as_ref()[*sent..],
            None => &[],
        }
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.buf.len() - self.start + self.body().len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends what waits; true when all of it is gone, false when the socket is
    /// full. `more`: bytes of a file follow at once.
    pub fn flush(&mut self, socket: BorrowedFd<'_>, more: bool) -> io::Result<bool> {
        while !self.is_empty() {
            let (buf, body) = (&self.buf[self.start..], self.body());
            let sent = match body {
                [] => socket::send(socket, buf, more),
                body => socket::send_both(socket, buf, body, more),
            };
            match sent {
                Ok(n) => self.sent(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.buf.clear();
        (self.start, self.body) = (0, None);
        Ok(true)
    }

    /// So many bytes have left.
    fn sent(&mut self, n: usize) {
        let of_buf = n.min(self.buf.len() - self.start);
        self.start += of_buf;
        if let Some((_, sent)) = &mut self.body {
            *sent += n - of_buf;
        }
        if self.body().is_empty() {
            self.body = None;
        }
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
                buf: Vec::with_capacity(2 * OUTBOX_FULL + HEADS),
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
        let body = self.outbox.body.take();
        if left_in.is_none() && left_out.is_none() && body.is_none() {
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
                body,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    /// Reads what is there.
    fn drain(mut from: &UnixStream, into: &mut Vec<u8>) {
        let mut some = [0; 3000];
        match from.read(&mut some) {
            Ok(n) => into.extend_from_slice(&some[..n]),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }

    #[test]
    fn a_body_leaves_behind_its_head_however_little_the_socket_takes() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        ours.set_nonblocking(true).expect("O_NONBLOCK");
        theirs.set_nonblocking(true).expect("O_NONBLOCK");
        let mut desk = Desk::new(Arc::default());
        let (mut wanted, mut got) = (Vec::new(), Vec::new());
        let mut waits = 0;
        for (head, body) in [(10, 700_000), (0, 1), (300_000, 300_000), (5, 5), (7, 0)] {
            let text = |len: usize, salt: u8| -> Vec<u8> {
                (0..len).map(|at| (at / 7) as u8 ^ salt).collect()
            };
            let (head, body) = (text(head, 1), text(body, 2));
            wanted.extend_from_slice(&head);
            wanted.extend_from_slice(&body);
            desk.outbox.buf().extend_from_slice(&head);
            desk.outbox.put_body(Arc::new(body));
            assert!(desk.outbox.is_full());
            let mut progress = false;
            while !desk.flush(ours.as_fd(), &mut progress).expect("send") {
                // It waits as a client's rest, and the desk is another's meanwhile.
                waits += 1;
                let len = desk.outbox.len();
                let rest = desk.clear().expect("a rest");
                assert!(rest.has_output() && desk.outbox.is_empty());
                drain(&theirs, &mut got);
                desk.lay(rest);
                assert_eq!(desk.outbox.len(), len);
            }
            assert!(progress && !desk.outbox.is_full());
            assert!(desk.clear().is_none());
        }
        assert!(waits > 2, "the socket took all at once");
        while got.len() < wanted.len() {
            drain(&theirs, &mut got);
        }
        assert!(got == wanted);
        assert_eq!(desk.ledger.totals().sent, wanted.len() as u64);
    }
}
