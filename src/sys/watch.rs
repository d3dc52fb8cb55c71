//! mio's registration, by borrowed descriptors.

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reports readability of `fd`, edge-triggered: read until EAGAIN.
pub fn readable(registry: &Registry, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
    registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)
}

/// Reports that `fd` has room again, edge-triggered: write until EAGAIN.
pub fn writable(registry: &Registry, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
    registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::WRITABLE)
}

/// Reports both, edge-triggered.
pub fn both_ways(registry: &Registry, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
    let interests = Interest::READABLE | Interest::WRITABLE;
    registry.register(&mut SourceFd(&fd.as_raw_fd()), token, interests)
}

/// Reports nothing of `fd` any more.
pub fn forget(registry: &Registry, fd: BorrowedFd<'_>) -> io::Result<()> {
    registry.deregister(&mut SourceFd(&fd.as_raw_fd()))
}
