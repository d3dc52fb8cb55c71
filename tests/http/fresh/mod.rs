//! Never stale: whatever a worker keeps in memory of a file, a request that begins after a change was completed
//! (the PUT was acknowledged, the system call has returned) sees the change, on every connection of every worker.
//!
//! `changes` has each kind of change by itself, to files that are old enough to be kept; `mounts` what only root
//! can do to a device; `stress` all of it under load, with readers that know which versions may be seen.

mod changes;
mod mapping;
mod mounts;
mod places;
mod steps;
mod stress;
mod tracks;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::harness::{Conn, PATIENCE, Server, eventually, pattern};
use crate::process::facts;

/// On both sides of what leaves in one send, none, one, and what goes by sendfile. Bytes.
const SIZES: [usize; 7] = [
    0,
    1,
    1024,
    8 * 1024 + 1,
    64 * 1024,
    64 * 1024 + 1,
    100 * 1024,
];

/// Nobody may keep the content of a file whose status changed less than a clock's tick ago: a second change might
/// leave no trace. Whatever margin the server keeps, it is less than this.
const OLD: Duration = Duration::from_secs(3);

/// For so long a worker may serve from memory what no question about the file would tell it (queues.txt 4), and a
/// moment more.
const LASTS: Duration = Duration::from_secs(14);

/// The content of one version of one file: no stretch of it is like that of another version, and from 32 bytes on it
/// says whose it is.
fn content(file: usize, version: u64, len: usize) -> Vec<u8> {
    static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(256 * 1024));
    let name = format!("<file {file:8}, version {version:5}>");
    if len < name.len() {
        return vec![b'A' + (version % 53) as u8; len];
    }
    let at = (file as u64 * 7919 + version * 104_729) % (128 * 1024);
    let filler = &POOL[at as usize..][..len - name.len()];
    [name.as_bytes(), filler].concat()
}

/// How long ago the file's status changed.
fn age(path: &Path) -> Duration {
    let facts = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let changed = Duration::new(facts.ctime() as u64, facts.ctime_nsec() as u32);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().saturating_sub(changed)
}

/// Waits until the file, made last of all, is old enough to be kept.
#[track_caller]
pub fn wait_until_old(path: &Path) {
    eventually("the files to be old", PATIENCE, || age(path) > OLD);
}

/// So many connections of each worker.
fn conns_of_each(server: &Server, count: usize) -> Vec<Conn> {
    let mut found = Vec::new();
    for pid in server.worker_pids() {
        let mut mine = 0;
        eventually("connections of each worker", PATIENCE, || {
            let mut conn = server.conn();
            conn.get("/").expect(200, true);
            if facts::owner(server.pid(), &conn) == Some(pid) {
                found.push(conn);
                mine += 1;
            }
            mine == count
        });
    }
    found
}

/// A folder on the same filesystem as the docroot, that every user can read and no request may.
fn outside() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    dir
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL")
}

/// Each takes the other's place, at once.
#[track_caller]
fn exchange(one: &Path, other: &Path) {
    let (one, other) = (c_path(one), c_path(other));
    // SAFETY: both are NUL-terminated paths that outlive the call
    let done = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    assert_eq!(done, 0, "renameat2: {}", io::Error::last_os_error());
}

/// Overwrites what is there, from `offset`, without cutting it.
#[track_caller]
fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(path);
    file.and_then(|file| file.write_all_at(bytes, offset))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// The same, and then the time of modification is what it was: only that of the status tells.
#[track_caller]
fn overwrite_in_secret(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(path).expect("open");
    let before = file.metadata().expect("stat").modified().expect("a time");
    file.write_all_at(bytes, 0).expect("write");
    file.set_modified(before).expect("futimens");
    assert_eq!(file.metadata().unwrap().modified().unwrap(), before);
}
