//! The only door to the disk: every path that a client sent is opened here,
//! beneath the docroot, and nowhere else.

pub mod cache;
pub mod download;
pub mod path;
pub mod upload;

use crate::seats::Seat;
use crate::sys::cached;
use crate::sys::clock;
use crate::sys::disk;
use crate::sys::file::{self, Facts, Open};
use cache::{Cache, Kept};
use path::StorePath;
use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// How often a resolution is begun again that others' renames have disturbed.
const RESOLVE_TRIES: u32 = 1000;

/// What is on the disk before an upload is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing is waited for.
    #[default]
    None,
    /// The content: fdatasync.
    Data,
    /// The content, and its name: the directories too.
    Full,
}

/// A docroot. It holds one descriptor, of the docroot itself: none of a
/// device, so that a disk can be unmounted, and a mount appears at once.
pub struct Store {
    root: Arc<OwnedFd>,
    durability: Durability,
    /// Less than these bits: 0666 for files.
    umask: u32,
    /// openat2 is missing (Linux before 5.6, or a sandbox): walk instead.
    walks: AtomicBool,
    /// Uploads that are expected to replace a file (upload.rs).
    replaces: AtomicU32,
    /// What temporary names begin with: this process, and its start.
    maker: String,
    cache: Cache,
    /// The kernel says whether it would look at a disk, as far as we know.
    tells: AtomicBool,
    /// The filesystem (st_dev) that was last found not to be local: to ask once
    /// more what it is may be a question to its server.
    foreign: AtomicU64,
}

/// A path was opened for reading.
pub struct Opened {
    pub file: File,
    pub facts: Facts,
    /// Whatever is done to it from now on will show in its facts.
    pub is_settled: bool,
}

/// What a path leads to, for reading.
pub enum Found {
    File(Opened),
    /// It is still what was read before.
    Kept(Arc<Kept>),
}

impl Store {
    /// Opens the docroot. Each worker opens its own, after the fork. `cache`:
    /// bytes of small files that may be kept in memory, 0 for none.
    pub fn open(
        docroot: &Path,
        durability: Durability,
        umask: u32,
        cache: usize,
    ) -> io::Result<Store> {
        Ok(Store {
            root: Arc::new(file::open_root(docroot)?),
            durability,
            umask,
            walks: AtomicBool::new(false),
            replaces: AtomicU32::new(0),
            maker: format!("{}.{:x}", std::process::id(), clock::seed()),
            cache: Cache::new(cache),
            tells: AtomicBool::new(true),
            foreign: AtomicU64::new(u64::MAX),
        })
    }

    /// Opens what `path` leads to, for reading.
    pub fn read(&self, path: &StorePath, seat: &Seat) -> io::Result<Opened> {
        // Before its facts are asked for: a disk may take its time.
        let now = clock::unix_seconds();
        let file = self.beneath(path.as_c_str(), Open::Read, seat)?;
        let facts = file::facts(file.as_fd())?;
        Ok(Opened {
            file: file.into(),
            facts,
            is_settled: facts.is_settled(now),
        })
    }

    /// Opens what `path` leads to for reading, unless it is kept in memory, and
    /// the file is still the one that was read: one question to the kernel says
    /// that, whoever has replaced, changed or removed it in whatever way. (It may
    /// lie beyond a symlink now that leads out of its device: it is the same
    /// file that was found beneath it.)
    pub fn find(&self, path: &StorePath, seat: &Seat) -> io::Result<Found> {
        if let Some(kept) = self.cache.get(path) {
            seat.may_hang();
            match file::facts_at(self.root.as_fd(), path.as_c_str()) {
                Ok(now) if now == *kept.facts() => return Ok(Found::Kept(kept)),
                _ => self.cache.remove(path),
            }
        }
        self.read(path, seat).map(Found::File)
    }

