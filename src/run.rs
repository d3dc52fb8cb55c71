//! The run folder, where the lock files are: derived from the configuration
//! alone, so that the next start, and a successor in an upgrade, finds the same.

use crate::config::{Config, Site};
use crate::store::path::RUN_DIR;
use crate::sys::file::{Open, open_no_symlink};
use crate::sys::process;
use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// Whom workers become: then it is theirs.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    pub user: u32,
    pub group: u32,
}

/// Finds or makes it: the first of [`candidates`] that will do.
pub fn folder(config: &Config, owner: Option<Owner>) -> io::Result<PathBuf> {
    let public = std::env::temp_dir();
    let mut last = None;
    for candidate in candidates(config) {
        let in_public = candidate.parent() == Some(&public);
        match make(&candidate, owner, in_public) {
            // Workers may have another working directory one day.
            Ok(()) => return std::path::absolute(&candidate),
            Err(e) => {
                let text = format!("lock files: {}: {e}", candidate.display());
                last = Some(io::Error::new(e.kind(), text));
            }
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no folder for lock files")))
}

/// Where it may be: beside the pidfile if there is one, else in the first
/// docroot (no client can name it there), else, where the server may not write
/// to that, in the system's folder of temporary files.
pub fn candidates(config: &Config) -> impl Iterator<Item = PathBuf> {
    let beside = config.pidfile.as_deref().map(beside);
    // In a docroot clients could name it.
    let is_served = |beside: &PathBuf| {
        let is_below = |site: &Site| beside.starts_with(&site.docroot);
        config.sites.iter().any(is_below)
    };
    let docroot = &config.sites[0].docroot;
    let temporary = std::iter::once_with(move || {
        let root = std::fs::metadata(docroot).ok()?;
        let name = format!("rmogstored-{:x}-{:x}", root.dev(), root.ino());
        Some(std::env::temp_dir().join(name))
    });
    beside
        .filter(|beside| !is_served(beside))
        .into_iter()
        .chain([docroot.join(OsStr::from_bytes(RUN_DIR))])
        .chain(temporary.flatten())
}

fn beside(pidfile: &Path) -> PathBuf {
    let mut beside = pidfile.as_os_str().to_owned();
    beside.push(".run");
    PathBuf::from(beside)
}

/// Ours or our workers', and nobody else's: what others could put there they
/// could lock. Root takes it from whom an earlier start has given it to, but in
/// public, where anybody could have made it.
fn make(folder: &Path, wanted: Option<Owner>, in_public: bool) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let found = std::fs::symlink_metadata(folder)?;
    let (we, owner) = (process::user(), found.uid());
    let is_ours = owner == we || wanted.is_some_and(|wanted| wanted.user == owner);
    let may_take = we == 0 && !in_public;
    if !found.is_dir() || !(is_ours || may_take) || found.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it must be a directory of the server's user that nobody else can write to",
        ));
    }
    match wanted {
        Some(wanted) => give(folder, &found, wanted.user, wanted.group)?,
        None if !is_ours => give(folder, &found, we, found.gid())?,
        None => {}
    }
    // A docroot may have been mounted read-only since. Whoever owns the folder
    // may have put something else there by that name.
    let probe = folder.join(format!("probe.{}", std::process::id()));
    match std::fs::remove_file(&probe) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::File::create_new(&probe)?;
    std::fs::remove_file(&probe)
}

/// Makes the folder and the lock files in it this user's: an earlier start may
/// have been another one's. Whoever may write beside the folder (a docroot is
/// the workers' user's) can put a symlink in its place at any moment: it is
/// opened once, and what is in it by that.
fn give(folder: &Path, found: &Metadata, user: u32, group: u32) -> io::Result<()> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY)
        .open(folder)?;
    let id = |one: &Metadata| (one.dev(), one.ino());
    if id(&opened.metadata()?) != id(found) {
        return Err(io::Error::other("it is being replaced"));
    }
    // Should these be another folder's names, there is nothing by them.
    for entry in std::fs::read_dir(folder)? {
        let name = CString::new(entry?.file_name().into_vec())?;
        let lock = match open_no_symlink(opened.as_fd(), &name, Open::Read) {
            Ok(lock) => File::from(lock),
            // A socket is ENXIO, a symlink ELOOP; what is no file is no lock.
            Err(_) => continue,
        };
        let there = lock.metadata()?;
        // One that has another name as well may be anybody's.
        // And one of another user's was not made by a server.
        let is_lock = there.is_file() && there.nlink() == 1 && there.uid() == found.uid();
        if is_lock && there.uid() != user {
            fchown(&lock, Some(user), Some(group))?;
        }
    }
    fchown(&opened, Some(user), Some(group))
}
