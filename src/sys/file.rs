//! Files, always relative to a directory that somebody opened before.

use super::{append, check, check_len, own};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How a path is opened beneath a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading. O_NONBLOCK: a FIFO must not hang its reader.
    Read,
    /// Neither: only to be asked about, which needs no permission on it, and
    /// wakes no device.
    Ask,
    /// A directory, as the anchor of other calls.
    Directory,
    /// For writing in place; made with this mode when missing.
    InPlace(u32),
}

impl Open {
    fn flags(self) -> i32 {
        // openat2(2) takes nothing beside O_PATH that has no meaning with it.
        const CONTENT: i32 = libc::O_NOCTTY | libc::O_NONBLOCK;
        libc::O_CLOEXEC
            | match self {
                Open::Read => libc::O_RDONLY | CONTENT,
                Open::Ask => ASK,
                Open::Directory => ANCHOR | libc::O_DIRECTORY,
                Open::InPlace(_) => libc::O_WRONLY | libc::O_CREAT | CONTENT,
            }
    }

    /// Whether it only finds what is there.
    pub fn makes_nothing(self) -> bool {
        !matches!(self, Open::InPlace(_))
    }

    fn mode(self) -> u32 {
        match self {
            Open::InPlace(mode) => mode,
            Open::Read | Open::Ask | Open::Directory => 0,
        }
    }
}

/// A directory that is only walked through needs no read permission.
#[cfg(target_os = "linux")]
const ANCHOR: i32 = libc::O_PATH;
#[cfg(not(target_os = "linux"))]
const ANCHOR: i32 = libc::O_RDONLY;

/// For fstat alone.
#[cfg(target_os = "linux")]
const ASK: i32 = libc::O_PATH;
/// O_PATH of FreeBSD 13.1 and later (sys/fcntl.h; not in the libc crate).
#[cfg(target_os = "freebsd")]
const ASK: i32 = 0x0040_0000;

/// Opens `path` beneath `dir`: no `..`, symlink or absolute path leads out of
/// it (openat2(2) with RESOLVE_BENEATH). What would lead out is EXDEV. ENOSYS
/// on kernels before 5.6: use [`open_no_symlinks`].
#[cfg(target_os = "linux")]
pub fn open_beneath(dir: BorrowedFd<'_>, path: &CStr, how: Open) -> io::Result<OwnedFd> {
    open_resolved(dir, path, how, 0)
}

/// `besides`: RESOLVE_* that it is to be held to as well.
#[cfg(target_os = "linux")]
pub(super) fn open_resolved(
    dir: BorrowedFd<'_>,
    path: &CStr,
    how: Open,
    besides: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: a struct of integers, to be extended by zeros: openat2(2).
    let mut spec: libc::open_how = unsafe { std::mem::zeroed() };
    spec.flags = how.flags() as u64;
    spec.mode = u64::from(how.mode());
    spec.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | besides;
    // SAFETY: `path` is NUL-terminated, `spec` has the size that is passed.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw const spec,
            size_of::<libc::open_how>(),
        )
    };
    own(fd as i32)
}

/// See the Linux twin; open(2) of FreeBSD 13 and later. What would lead out is
/// ENOTCAPABLE there; it is returned as EXDEV.
#[cfg(target_os = "freebsd")]
pub fn open_beneath(dir: BorrowedFd<'_>, path: &CStr, how: Open) -> io::Result<OwnedFd> {
    /// sys/fcntl.h; not in the libc crate.
    const O_RESOLVE_BENEATH: i32 = 0x0080_0000;
    open_at(dir, path, how.flags() | O_RESOLVE_BENEATH, how.mode()).map_err(|e| {
        if e.raw_os_error() == Some(libc::ENOTCAPABLE) {
            io::Error::from_raw_os_error(libc::EXDEV)
        } else {
            e
        }
    })
}

fn open_at(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: `path` is NUL-terminated.
    own(unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags, mode) })
}

