//! The configuration as an operator meets it: files and argv given to the real binary, what it says, and how it ends.

mod check;
#[cfg(target_os = "linux")]
mod daemon;
mod packaging;
mod pidfile;
mod serve;
#[cfg(target_os = "linux")]
mod syslog;
#[cfg(target_os = "linux")]
mod verbs;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::server::{Listener, own_docroot};
use crate::harness::{PATIENCE, wait_for};

/// Config files, docroots and a pidfile of one test.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Folder {
        // a docroot is readable for others, and so is this
        Folder(own_docroot())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path of what is in it, as text.
    pub fn at(&self, name: &str) -> String {
        self.path(name).to_str().expect("a plain path").to_owned()
    }

    /// A docroot with one device.
    pub fn docroot(&self, name: &str) -> String {
        fs::create_dir_all(self.path(name).join("dev1")).expect("mkdir");
        self.at(name)
    }

    /// Writes a config file; gives its option.
    pub fn config(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("write");
        format!("--config={}", self.at(name))
    }
}

/// How a program ended, and what it said.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs the binary, which must end by itself.
#[track_caller]
pub fn run(args: &[&str]) -> Ended {
    run_command(Command::new(env!("CARGO_BIN_EXE_rmogstored")).args(args))
}

/// The end of its output is waited for as well: nobody may hold it open.
#[track_caller]
pub fn run_command(command: &mut Command) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start it");
    let pid = child.id() as i32;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let read = |stream| std::thread::spawn(move || std::io::read_to_string(stream));
    let out = read(Box::new(out.expect("piped")) as Box<dyn std::io::Read + Send>);
    let err = read(Box::new(err.expect("piped")) as Box<dyn std::io::Read + Send>);
    let guard = KillOnDrop(pid);
    let status = wait_for("its end", PATIENCE, || child.try_wait().expect("waitpid"));
    std::mem::forget(guard);
    wait_for("the end of its output", PATIENCE, || {
        (out.is_finished() && err.is_finished()).then_some(())
    });
    Ended {
        code: status.code(),
        out: out.join().expect("reader").expect("text"),
        err: err.join().expect("reader").expect("text"),
    }
}

/// For a test that fails while its child runs.
struct KillOnDrop(i32);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // SAFETY: the pid is a child's that was not reaped
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }
}

impl Ended {
    /// It ended with this code, and stderr names all these.
    #[track_caller]
    pub fn expect(self, code: i32, named: &[&str]) -> Ended {
        assert_eq!(self.code, Some(code), "{}", self.err);
        for name in named {
            assert!(self.err.contains(name), "{name:?} is not in: {}", self.err);
        }
        self
    }

    /// The listeners that it named.
    pub fn listeners(&self) -> Vec<Listener> {
        self.err.lines().filter_map(Listener::parse).collect()
    }
}

/// The first HTTP and the first sidechannel address.
#[track_caller]
pub fn addresses(listeners: &[Listener]) -> (SocketAddr, SocketAddr) {
    let http = listeners.iter().find_map(|listener| match listener {
        Listener::Http(addr) => Some(*addr),
        _ => None,
    });
    let mgmt = listeners.iter().find_map(|listener| match listener {
        Listener::Mgmt(addr) => Some(*addr),
        _ => None,
    });
    (http.expect("http"), mgmt.expect("mgmt"))
}

/// The pid in a pidfile.
pub fn pid_in(path: &Path) -> Option<i32> {
    let text = fs::read_to_string(path).ok()?;
    text.strip_suffix('\n')?.parse().ok()
}
