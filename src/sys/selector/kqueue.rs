//! The one-shot queue's kernel side on FreeBSD: kqueue(2). The same names as
//! in `epoll.rs`. READ and WRITE are two filters there; exactly one is armed
//! at a time, or two threads would get the same client.

use super::{Event, Wait};
use crate::sys::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

#[cfg(target_pointer_width = "32")]
compile_error!("a token is 64 bits and travels in udata, which is a pointer");

#[cfg(target_os = "freebsd")]
use libc::{
    EV_ADD, EV_DELETE, EV_ERROR, EV_ONESHOT, EVFILT_READ, EVFILT_USER, EVFILT_WRITE, NOTE_TRIGGER,
    kevent as Kevent,
};

/// libkqueue's C interface, as far as it is used here: its `struct kevent` is
/// the one of FreeBSD 11 (no `ext[]`).
#[cfg(not(target_os = "freebsd"))]
mod libkqueue {
    #![allow(non_camel_case_types, reason = "the names of the C interface")]
    use libc::{c_int, c_uint, c_ushort, c_void, intptr_t, timespec, uintptr_t};

    #[repr(C)]
    #[derive(Clone, Copy)]
    pub struct Kevent {
        pub ident: uintptr_t,
        pub filter: libc::c_short,
        pub flags: c_ushort,
        pub fflags: c_uint,
        pub data: intptr_t,
        pub udata: *mut c_void,
    }
    pub const EVFILT_READ: libc::c_short = -1;
    pub const EVFILT_WRITE: libc::c_short = -2;
    pub const EVFILT_USER: libc::c_short = -11;
    pub const EV_ADD: c_ushort = 0x0001;
    pub const EV_DELETE: c_ushort = 0x0002;
    pub const EV_ONESHOT: c_ushort = 0x0010;
    pub const EV_ERROR: c_ushort = 0x4000;
    pub const NOTE_TRIGGER: c_uint = 0x0100_0000;

    #[link(name = "kqueue")]
    unsafe extern "C" {
        pub fn kqueue() -> c_int;
        pub fn kevent(
            kq: c_int,
            changes: *const Kevent,
            nchanges: c_int,
            events: *mut Kevent,
            nevents: c_int,
            timeout: *const timespec,
        ) -> c_int;
    }
}
#[cfg(not(target_os = "freebsd"))]
use libkqueue::*;

/// The token that no client gets (`queue.rs` bounds its keys).
const POISON: u64 = u64::MAX;

/// A kqueue. Its poison is an `EVFILT_USER` that stays triggered.
pub struct Selector {
    kqueue: OwnedFd,
}

impl Selector {
    /// Makes the kqueue, close-on-exec (libc has no `kqueue1` for FreeBSD).
    /// Call it after the fork: a kqueue is not inherited.
    pub fn new() -> io::Result<Selector> {
        #[cfg(target_os = "freebsd")]
        use libc::kqueue;
        // SAFETY: no arguments.
        let fd = check(unsafe { kqueue() })?;
        // SAFETY: the call has just made it, for us alone.
        let kqueue = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a descriptor that we own, and an integer.
        check(unsafe { libc::fcntl(kqueue.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
        Ok(Selector { kqueue })
    }

    fn change(&self, change: Kevent) -> io::Result<()> {
        #[cfg(target_os = "freebsd")]
        use libc::kevent;
        // SAFETY: one change, no room for events; both live through the call.
        check(unsafe {
            kevent(
                self.kqueue.as_raw_fd(),
                &change,
                1,
                std::ptr::null_mut(),
                0,
                std::ptr::null(),
            )
        })?;
        Ok(())
    }

    /// Registers `fd` and arms it once for `wait`.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, wait: Wait) -> io::Result<()> {
        self.rearm(fd, token, wait)
    }

    /// Arms `fd` once more. EV_ONESHOT deletes the knote when it is delivered,
    /// so at most one filter of a client ever exists and EV_ADD is enough.
    pub fn rearm(&self, fd: BorrowedFd<'_>, token: u64, wait: Wait) -> io::Result<()> {
        // "Still active" arms WRITE alone: two filters would deliver twice.
        let filter = match wait {
            Wait::Read => EVFILT_READ,
            Wait::Write | Wait::ReadWrite => EVFILT_WRITE,
        };
        self.change(event(
            fd.as_raw_fd() as usize,
            filter,
            EV_ADD | EV_ONESHOT,
            0,
            token,
        ))
    }

    /// Before a registered descriptor is closed. FreeBSD drops its knotes by
    /// itself; libkqueue does not.
    pub fn forget(&self, fd: BorrowedFd<'_>) {
        if cfg!(queue_kqueue) {
            for filter in [EVFILT_READ, EVFILT_WRITE] {
                // ENOENT for the filter that is not armed: nothing to undo.
                let _ = self.change(event(fd.as_raw_fd() as usize, filter, EV_DELETE, 0, 0));
            }
        }
    }

    /// Throws the poison in: without EV_CLEAR a triggered user event stays
    /// ready, so every waiter gets it.
    pub fn poison(&self) -> io::Result<()> {
        self.change(event(0, EVFILT_USER, EV_ADD, 0, POISON))?;
        self.pass_poison()
    }

    /// A waiter that leaves passes the poison on.
    pub fn pass_poison(&self) -> io::Result<()> {
        self.change(event(0, EVFILT_USER, 0, NOTE_TRIGGER, POISON))
    }

    /// Waits for one event.
    pub fn wait(&self, timeout: Duration) -> io::Result<Event> {
        #[cfg(target_os = "freebsd")]
        use libc::kevent;
        let mut got = event(0, EVFILT_READ, 0, 0, 0);
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // SAFETY: room for exactly the one event that is asked for.
        let n = check(unsafe {
            kevent(
                self.kqueue.as_raw_fd(),
                std::ptr::null(),
                0,
                &mut got,
                1,
                &timeout,
            )
        })?;
        if n > 0 && got.flags & EV_ERROR != 0 {
            return Err(io::Error::from_raw_os_error(got.data as i32));
        }
        Ok(match (n, got.udata as u64) {
            (0, _) => Event::Timeout,
            (_, POISON) => Event::Poison,
            (_, token) => Event::Ready(token),
        })
    }
}

fn event(ident: usize, filter: i16, flags: u16, fflags: u32, token: u64) -> Kevent {
    // SAFETY: a struct of integers and one pointer, for which zero is a value;
    // FreeBSD's has an `ext` array that must be zero.
    let mut event: Kevent = unsafe { std::mem::zeroed() };
    event.ident = ident;
    event.filter = filter;
    event.flags = flags;
    event.fflags = fflags;
    event.udata = token as *mut libc::c_void;
    event
}
