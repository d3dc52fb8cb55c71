//! A file on its way in. It is invisible until [`Upload::commit`]; dropped
//! before, it leaves nothing behind.
//!
//! It is written without a name (O_TMPFILE) in the directory of its target,
//! near which it shall lie on the disk, and linked in when it is complete: what
//! kill -9 leaves, the kernel frees. link(2) replaces nothing, so an existing
//! target is replaced by a second name, in the device's [`TEMP_DIR`], and
//! rename(2). Where there are no unnamed files, the upload has its name in that
//! directory from the start; so has one that is here whole while files are being
//! replaced, for which that is the shorter way. [`sweep`] removes what dead
//! processes left in it.

use super::path::{StorePath, TEMP_DIR};
use super::{Durability, Store};
use crate::seats::Seat;
use crate::sys::file::{self, Open};
use crate::sys::process;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files are 0666 less the umask, directories 0777 less it.
const FILE_MODE: u32 = 0o666;
const DIR_MODE: u32 = 0o777;
/// An in-place file that has had no complete write yet.
const INCOMPLETE_MODE: u32 = 0o600;
/// The temporary directory is nobody else's business.
const TEMP_MODE: u32 = 0o700;

/// After an upload that had to replace a file, so many are expected to.
const REPLACES: u32 = 32;

/// See the module.
pub struct Upload {
    file: File,
    place: Place,
    path: StorePath,
    written: u64,
    /// The target's directory, while the turn in which it was opened lasts.
    parent: Option<OwnedFd>,
}

/// What is known about an upload's content when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comes {
    /// It is here, and will be written and made visible in this same turn.
    AtOnce,
    /// So many bytes will come, at least one, for which room is reserved.
    Later(u64),
    /// It is short, or nobody knows how many bytes: what does not fit is noticed
    /// when it is written.
    Unreserved,
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
    root: Arc<OwnedFd>,
    /// `DEVICE/TEMP_DIR/NAME`. No client can name or make any part of it but
    /// the device, so it is walked as it is, from the docroot.
    path: CString,
    /// Not renamed yet.
    there: bool,
}

impl Temporary {
    /// Makes it the file `name` in `parent`, in place of what is there.
    fn replace(mut self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        file::rename(self.root.as_fd(), &self.path, parent, name)?;
        self.there = false;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.there {
            // What cannot be removed now is left to the sweep.
            let _ = file::unlink(self.root.as_fd(), &self.path);
        }
    }
}

impl Store {
    /// Begins an upload of `path`, whose missing directories below the device
    /// are made.
    pub fn upload(&self, path: &StorePath, comes: Comes, seat: &Seat) -> io::Result<Upload> {
        let parent = self.make_parent(path, seat)?;
        seat.may_wait();
        let mode = FILE_MODE & !self.umask;
        let (file, place) = if comes == Comes::AtOnce && self.expects_to_replace() {
            self.named(path, mode)?
        } else {
            match file::open_unnamed(parent.as_fd(), mode) {
                Ok(file) => (file, Place::Unnamed),
                Err(e) if file::has_no_unnamed(&e) => self.named(path, mode)?,
                Err(e) => return Err(e),
            }
        };
        if let Comes::Later(len) = comes {
            match file::reserve(file.as_fd(), len) {
                Err(e) if !cannot_reserve(&e) => return Err(e),
                _ => {}
            }
        }
        Ok(Upload {
            file: file.into(),
            place,
            path: path.clone(),
            written: 0,
            parent: Some(parent),
        })
    }

    /// Begins to write a part of `path` in place, from offset `first` on; the
    /// file is made when missing, and nothing of it is cut off.
    pub fn upload_in_place(&self, path: &StorePath, first: u64, seat: &Seat) -> io::Result<Upload> {
        let parent = self.make_parent(path, seat)?;
        let file = self.beneath(path.as_c_str(), Open::InPlace(INCOMPLETE_MODE), seat)?;
        if file::facts(file.as_fd())?.kind != file::Kind::Regular {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Upload {
            file: file.into(),
            place: Place::Target(first),
            path: path.clone(),
            written: 0,
            parent: Some(parent),
        })
    }

