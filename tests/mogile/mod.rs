//! A MogileFS cluster of two storage hosts with two devices each, and everybody who talks to them: the
//! tracker's jobs, mogadm and the Perl client, on the wire as PROTOCOL.md section 4 has it, spelling by
//! spelling. No test needs MogileFS itself; `scripts/tracker-demo` shows it.

mod agent;
mod files;
mod monitor;
mod sidechannel;
mod stream;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::Server;
use crate::harness::server::Builder;

/// A storage host as a tracker knows it.
struct Host {
    server: Server,
    /// Its devices; ids are the cluster's, not the host's.
    devices: [u32; 2],
    _root: TempDir,
}

impl Host {
    #[track_caller]
    fn start(devices: [u32; 2], with: impl Fn(Builder) -> Builder) -> Host {
        let root = tempfile::Builder::new()
            .prefix("rmogstored-test-")
            .tempdir()
            .expect("a docroot");
        for id in devices {
            fs::create_dir(root.path().join(format!("dev{id}"))).expect("mkdir");
        }
        let builder = Server::builder()
            .docroot(root.path())
            .workers(2)
            .mgmt("127.0.0.1:0");
        Host {
            server: with(builder).start(),
            devices,
            _root: root,
        }
    }

    /// Where a file lies on the disk.
    fn file(&self, path: &str) -> PathBuf {
        self.server.path(path)
    }
}

/// Two hosts: dev1 and dev2, dev3 and dev4.
#[track_caller]
fn cluster() -> [Host; 2] {
    [[1, 2], [3, 4]].map(|devices| Host::start(devices, |builder| builder))
}

/// Where MogileFS puts a file: `/dev1/0/000/007/0000007000.fid`.
fn fid_path(device: u32, fid: u64) -> String {
    let digits = format!("{fid:010}");
    let (b, mmm, ttt) = (&digits[..1], &digits[1..4], &digits[4..7]);
    format!("/dev{device}/{b}/{mmm}/{ttt}/{digits}.fid")
}

/// What a tracker gives a storage host for an answer before it calls it unreachable: `conn_timeout`.
const TRACKER_PATIENCE: Duration = Duration::from_secs(2);
