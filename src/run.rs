//! The run folder, where the lock files are: derived from the configuration
//! alone, so that the next start, and a successor in an upgrade, finds the same.

use crate::config::{Config, Site};
use crate::store::path::RUN_DIR;
use crate::sys::process;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Finds or makes it: the first of [`candidates`] that will do.
pub fn folder(config: &Config) -> io::Result<PathBuf> {
    let mut last = None;
    for candidate in candidates(config) {
        match make(&candidate) {
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
