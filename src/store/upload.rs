//! A file on its way in. It is invisible until [`Upload::commit`]; dropped
//! before, it leaves nothing behind.
//!
//! It is written without a name (O_TMPFILE) in the directory of its target,
//! near which it shall lie on the disk, and linked in when it is complete: what
//! kill -9 leaves, the kernel frees. link(2) replaces nothing, so an existing
//! target is replaced by a second name, in the device's [`TEMP_DIR`], and
//! rename(2). Where there are no unnamed files, the upload has its name in that
//! directory from the start. [`sweep`] removes what dead processes left in it.

use super::path::{StorePath, TEMP_DIR};
use super::{Durability, Store};
use crate::sys::file::{self, Open};
use crate::sys::{clock, process};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Files are 0666 less the umask, directories 0777 less it.
const FILE_MODE: u32 = 0o666;
const DIR_MODE: u32 = 0o777;
/// An in-place file that has had no complete write yet.
const INCOMPLETE_MODE: u32 = 0o600;
/// The temporary directory is nobody else's business.
const TEMP_MODE: u32 = 0o700;

/// See the module.
pub struct Upload {
    file: File,
    place: Place,
    path: StorePath,
    written: u64,
    /// The target's directory, while the turn in which it was opened lasts.
    parent: Option<OwnedFd>,
}

enum Place {
    /// No name yet.
    Unnamed,
    /// A name in the temporary directory.
    Temporary(Temporary),
    /// The target itself, from this offset on (Content-Range).
    Target(u64),
}

/// A name in a device's temporary directory; dropped, it is removed.
struct Temporary {
    dir: OwnedFd,
    name: CString,
    /// Not renamed yet.
    there: bool,
}

impl Temporary {
    /// Makes it the file `name` in `parent`, in place of what is there.
    fn replace(mut self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        file::rename(self.dir.as_fd(), &self.name, parent, name)?;
        self.there = false;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.there {
            // What cannot be removed now is left to the sweep.
            let _ = file::unlink(self.dir.as_fd(), &self.name);
        }
    }
}

impl Store {
    /// Begins an upload of `path`, whose missing directories below the device
    /// are made. `reserve`: bytes to be reserved on the disk now.
    pub fn upload(&self, path: StorePath, reserve: Option<u64>) -> io::Result<Upload> {
        let parent = self.make_parent(&path)?;
        let mode = FILE_MODE & !self.umask;
        let (file, place) = match file::open_unnamed(parent.as_fd(), mode) {
            Ok(file) => (file, Place::Unnamed),
            Err(e) if has_no_unnamed(&e) => {
                let (temporary, file) =
                    self.temporary(&path, |dir, name| file::create_new(dir, name, mode))?;
                (file, Place::Temporary(temporary))
            }
            Err(e) => return Err(e),
        };
        if let Some(len) = reserve.filter(|len| *len > 0) {
            match file::reserve(file.as_fd(), len) {
                Err(e) if !cannot_reserve(&e) => return Err(e),
                _ => {}
            }
        }
        Ok(Upload {
            file: file.into(),
            place,
            path,
            written: 0,
            parent: Some(parent),
        })
    }

    /// Begins to write a part of `path` in place, from offset `first` on; the
    /// file is made when missing, and nothing of it is cut off.
    pub fn upload_in_place(&self, path: StorePath, first: u64) -> io::Result<Upload> {
        let parent = self.make_parent(&path)?;
        let file = self.beneath(path.as_c_str(), Open::InPlace(INCOMPLETE_MODE))?;
        if file::facts(file.as_fd())?.kind != file::Kind::Regular {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Upload {
            file: file.into(),
            place: Place::Target(first),
            path,
            written: 0,
            parent: Some(parent),
        })
    }

