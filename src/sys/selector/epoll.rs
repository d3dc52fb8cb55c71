//! The one-shot queue's kernel side on Linux: epoll(7).

use super::{Event, Wait};
use crate::sys::{check, own};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The token that no client gets (`queue.rs` bounds its keys).
const POISON: u64 = u64::MAX;

/// An epoll set and the poison that empties it of waiters.
pub struct Selector {
    epoll: OwnedFd,
    /// An eventfd with counter 0: always writable, never readable.
    poison: OwnedFd,
}

impl Selector {
    /// Makes both descriptors, close-on-exec. Call it after the fork: an epoll
    /// set that is inherited is shared, and would deliver others' events.
    pub fn new() -> io::Result<Selector> {
        // SAFETY: no pointers.
        let epoll = own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: no pointers.
        let poison = own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(Selector { epoll, poison })
    }

    fn control(&self, op: i32, fd: BorrowedFd<'_>, events: i32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token,
        };
        // SAFETY: both descriptors are open (owned, borrowed); `event` lives
        // through the call, which copies it.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), op, fd.as_raw_fd(), &mut event) })?;
        Ok(())
    }

    /// Registers `fd` and arms it once for `wait`.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, wait: Wait) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, flags(wait), token)
    }

    /// Arms a registered `fd` once more. What is ready already is reported at
    /// once, at the tail of the kernel's list.
    pub fn rearm(&self, fd: BorrowedFd<'_>, token: u64, wait: Wait) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, flags(wait), token)
    }

    /// Before a registered descriptor is closed. Nothing to do: close(2) takes
    /// it out of the set, since no duplicate of a client exists.
    pub fn forget(&self, _fd: BorrowedFd<'_>) {}

    /// Throws the poison in: from now on every waiter gets it, for it is level
    /// triggered and never stops being writable.
    pub fn poison(&self) -> io::Result<()> {
        self.pass_poison()
    }

    /// A waiter that leaves passes the poison on. Kernels from 5.5 to 5.12 do
    /// not wake the next waiter by themselves, and `EPOLL_CTL_MOD` wakes nobody
    /// for what is in the ready list already, as a level-triggered event that
    /// was just delivered is. Taken out and put in anew it wakes one.
    pub fn pass_poison(&self) -> io::Result<()> {
        let (poison, level) = (self.poison.as_fd(), libc::EPOLLOUT);
        // Others may be passing it at the same time: who comes second in either
        // step finds it done.
        let done = |result: io::Result<()>, by_another: i32| match result {
            Err(e) if e.raw_os_error() == Some(by_another) => Ok(()),
            other => other,
        };
        done(
            self.control(libc::EPOLL_CTL_DEL, poison, level, POISON),
            libc::ENOENT,
        )?;
        done(
            self.control(libc::EPOLL_CTL_ADD, poison, level, POISON),
            libc::EEXIST,
        )
    }

    /// Waits for one event. One at a time is the fairest: a thread that hoards
    /// ready clients makes them wait while other threads sleep.
    pub fn wait(&self, timeout: Duration) -> io::Result<Event> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: room for exactly the one event that is asked for.
        let n = check(unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &mut event, 1, ms) })?;
        Ok(match (n, event.u64) {
            (0, _) => Event::Timeout,
            (_, POISON) => Event::Poison,
            (_, token) => Event::Ready(token),
        })
    }
}

fn flags(wait: Wait) -> i32 {
    libc::EPOLLONESHOT
        | match wait {
            Wait::Read => libc::EPOLLIN,
            Wait::Write => libc::EPOLLOUT,
            Wait::ReadWrite => libc::EPOLLIN | libc::EPOLLOUT,
        }
}
