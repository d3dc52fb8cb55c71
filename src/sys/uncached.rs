//! The twin of `cached.rs` for systems that do not say what they have in memory.

use super::file::{Facts, Open};
use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// See the Linux twin.
pub fn open_beneath(_dir: BorrowedFd<'_>, _path: &CStr, _how: Open) -> io::Result<OwnedFd> {
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

/// See the Linux twin.
pub fn facts(_dir: BorrowedFd<'_>, _path: &CStr) -> io::Result<Facts> {
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

/// See the Linux twin.
pub fn pread_append(
    _file: BorrowedFd<'_>,
    _buf: &mut Vec<u8>,
    _max: usize,
    _offset: u64,
) -> io::Result<usize> {
    Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}
