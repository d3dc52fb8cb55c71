//! The run folder, where the lock files are: derived from the configuration
//! alone, so that the next start, and a successor in an upgrade, finds the same.

use super::{Failure, failed};
use crate::config::{Config, Site};
use crate::store::path::RUN_DIR;
use crate::sys::{file, process};
use crate::worker::privileges::Identity;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// Finds or makes it: beside the pidfile if there is one, else in the first
/// docroot (no client can name it there), else, where the server may not write
/// to that, in the system's folder of temporary files. `user`: whom workers
/// become; it is theirs then.
pub(super) fn folder(
    config: &Config,
    docroot: &OwnedFd,
    user: Option<&Identity>,
) -> Result<PathBuf, Failure> {
    let mut candidates = Vec::new();
    if let Some(pidfile) = &config.pidfile {
        let mut beside = pidfile.as_os_str().to_owned();
        beside.push(".run");
        let beside = PathBuf::from(beside);
        // In a docroot clients could name it.
        let is_served = |site: &Site| beside.starts_with(&site.docroot);
        if !config.sites.iter().any(is_served) {
            candidates.push(beside);
        }
    }
    candidates.push(config.sites[0].docroot.join(OsStr::from_bytes(RUN_DIR)));
    let root = file::facts(docroot.as_fd()).map_err(failed("the docroot"))?;
    candidates
        .push(std::env::temp_dir().join(format!("rmogstored-{:x}-{:x}", root.device, root.inode)));
    let mut last = None;
    let in_public = candidates.len() - 1;
    for (nr, candidate) in candidates.into_iter().enumerate() {
        match make(&candidate, user, nr == in_public) {
            Ok(()) => {
                // Workers may have another working directory one day.
                return std::path::absolute(&candidate).map_err(failed("the run folder"));
            }
            Err(e) => {
                last = Some(failed(format_args!("lock files: {}", candidate.display()))(
                    e,
                ))
            }
        }
    }
    Err(last.unwrap_or_else(|| Failure("no folder for lock files".to_owned())))
}

/// Ours or our workers', and nobody else's: what others could put there they
/// could lock. Root takes it from whom an earlier start has given it to, but in
/// public, where anybody could have made it.
fn make(folder: &Path, user: Option<&Identity>, in_public: bool) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let found = std::fs::symlink_metadata(folder)?;
    let (we, owner) = (process::user(), found.uid());
    let is_ours = owner == we || user.is_some_and(|user| user.user == owner);
    let may_take = we == 0 && !in_public;
    if !found.is_dir() || !(is_ours || may_take) || found.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it must be a directory of the server's user that nobody else can write to",
        ));
    }
    match user {
        Some(user) => give(folder, user.user, user.group)?,
        None if !is_ours => give(folder, we, found.gid())?,
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
/// have been another one's.
fn give(folder: &Path, user: u32, group: u32) -> io::Result<()> {
    let open = |path: &Path| {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
    };
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !std::fs::symlink_metadata(&path)?.is_file() {
            continue;
        }
        let lock = open(&path)?;
        let found = lock.metadata()?;
        // One that has another name as well may be anybody's.
        if found.is_file() && found.nlink() == 1 && found.uid() != user {
            fchown(&lock, Some(user), Some(group))?;
        }
    }
    fchown(open(folder)?, Some(user), Some(group))
}
