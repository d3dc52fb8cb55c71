//! The fence: every `unsafe` and every `target_os` of the program. Wrappers
//! are thin: borrowed descriptors in, an owned one or `io::Result` out. No
//! policy lives here: nothing retries, nothing logs, EINTR is returned.
#![allow(
    clippy::useless_conversion,
    clippy::unnecessary_cast,
    reason = "the widths of libc's types differ between systems"
)]

#[cfg_attr(not(target_os = "linux"), path = "uncached.rs")]
pub mod cached;
pub mod clock;
pub mod disk;
pub mod doorbell;
pub mod exec;
pub mod file;
pub mod inherit;
pub mod memory;
pub mod mounts;
pub mod passing;
pub mod pidfd;
pub mod process;
pub mod selector;
pub mod sendfile;
pub mod shell;
pub mod signal;
pub mod socket;
pub mod syslog;
pub mod thread;
pub mod title;
pub mod user;
pub mod watch;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The result of a call that says -1 on failure.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The same for calls that return a size.
fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Has a call read up to `max` bytes behind the end of `buf`, whose capacity has
/// room for them; returns how many it read.
///
/// # Safety
///
/// `read` writes nothing but the bytes that it says it read, `max` at most, from
/// the given address on, or returns a negative number.
unsafe fn append(
    buf: &mut Vec<u8>,
    max: usize,
    read: impl FnOnce(*mut libc::c_void, usize) -> isize,
) -> io::Result<usize> {
    let spare = buf.spare_capacity_mut();
    debug_assert!(spare.len() >= max);
    let n = check_len(read(spare.as_mut_ptr().cast(), max))?;
    // SAFETY: `read` has just written `n` bytes there.
    unsafe { buf.set_len(buf.len() + n) };
    Ok(n)
}

/// Takes ownership of a descriptor that a call has just returned.
fn own(fd: RawFd) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: the call that returned `fd` made it, and gave it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
