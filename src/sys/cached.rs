//! What the kernel has in its memory, and answers without waiting for a disk.
//! EAGAIN: it would have to. Of names and files: openat2(2) with RESOLVE_CACHED,
//! Linux 5.12, EINVAL before. Its twin, for systems that cannot be asked so, is
//! `uncached.rs`.

use super::file::{Facts, Kind, Open, open_resolved};
use super::{append, check};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Opens `path` beneath `dir`, as `file::open_beneath` does.
pub fn open_beneath(dir: BorrowedFd<'_>, path: &CStr, how: Open) -> io::Result<OwnedFd> {
    open_resolved(dir, path, how, libc::RESOLVE_CACHED)
}

/// What `path` leads to beneath `dir`.
pub fn facts(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<Facts> {
    let file = open_resolved(dir, path, Open::Ask, libc::RESOLVE_CACHED)?;
    // SAFETY: a struct of integers; zero is a value of it.
    let mut facts: libc::statx = unsafe { std::mem::zeroed() };
    // The file's server, where there is one, is not asked: statx(2).
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the path is NUL-terminated, and there is room for one statx.
    check(unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            flags,
            libc::STATX_BASIC_STATS,
            &mut facts,
        )
    })?;
    Ok(Facts {
        kind: Kind::of(facts.stx_mode.into()),
        size: facts.stx_size,
        device: libc::makedev(facts.stx_dev_major, facts.stx_dev_minor),
        inode: facts.stx_ino,
        mode: u32::from(facts.stx_mode) & 0o7777,
        mtime: facts.stx_mtime.tv_sec,
        mtime_nsec: facts.stx_mtime.tv_nsec,
        ctime: facts.stx_ctime.tv_sec,
        ctime_nsec: facts.stx_ctime.tv_nsec,
    })
}

/// Reads up to `max` bytes behind the end of `buf` (preadv2(2) with RWF_NOWAIT):
/// fewer where the rest is not in memory. EOPNOTSUPP: the filesystem cannot say.
pub fn pread_append(
    file: BorrowedFd<'_>,
    buf: &mut Vec<u8>,
    max: usize,
    offset: u64,
) -> io::Result<usize> {
    buf.reserve(max);
    let (fd, offset) = (file.as_raw_fd(), offset as libc::off_t);
    let read = |iov_base, iov_len| {
        let room = libc::iovec { iov_base, iov_len };
        // SAFETY: one buffer, which lives through the call.
        unsafe { libc::preadv2(fd, &room, 1, offset, libc::RWF_NOWAIT) }
    };
    // SAFETY: preadv2 writes what it returns, `iov_len` bytes at most.
    unsafe { append(buf, max, read) }
}