/// Opens one name in `dir`, not following it when it is a symlink (ELOOP).
pub fn open_no_symlink(dir: BorrowedFd<'_>, name: &CStr, how: Open) -> io::Result<OwnedFd> {
    let fd = open_at(dir, name, how.flags() | libc::O_NOFOLLOW, how.mode())?;
    // O_PATH opens a symlink itself.
    if how == Open::Ask && facts(fd.as_fd())?.kind == Kind::Symlink {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    Ok(fd)
}

/// Opens the directory `name` in `dir`, following symlinks wherever they lead:
/// for what the operator made, never for what a client sent.
pub fn open_directory(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    open_at(dir, name, Open::Directory.flags(), 0)
}

/// A file without a name in the directory `dir`; it vanishes with its last
/// descriptor unless [`link`] gives it one. EOPNOTSUPP where the filesystem
/// cannot, and on systems that have no such thing.
#[cfg(target_os = "linux")]
pub fn open_unnamed(dir: BorrowedFd<'_>, mode: u32) -> io::Result<OwnedFd> {
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
    open_at(dir, c".", flags, mode)
}

/// See the Linux twin.
#[cfg(not(target_os = "linux"))]
pub fn open_unnamed(_dir: BorrowedFd<'_>, _mode: u32) -> io::Result<OwnedFd> {
    Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

/// What open(2) says of O_TMPFILE where it is unknown: EOPNOTSUPP by the
/// filesystem, EISDIR or EINVAL by the kernel.
pub fn has_no_unnamed(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
    )
}

/// Makes the file `name` in `dir`, which must not exist, for writing and reading.
pub fn create_new(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    open_at(dir, name, flags, mode)
}

/// Gives an unnamed file its name in `dir`. EEXIST when the name is taken:
/// link(2) replaces nothing.
#[cfg(target_os = "linux")]
pub fn link(file: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: both paths are NUL-terminated.
    let direct = check(unsafe {
        libc::linkat(
            file.as_raw_fd(),
            c"".as_ptr(),
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    });
    match direct {
        Ok(_) => Ok(()),
        // Without CAP_DAC_READ_SEARCH the direct form is refused before Linux
        // 6.10, as ENOENT; open(2) names the detour through /proc.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
            let proc = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
                .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
            // SAFETY: both paths are NUL-terminated.
            check(unsafe {
                libc::linkat(
                    libc::AT_FDCWD,
                    proc.as_ptr(),
                    dir.as_raw_fd(),
                    name.as_ptr(),
                    libc::AT_SYMLINK_FOLLOW,
                )
            })?;
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// See the Linux twin.
#[cfg(not(target_os = "linux"))]
pub fn link(_file: BorrowedFd<'_>, _dir: BorrowedFd<'_>, _name: &CStr) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

/// `renameat(2)`: atomic, and it replaces.
pub fn rename(from: BorrowedFd<'_>, old: &CStr, to: BorrowedFd<'_>, new: &CStr) -> io::Result<()> {
    // SAFETY: both paths are NUL-terminated.
    check(unsafe { libc::renameat(from.as_raw_fd(), old.as_ptr(), to.as_raw_fd(), new.as_ptr()) })?;
    Ok(())
}

/// `unlinkat(2)` of a name that is no directory.
pub fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) })?;
    Ok(())
}

/// `mkdirat(2)`, mode 0777 less the umask unless said otherwise.
pub fn make_directory(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode as libc::mode_t) })?;
    Ok(())
}

/// What kind of thing a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Regular,
    Directory,
    Symlink,
    Other,
}

impl Kind {
    pub(super) fn of(mode: libc::mode_t) -> Kind {
        match mode & libc::S_IFMT {
            libc::S_IFREG => Kind::Regular,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Symlink,
            _ => Kind::Other,
        }
    }
}

/// What `fstat(2)` says, as far as anybody asks. Two that are equal are of the
/// same file, and nothing was done to it between them, but what [`Facts::is_settled`]
/// tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub kind: Kind,
    pub size: u64,
    /// The filesystem (st_dev), and the file in it.
    pub device: u64,
    pub inode: u64,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Last change of the content: seconds since the epoch, and the rest.
    pub mtime: i64,
    pub mtime_nsec: u32,
    /// Last change of anything: the content, the mode, the number of its names.
    /// Nobody can set it.
    pub ctime: i64,
    pub ctime_nsec: u32,
}

