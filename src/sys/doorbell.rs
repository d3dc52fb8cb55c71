//! Waiting for a listener without accept4: for one that does not block, because
//! somebody who shares it wants it so.

use super::check;
#[cfg(target_os = "linux")]
use super::own;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A private set of descriptors with one listener in it.
pub struct Doorbell {
    set: OwnedFd,
}

#[cfg(target_os = "linux")]
impl Doorbell {
    /// For a listener that others wait for, too: of them the kernel wakes one.
    pub fn new(listener: BorrowedFd<'_>) -> io::Result<Doorbell> {
        // SAFETY: no pointers.
        let set = own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let bell = Doorbell { set };
        bell.control(libc::EPOLL_CTL_ADD, listener)?;
        Ok(bell)
    }

    fn control(&self, op: i32, listener: BorrowedFd<'_>) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLEXCLUSIVE) as u32,
            u64: 0,
        };
        // SAFETY: both descriptors are open (owned, borrowed); `event` lives
        // through the call, which copies it.
        check(unsafe {
            libc::epoll_ctl(self.set.as_raw_fd(), op, listener.as_raw_fd(), &mut event)
        })?;
        Ok(())
    }

    /// To the back of those who wait for this listener: the kernel wakes the
    /// last that came first, again and again.
    pub fn requeue(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, listener)?;
        self.control(libc::EPOLL_CTL_ADD, listener)
    }

    /// Whether somebody has rung within `timeout`. A signal ends it by EINTR.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: room for exactly the one event that is asked for.
        let n = check(unsafe { libc::epoll_wait(self.set.as_raw_fd(), &mut event, 1, ms) })?;
        Ok(n > 0)
    }
}

#[cfg(target_os = "freebsd")]
impl Doorbell {
    /// See the Linux twin. Here the kernel wakes all who wait.
    pub fn new(listener: BorrowedFd<'_>) -> io::Result<Doorbell> {
        use std::os::fd::FromRawFd;
        // SAFETY: no arguments.
        let fd = check(unsafe { libc::kqueue() })?;
        // SAFETY: the call has just made it, for us alone.
        let set = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a descriptor that we own, and an integer.
        check(unsafe { libc::fcntl(set.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
        // SAFETY: a struct of integers and a pointer that nobody follows.
        let mut change: libc::kevent = unsafe { std::mem::zeroed() };
        change.ident = listener.as_raw_fd() as usize;
        change.filter = libc::EVFILT_READ;
        change.flags = libc::EV_ADD;
        let bell = Doorbell { set };
        bell.call(&[change], &mut [], Duration::ZERO)?;
        Ok(bell)
    }

    fn call(
        &self,
        changes: &[libc::kevent],
        events: &mut [libc::kevent],
        timeout: Duration,
    ) -> io::Result<bool> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // SAFETY: both slices and the timeout live through the call.
        let n = check(unsafe {
            libc::kevent(
                self.set.as_raw_fd(),
                changes.as_ptr(),
                changes.len() as libc::c_int,
                events.as_mut_ptr(),
                events.len() as libc::c_int,
                &timeout,
            )
        })?;
        Ok(n > 0)
    }

    /// See the Linux twin: nothing to do where all are woken.
    pub fn requeue(&self, _listener: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Whether somebody has rung within `timeout`. A signal ends it by EINTR.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        // SAFETY: a struct of integers and a pointer that nobody follows.
        let mut event = [unsafe { std::mem::zeroed::<libc::kevent>() }];
        self.call(&[], &mut event, timeout)
    }
}