    /// The directory of `path`, made below its device when missing; the device
    /// itself never is (ENOENT).
    fn make_parent(&self, path: &StorePath, seat: &Seat) -> io::Result<OwnedFd> {
        match self.parent(path, seat) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let parent = path.parent_and_name().map_or(&[][..], |(parent, _)| parent);
        let mut at = self.beneath(&CString::new(path.device())?, Open::Directory, seat)?;
        seat.may_wait();
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
            at = self.beneath(&so_far, Open::Directory, seat)?;
        }
        Ok(at)
    }

    /// A file that has its name in the temporary directory from the start.
    fn named(&self, path: &StorePath, mode: u32) -> io::Result<(OwnedFd, Place)> {
        let (temporary, file) =
            self.temporary(path, |dir, name| file::create_new(dir, name, mode))?;
        Ok((file, Place::Temporary(temporary)))
    }

    /// Whether the next upload will probably replace a file: then a temporary
    /// name at once saves two links.
    fn expects_to_replace(&self) -> bool {
        self.replaces
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok()
    }

    /// A new name in the temporary directory of `path`'s device, which is made
    /// when missing; `make` makes the file of that name, given from the docroot.
    fn temporary<T>(
        &self,
        path: &StorePath,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> io::Result<T>,
    ) -> io::Result<(Temporary, T)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let device = path.device();
        let mut dir_was_made = false;
        loop {
            let nr = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = self.temporary_path(device, nr)?;
            match make(self.root.as_fd(), &path) {
                Ok(made) => {
                    let temporary = Temporary {
                        root: Arc::clone(&self.root),
                        path,
                        there: true,
                    };
                    return Ok((temporary, made));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound && !dir_was_made => {
                    let dir = CString::new([device, b"/", TEMP_DIR].concat())?;
                    match file::make_directory(self.root.as_fd(), &dir, TEMP_MODE) {
                        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                        _ => dir_was_made = true,
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// `DEVICE/TEMP_DIR/MAKER.NR`, put together in one place.
    fn temporary_path(&self, device: &[u8], nr: u64) -> io::Result<CString> {
        /// What `.` and a u64 take, and the NUL.
        const NUMBER: usize = 1 + 20 + 1;
        let parts: [&[u8]; 5] = [device, b"/", TEMP_DIR, b"/", self.maker.as_bytes()];
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut path = Vec::with_capacity(len + NUMBER);
        for part in parts {
            path.extend_from_slice(part);
        }
        write!(path, ".{nr}")?;
        Ok(CString::new(path)?)
    }
}

/// Removes what dead processes left in the temporary directories. Each worker
/// does it when it starts, in a thread of its own: a disk may hang.
pub fn sweep(docroot: &Path) {
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

/// The process that made a temporary name.
fn maker(name: &std::ffi::OsStr) -> Option<process::Pid> {
    name.to_str()?.split('.').next()?.parse().ok()
}

fn temp_name() -> &'static std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(TEMP_DIR)
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
    /// The error names the path.
    pub fn commit(self, store: &Store, seat: &Seat) -> Result<(), (StorePath, io::Error)> {
        let Upload {
            file,
            place,
            path,
            parent,
            ..
        } = self;
        commit(store, file.as_fd(), place, &path, parent, seat).map_err(|e| (path, e))
    }
}

fn commit(
    store: &Store,
    file: BorrowedFd<'_>,
    place: Place,
    path: &StorePath,
    parent: Option<OwnedFd>,
    seat: &Seat,
) -> io::Result<()> {
    if store.durability != Durability::None {
        seat.will_wait();
        file::sync_data(file)?;
    }
    let parent = match parent {
        Some(parent) => parent,
        None => store.parent(path, seat)?,
    };
    let (_, name) = super::split(path)?;
    match place {
        Place::Unnamed => match file::link(file, parent.as_fd(), name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                store.replaces.store(REPLACES, Ordering::Relaxed);
                let (temporary, ()) =
                    store.temporary(path, |dir, temp| file::link(file, dir, temp))?;
                temporary.replace(parent.as_fd(), name)?;
            }
            other => other?,
        },
        Place::Temporary(temporary) => temporary.replace(parent.as_fd(), name)?,
        Place::Target(_) => {
            if file::facts(file)?.mode == INCOMPLETE_MODE {
                file::set_mode(file, FILE_MODE & !store.umask)?;
            }
        }
    }
    if store.durability == Durability::Full {
        file::sync_directory(parent.as_fd())?;
    }
    Ok(())
}
