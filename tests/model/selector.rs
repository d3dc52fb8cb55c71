//! The selector of `src/sys/selector/epoll.rs`, over the kernel in memory. Line by line the same: what that file asks
//! of the kernel is part of what is checked.

use super::kernel::{self, IN, Kernel, OUT};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Read,
    Write,
    ReadWrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Ready(u64),
    Poison,
    Timeout,
}

const POISON: u64 = u64::MAX;

pub struct Selector {
    kernel: Arc<Kernel>,
    poison: usize,
}

impl Selector {
    pub fn new() -> io::Result<Selector> {
        let kernel = kernel::current();
        let poison = kernel.eventfd();
        Ok(Selector { kernel, poison })
    }

    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, wait: Wait) -> io::Result<()> {
        let added = self
            .kernel
            .epoll_add(kernel::number_of(fd), events(wait), true, token);
        if added {
            Ok(())
        } else {
            Err(io::ErrorKind::AlreadyExists.into())
        }
    }

    pub fn rearm(&self, fd: BorrowedFd<'_>, token: u64, wait: Wait) -> io::Result<()> {
        let found = self
            .kernel
            .epoll_modify(kernel::number_of(fd), events(wait), token);
        if found {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    pub fn forget(&self, _fd: BorrowedFd<'_>) {}

    pub fn poison(&self) -> io::Result<()> {
        self.pass_poison()
    }

    pub fn pass_poison(&self) -> io::Result<()> {
        self.kernel.epoll_delete(self.poison);
        self.kernel.epoll_add(self.poison, OUT, false, POISON);
        Ok(())
    }

    /// No timeout comes but that of who does not wait.
    pub fn wait(&self, timeout: Duration) -> io::Result<Event> {
        let event = match timeout.is_zero() {
            true => self.kernel.epoll_look(),
            false => Some(self.kernel.epoll_wait()),
        };
        Ok(match event {
            None => Event::Timeout,
            Some(POISON) => Event::Poison,
            Some(token) => Event::Ready(token),
        })
    }
}

fn events(wait: Wait) -> u8 {
    match wait {
        Wait::Read => IN,
        Wait::Write => OUT,
        Wait::ReadWrite => IN | OUT,
    }
}