    /// The same for whoever cannot wait: what is kept in memory, if the kernel
    /// can say without a look at a disk that it is still the file.
    pub fn recall(&self, path: &StorePath) -> Option<Arc<Kept>> {
        let kept = self.cache.get(path)?;
        match cached::facts(self.root.as_fd(), path.as_c_str()) {
            Ok(now) if now == *kept.facts() => Some(kept),
            // Before Linux 5.12, or elsewhere.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                self.tells.store(false, Ordering::Relaxed);
                None
            }
            _ => None,
        }
    }

    /// Whether [`Store::recall`] can ever say yes.
    pub fn can_recall(&self) -> bool {
        self.cache.keeps_any() && self.tells.load(Ordering::Relaxed)
    }

    /// All of a file that is settled was read, and is kept if that is worth it.
    /// `facts`: of before.
    pub fn keep(&self, path: &StorePath, file: BorrowedFd<'_>, facts: &Facts, content: &[u8]) {
        if self.foreign.load(Ordering::Relaxed) == facts.device
            || !self.cache.wants(path, facts.size)
        {
            return;
        }
        if disk::is_local(file).unwrap_or(false) {
            self.cache.put(path, *facts, content);
        } else {
            self.foreign.store(facts.device, Ordering::Relaxed);
        }
    }

    /// What `path` leads to, which nobody need be able to read.
    pub fn facts(&self, path: &StorePath, seat: &Seat) -> io::Result<Facts> {
        file::facts(self.beneath(path.as_c_str(), Open::Ask, seat)?.as_fd())
    }

    /// Removes the name; a directory is EISDIR or EPERM.
    pub fn delete(&self, path: &StorePath, seat: &Seat) -> io::Result<()> {
        let parent = self.parent(path, seat)?;
        seat.may_wait();
        file::unlink(parent.as_fd(), split(path)?.1)
    }

    /// The directory that `path`'s last name is in.
    fn parent(&self, path: &StorePath, seat: &Seat) -> io::Result<OwnedFd> {
        match split(path)?.0 {
            b"" => self.beneath(c".", Open::Directory, seat),
            parent => self.beneath(&CString::new(parent)?, Open::Directory, seat),
        }
    }

    /// Opens beneath the docroot. The first component alone may lead out of it
    /// by a symlink: that is a device that the operator put elsewhere.
    fn beneath(&self, path: &CStr, how: Open, seat: &Seat) -> io::Result<OwnedFd> {
        match self.anchored(self.root.as_fd(), path, how, seat) {
            Err(e) if leads_out(&e) => {
                let Some((device, below)) = split_device(path) else {
                    // The device itself, as the place to make something in.
                    return match how {
                        Open::Directory | Open::Ask => {
                            file::open_directory(self.root.as_fd(), path)
                        }
                        Open::Read | Open::InPlace(_) => Err(e),
                    };
                };
                let device = file::open_directory(self.root.as_fd(), &device)?;
                self.anchored(device.as_fd(), &below, how, seat)
            }
            other => other,
        }
    }

    fn anchored(
        &self,
        dir: BorrowedFd<'_>,
        path: &CStr,
        how: Open,
        seat: &Seat,
    ) -> io::Result<OwnedFd> {
        let mut is_refused = false;
        // The question is about names alone: its filesystem may take its time
        // to open what they lead to.
        seat.may_wait();
        if self.tells.load(Ordering::Relaxed) && how.makes_nothing() {
            match cached::open_beneath(dir, path, how) {
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => seat.will_wait(),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                    is_refused = true;
                }
                other => return other,
            }
        }
        let opened = self.resolve(dir, path, how);
        // Not for the path's sake: the kernel does not know the question.
        if is_refused && !matches!(&opened, Err(e) if e.raw_os_error() == Some(libc::EINVAL)) {
            self.tells.store(false, Ordering::Relaxed);
        }
        opened
    }

    fn resolve(&self, dir: BorrowedFd<'_>, path: &CStr, how: Open) -> io::Result<OwnedFd> {
        let mut tries = 0;
        while !self.walks.load(Ordering::Relaxed) {
            match file::open_beneath(dir, path, how) {
                Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
                    self.walks.store(true, Ordering::Relaxed);
                    log::warn!(
                        "openat2: {e}; paths are walked without it, symlinks inside devices are refused"
                    );
                }
                // A rename or mount somewhere on the machine while a symlink
                // with `..` was resolved: openat2(2) says to try again.
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && tries < RESOLVE_TRIES => {
                    tries += 1;
                }
                other => return other,
            }
        }
        walk(dir, path, how)
    }
}

/// The directory and the name; the docroot itself has none (EISDIR).
fn split(path: &StorePath) -> io::Result<(&[u8], &CStr)> {
    path.parent_and_name()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EISDIR))
}

/// EXDEV from openat2, ELOOP from the walk.
fn leads_out(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EXDEV | libc::ELOOP))
}

/// "dev1/a/b" is "dev1" and "a/b"; None when there is nothing below.
fn split_device(path: &CStr) -> Option<(CString, Cow<'_, CStr>)> {
    let bytes = path.to_bytes();
    let slash = bytes.iter().position(|&b| b == b'/')?;
    let device = CString::new(&bytes[..slash]).ok()?;
    let below = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[slash + 1..]).ok()?;
    Some(if below.is_empty() {
        (device, Cow::Borrowed(c"."))
    } else {
        (device, Cow::Borrowed(below))
    })
}

/// The equivalent of RESOLVE_BENEATH by hand: one component at a time, no
/// symlink followed (ELOOP). `path` has no `..`: a [`StorePath`] made it.
fn walk(root: BorrowedFd<'_>, path: &CStr, how: Open) -> io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    let mut names = path.to_bytes().split(|&b| b == b'/').peekable();
    while let Some(name) = names.next() {
        let here = at.as_ref().map_or(root, OwnedFd::as_fd);
        // A slash at the end asks for a directory.
        let last = names.peek().is_none();
        let name = CString::new(if name.is_empty() { b"." } else { name })?;
        let step = if last { how } else { Open::Directory };
        at = Some(file::open_no_symlink(here, &name, step).map_err(|e| {
            // O_DIRECTORY meets a symlink before O_NOFOLLOW does.
            let refused = e.raw_os_error() == Some(libc::ENOTDIR);
            match file::open_no_symlink(here, &name, Open::Read) {
                Err(link) if refused && link.raw_os_error() == Some(libc::ELOOP) => link,
                _ => e,
            }
        })?);
    }
    at.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}
