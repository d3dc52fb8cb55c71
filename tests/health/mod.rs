//! The elected worker: who it is, and what it does for the disks. PROTOCOL.md's section 3, and the reports of
//! section 1.

mod devices;
mod election;
mod usage;
mod utilization;

use crate::harness::server::Builder;
use crate::harness::{Conn, Server, wait_for};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// A server that has a sidechannel.
fn builder() -> Builder {
    Server::builder().mgmt("127.0.0.1:0")
}

/// A connection that watches.
fn watch(server: &Server) -> Conn {
    let mut conn = Conn::connect(server.mgmt_addr());
    conn.send("watch\n");
    conn
}

/// The next report: device and utilization, as they stand.
#[track_caller]
fn report(conn: &mut Conn) -> Vec<(String, String)> {
    let text = String::from_utf8(conn.read_until(b".\n")).expect("ASCII");
    // a dot that ends a line can only be the last line
    let lines = text.strip_suffix(".\n").expect("an end").lines();
    lines
        .map(|line| {
            let (device, util) = line.split_once('\t').expect(line);
            (device.to_owned(), util.to_owned())
        })
        .collect()
}

/// The lock file, in the first docroot.
const LOCK: &str = ".rmogstored-run/health.lock";

/// Who holds the lock of this inode, as the kernel lists it; waiters are not among them.
fn holders(inode: u64) -> Vec<i32> {
    let all = fs::read_to_string("/proc/locks").expect("/proc/locks");
    let holder = |line: &str| {
        // `3: FLOCK ADVISORY WRITE 11284 fe:00:10338351 0 EOF`; a waiter has `->` in second place
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_flock = fields.next()? == "FLOCK";
        let pid = fields.nth(2)?.parse().ok()?;
        let at: u64 = fields.next()?.rsplit_once(':')?.1.parse().ok()?;
        (is_flock && at == inode).then_some(pid)
    };
    all.lines().filter_map(holder).collect()
}

/// The inode of the lock file, as it is now.
fn lock_inode(server: &Server) -> Option<u64> {
    fs::metadata(server.path(LOCK))
        .ok()
        .map(|facts| facts.ino())
}

/// The elected process, once there is one.
#[track_caller]
fn leader(server: &Server, deadline: Duration) -> i32 {
    wait_for("a holder of the lease", deadline, || {
        holders(lock_inode(server)?).first().copied()
    })
}
