//! The run folder, where the lock files are: derived from the configuration
//! alone, so that the next start, and a successor in an upgrade, finds the same.

use super::{Failure, failed};
use crate::config::{Config, Site};
use crate::store::path::RUN_DIR;
use crate::sys::{file, process};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Finds or makes it: beside the pidfile if there is one, else in the first
/// docroot (no client can name it there), else, where the server may not write
/// to that, in the system's folder of temporary files.
pub(super) fn folder(config: &Config, docroot: &OwnedFd) -> Result<PathBuf, Failure> {
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
    for candidate in candidates {
        match make(&candidate) {
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

/// Ours, and nobody else's: what others could put there they could lock.
fn make(folder: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let found = std::fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != process::user() || found.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it must be a directory of the server's user that nobody else can write to",
        ));
    }
    // A docroot may have been mounted read-only since.
    let probe = folder.join(format!("probe.{}", std::process::id()));
    std::fs::File::create(&probe)?;
    std::fs::remove_file(&probe)
}
