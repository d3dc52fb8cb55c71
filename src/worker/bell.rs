//! How an acceptor waits for a listener that does not block. O_NONBLOCK belongs
//! to the socket, not to a process: a server that shares ours may need it, so it
//! is not cleared but lived with (PITFALLS 11). No client is lost by it, but the
//! kernel deals them out less evenly.

use super::WORD_COMES;
use crate::sys::doorbell::Doorbell;
use socket2::SockRef;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// After so many waits: to the back of those who wait. As nginx does.
const REQUEUE: u32 = 16;

/// Who was woken may have been killed before it accepted; nobody else is woken
/// for that client. So we look without being called.
const LOOK: Duration = Duration::from_millis(100);

/// See the module. It hangs at a listener only while that does not block.
#[derive(Default)]
pub struct Bell {
    hung: Option<Doorbell>,
    waits: u32,
    /// accept4 had nothing to wait for, for the first time.
    since: Option<Instant>,
    is_said: bool,
}

impl Bell {
    /// The listener was found empty, and did not block. When a whole server stops
    /// that is a worker that was told before this one; the word is on its way.
    pub fn hang(&mut self, listener: BorrowedFd<'_>) -> io::Result<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !self.is_said && since.elapsed() >= WORD_COMES {
            self.is_said = true;
            let name = SockRef::from(&listener).local_addr().ok();
            log::warn!(
                "a listener is O_NONBLOCK ({}): somebody who shares it has made it so; \
                 this worker polls it",
                name.and_then(|name| name.as_socket())
                    .map_or("a UNIX socket".to_owned(), |name| name.to_string())
            );
        }
        if self.hung.is_none() {
            self.hung = Some(Doorbell::new(listener)?);
            self.waits = 0;
        }
        Ok(())
    }

    /// Waits until a client may have come, if the listener does not block; a kick
    /// ends it. Where another process gets that client, accept4 says so.
    pub fn wait(&mut self, listener: BorrowedFd<'_>) {
        let Some(doorbell) = &self.hung else {
            return;
        };
        self.waits += 1;
        if self.waits.is_multiple_of(REQUEUE) {
            let blocks = SockRef::from(&listener).nonblocking().is_ok_and(|on| !on);
            // ENOENT: a dead descriptor has taken the listener's place.
            if blocks || doorbell.requeue(listener).is_err() {
                self.hung = None;
                return;
            }
        }
        // EINTR: the kick. What to do then, the order says.
        let _ = doorbell.wait(LOOK);
    }
}