/// Coarser than this no filesystem of today counts its times (FAT). Seconds.
const GRAIN: i64 = 2;

impl Facts {
    fn of(stat: &libc::stat) -> Facts {
        Facts {
            kind: Kind::of(stat.st_mode),
            size: stat.st_size as u64,
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            mode: u32::from(stat.st_mode & 0o7777),
            mtime: stat.st_mtime,
            mtime_nsec: stat.st_mtime_nsec as u32,
            ctime: stat.st_ctime,
            ctime_nsec: stat.st_ctime_nsec as u32,
        }
    }

    /// Whether whatever is done to the file after `now` (seconds since the
    /// epoch) will show in its facts: a change within the grain of the clock
    /// that dates changes would not.
    pub fn is_settled(&self, now: u64) -> bool {
        // A time to come is no evidence of anything.
        self.ctime.saturating_add(GRAIN) < now as i64
    }
}

/// `fstat(2)`.
pub fn facts(fd: BorrowedFd<'_>) -> io::Result<Facts> {
    // SAFETY: a struct of integers; zero is a value of it.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: room for one stat.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) })?;
    Ok(Facts::of(&stat))
}

/// `fstatat(2)`: of what `path` leads to, wherever that is. Only to compare with
/// what was opened [beneath](open_beneath) `dir` before.
pub fn facts_at(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<Facts> {
    // SAFETY: a struct of integers; zero is a value of it.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is NUL-terminated, and there is room for one stat.
    check(unsafe { libc::fstatat(dir.as_raw_fd(), path.as_ptr(), &mut stat, 0) })?;
    Ok(Facts::of(&stat))
}

/// `pread(2)` of up to `max` bytes behind the end of `buf`.
pub fn pread_append(
    file: BorrowedFd<'_>,
    buf: &mut Vec<u8>,
    max: usize,
    offset: u64,
) -> io::Result<usize> {
    buf.reserve(max);
    let (fd, offset) = (file.as_raw_fd(), offset as libc::off_t);
    // SAFETY: pread writes what it returns, `len` bytes at most.
    unsafe { append(buf, max, |at, len| libc::pread(fd, at, len, offset)) }
}

/// `pwrite(2)`; may write less than all.
pub fn pwrite(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> io::Result<usize> {
    // SAFETY: reads `bytes.len()` bytes of a live slice.
    check_len(unsafe {
        libc::pwrite(
            file.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            offset as libc::off_t,
        )
    })
}

/// Reserves `len` bytes from the start of the file, so that a full disk is
/// known before the body has come. EOPNOTSUPP where the filesystem cannot (the
/// C library's posix_fallocate would write zeros instead).
#[cfg(target_os = "linux")]
pub fn reserve(file: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fallocate64(file.as_raw_fd(), 0, 0, len as libc::off64_t) })?;
    Ok(())
}

/// See the Linux twin; ZFS answers EINVAL.
#[cfg(not(target_os = "linux"))]
pub fn reserve(file: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    // SAFETY: no pointers.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len as libc::off_t) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// `fdatasync(2)`: the content and the size are on the disk.
pub fn sync_data(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fdatasync(file.as_raw_fd()) })?;
    Ok(())
}

/// Puts a directory's entries on the disk. The anchor may be O_PATH, which
/// cannot be synced: it is opened once more.
pub fn sync_directory(dir: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    File::from(open_at(dir, c".", flags, 0)?).sync_all()
}

/// `fchmod(2)`.
pub fn set_mode(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fchmod(file.as_raw_fd(), mode as libc::mode_t) })?;
    Ok(())
}

/// The kernel will read ahead; for transfers that are known to be long.
pub fn will_read_all(file: BorrowedFd<'_>) {
    // SAFETY: no pointers. Advice: a failure changes nothing.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_SEQUENTIAL) };
}

/// Opens a directory that the operator named.
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `path` is NUL-terminated.
    own(unsafe { libc::open(path.as_ptr(), flags) })
}
