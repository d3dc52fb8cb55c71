//! File to socket without a copy through us: sendfile(2), which is a different
//! call on each system.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sends up to `max` bytes of `file` from `offset`. Returns how many were
/// taken by the socket; 0 means that the file has no byte at `offset` (it
/// shrank). EAGAIN: the socket is full, nothing was sent.
#[cfg(target_os = "linux")]
pub fn sendfile(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: u64,
    max: usize,
) -> io::Result<usize> {
    let mut offset = offset as libc::off64_t;
    // SAFETY: `offset` lives through the call; the rest are integers.
    super::check_len(unsafe {
        libc::sendfile64(socket.as_raw_fd(), file.as_raw_fd(), &mut offset, max)
    })
}

/// See the Linux twin. FreeBSD reports a partial send together with EAGAIN.
#[cfg(target_os = "freebsd")]
pub fn sendfile(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: u64,
    max: usize,
) -> io::Result<usize> {
    let mut sent: libc::off_t = 0;
    // SAFETY: no headers; `sent` lives through the call.
    let result = unsafe {
        libc::sendfile(
            file.as_raw_fd(),
            socket.as_raw_fd(),
            offset as libc::off_t,
            max,
            std::ptr::null_mut(),
            &mut sent,
            0,
        )
    };
    if result < 0 && sent == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(sent as usize)
}