    /// The directory of `path`, made below its device when missing; the device
    /// itself never is (ENOENT).
    fn make_parent(&self, path: &StorePath) -> io::Result<OwnedFd> {
        match self.parent(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let parent = path.parent_and_name().map_or(&[][..], |(parent, _)| parent);
        let mut at = self.beneath(&CString::new(path.device())?, Open::Directory)?;
        // Each step is opened by its path from the docroot, so that symlinks
        // inside a device are held to the same rule as ever.
        for (slash, _) in parent.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let rest = &parent[slash + 1..];
            let end = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
            let name = CString::new(&rest[..end])?;
            match file::make_directory(at.as_fd(), &name, DIR_MODE) {
                Ok(()) if self.durability == Durability::Full => file::sync_directory(at.as_fd())?,
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            let so_far = CString::new(&parent[..slash + 1 + end])?;
            at = self.beneath(&so_far, Open::Directory)?;
        }
        Ok(at)
    }

    /// A new name in the temporary directory of `path`'s device, which is made
    /// when missing; `make` makes the file of that name.
    fn temporary<T>(
        &self,
        path: &StorePath,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> io::Result<T>,
    ) -> io::Result<(Temporary, T)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let device = self.beneath(&CString::new(path.device())?, Open::Directory)?;
        let dir = temp_dir(device.as_fd())?;
        loop {
            let nr = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}.{:x}.{nr}", std::process::id(), clock::seed());
            let name = CString::new(name)?;
            match make(dir.as_fd(), &name) {
                Ok(made) => {
                    let there = true;
                    return Ok((Temporary { dir, name, there }, made));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Removes what dead processes left in the temporary directories. Each
    /// worker does it when it starts.
    pub fn sweep(&self, docroot: &std::path::Path) {
        for device in std::fs::read_dir(docroot).into_iter().flatten().flatten() {
            let dir = device.path().join(temp_name());
            for left in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if maker(&left.file_name()).is_none_or(|pid| !process::exists(pid)) {
                    // Another worker's sweep may have been faster.
                    let _ = std::fs::remove_file(left.path());
                }
            }
        }
    }
}

/// The process that made a temporary name.
fn maker(name: &std::ffi::OsStr) -> Option<process::Pid> {
    name.to_str()?.split('.').next()?.parse().ok()
}

fn temp_name() -> &'static std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(TEMP_DIR)
}

fn temp_dir(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let name = CString::new(TEMP_DIR)?;
    match file::open_no_symlink(device, &name, Open::Directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    match file::make_directory(device, &name, TEMP_MODE) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => file::open_no_symlink(device, &name, Open::Directory),
    }
}

/// What open(2) says of O_TMPFILE where it is unknown: EOPNOTSUPP by the
/// filesystem, EISDIR or EINVAL by the kernel.
fn has_no_unnamed(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
    )
}

/// The filesystem has no such thing (EINVAL: ZFS): then a full disk is noticed
/// when it is written to.
fn cannot_reserve(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | libc::EINTR)
    )
}

impl Upload {
    /// Appends all of `bytes`.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let first = match self.place {
            Place::Target(first) => first,
            Place::Unnamed | Place::Temporary(_) => 0,
        };
        while !bytes.is_empty() {
            match file::pwrite(self.file.as_fd(), bytes, first + self.written) {
                Ok(n) => {
                    self.written += n as u64;
                    bytes = &bytes[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Bytes of the body that were written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// What it will be.
    pub fn path(&self) -> &StorePath {
        &self.path
    }

    /// The turn ends and the body has not: a waiting upload holds one
    /// descriptor.
    pub fn park(&mut self) {
        self.parent = None;
    }

    /// Makes it visible under its path, on the disk as far as `store` promises.
    pub fn commit(self, store: &Store) -> io::Result<()> {
        if store.durability != Durability::None {
            file::sync_data(self.file.as_fd())?;
        }
        let parent = match self.parent {
            Some(parent) => parent,
            None => store.parent(&self.path)?,
        };
        let (_, name) = super::split(&self.path)?;
        match self.place {
            Place::Unnamed => match file::link(self.file.as_fd(), parent.as_fd(), name) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let (temporary, ()) = store.temporary(&self.path, |dir, temp| {
                        file::link(self.file.as_fd(), dir, temp)
                    })?;
                    temporary.replace(parent.as_fd(), name)?;
                }
                other => other?,
            },
            Place::Temporary(temporary) => temporary.replace(parent.as_fd(), name)?,
            Place::Target(_) => {
                if file::facts(self.file.as_fd())?.mode == INCOMPLETE_MODE {
                    file::set_mode(self.file.as_fd(), FILE_MODE & !store.umask)?;
                }
            }
        }
        if store.durability == Durability::Full {
            file::sync_directory(parent.as_fd())?;
        }
        Ok(())
    }
}
