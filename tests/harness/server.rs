//! The real binary, started on free ports with a docroot of its own, and gone when the test ends.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io};

use tempfile::TempDir;

use super::sandbox::{self, Missing};
use super::{Conn, PATIENCE, eventually, wait_for};

/// Where the server's lock files are: no file of anybody's.
const RUN_DIR: &str = ".rmogstored-run";

/// The user that a test run by root hands the server to where permissions matter.
const NOBODY: u32 = 65534;

/// How the server is to be started.
pub struct Builder {
    args: Vec<String>,
    bare: bool,
    called: Option<PathBuf>,
    envs: Vec<(String, String)>,
    rlimits: Vec<(u32, u64, u64)>,
    umask: u32,
    inherited: Vec<(OwnedFd, i32)>,
    docroot: Option<PathBuf>,
    default_listener: bool,
    workers: u32,
    threads: u32,
    unprivileged: bool,
    mount: Option<Mount>,
    without: Vec<Missing>,
}

impl Builder {
    fn new() -> Self {
        Self {
            args: Vec::new(),
            bare: false,
            called: None,
            envs: Vec::new(),
            rlimits: Vec::new(),
            umask: 0o022,
            inherited: Vec::new(),
            docroot: None,
            default_listener: true,
            workers: 1,
            threads: 10,
            unprivileged: false,
            mount: None,
            without: Vec::new(),
        }
    }

    /// Worker processes; one unless told otherwise, since two cores run all tests at once.
    pub fn workers(mut self, count: u32) -> Self {
        self.workers = count;
        self
    }

    /// Consumer threads, all workers together; ten (the least) unless told otherwise.
    pub fn threads(mut self, count: u32) -> Self {
        self.threads = count;
        self
    }

    /// `none`, `data` or `full`.
    pub fn durability(self, level: &str) -> Self {
        self.arg(&format!("--durability={level}"))
    }

    /// `timeout("idle", 0.5)` is `--idle-timeout=0.5`; also `head`, `body`, `send`.
    pub fn timeout(self, which: &str, seconds: f64) -> Self {
        self.arg(&format!("--{which}-timeout={seconds}"))
    }

    /// Without any option that the test does not give itself: for those whose options are in files.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// By another name: a symlink that the test has made.
    pub fn called(mut self, path: &Path) -> Self {
        self.called = Some(path.to_owned());
        self
    }

    /// Any other option, as it stands.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// One more listener that serves everything.
    pub fn http(self, listen: &str) -> Self {
        self.arg(&format!("--httplisten={listen}"))
    }

    /// One more listener that only reads.
    pub fn http_get(self, listen: &str) -> Self {
        self.arg(&format!("--httpgetlisten={listen}"))
    }

    /// One more listener, for the sidechannel.
    pub fn mgmt(self, listen: &str) -> Self {
        self.arg(&format!("--mgmtlisten={listen}"))
    }

    /// Only the listeners that the test names itself.
    pub fn without_default_listener(mut self) -> Self {
        self.default_listener = false;
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A limit set in the child between fork and exec, e.g. `rlimit(libc::RLIMIT_NOFILE, 20, 20)`.
    pub fn rlimit(mut self, resource: u32, soft: u64, hard: u64) -> Self {
        self.rlimits.push((resource, soft, hard));
        self
    }

    /// Starts the server with this descriptor under that number.
    pub fn inherit(mut self, fd: &impl AsRawFd, number: i32) -> Self {
        // out of the way of all numbers that are asked for
        // SAFETY: no pointers
        let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 500) };
        assert!(copy >= 0, "F_DUPFD: {}", io::Error::last_os_error());
        // SAFETY: the call has just made it, for us alone
        let copy = unsafe { OwnedFd::from_raw_fd(copy) };
        self.inherited.push((copy, number));
        self
    }

    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = mask;
        self
    }

    /// A docroot that outlives the server, instead of one of its own.
    pub fn docroot(mut self, path: &Path) -> Self {
        self.docroot = Some(path.to_owned());
        self
    }

    /// Runs the server as a user whom file modes bind: root would pass every check.
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// Mounts a tmpfs of this size (`1m`) on one device. Look at it through `Server::seen`.
    pub fn tmpfs(self, device: &str, size: &str) -> Self {
        self.mount(device, "tmpfs", "tmpfs", &format!("size={size},mode=777"))
    }

    /// Mounts a filesystem on one device, in a mount namespace that ends with the server, so that a killed test
    /// run leaves no mount behind.
    pub fn mount(mut self, device: &str, source: &str, kind: &str, options: &str) -> Self {
        let text = |text: &str| CString::new(text).expect("no NUL");
        self.mount = Some(Mount {
            device: device.to_owned(),
            source: text(source),
            kind: text(kind),
            options: text(options),
        });
        self
    }

    /// Runs the server on a kernel (or a filesystem) that has no such thing.
    pub fn without(mut self, missing: Missing) -> Self {
        self.without.push(missing);
        self
    }

    /// Starts the server and waits until all its workers are ready.
    #[track_caller]
    pub fn start(self) -> Server {
        let mut server = self.spawn();
        server.await_ready();
        server
    }

    /// Starts the server for a test that expects it to end by itself: the exit status and what it said.
    #[track_caller]
    pub fn run_to_exit(self) -> (ExitStatus, String) {
        let mut server = self.spawn();
        let status = server.wait_exit(PATIENCE);
        server.log.join();
        (status, server.log().join("\n"))
    }

    /// Starts the server, and waits for nothing.
    #[track_caller]
    pub fn spawn(self) -> Server {
        let own = self.docroot.is_none().then(own_docroot);
        let root = match (&own, &self.docroot) {
            (Some(dir), _) => dir.path().to_owned(),
            (None, given) => given.clone().expect("a docroot was given"),
        };
        let mut exe = PathBuf::from(env!("CARGO_BIN_EXE_rmogstored"));
        let mut exe_dir = None;
        let drop_privileges = self.unprivileged && is_root();
        if drop_privileges {
            // the build folder may be closed to other users
            let dir = readable_tempdir();
            let copy = dir.path().join("rmogstored");
            fs::copy(&exe, &copy).expect("copy the binary for the other user");
            exe = copy;
            exe_dir = Some(dir);
            chown_tree(&root, NOBODY);
        }
        let mut command = Command::new(self.called.as_ref().unwrap_or(&exe));
        if !self.bare {
            command
                .arg(format!("--docroot={}", root.display()))
                .arg(format!("--worker-processes={}", self.workers))
                .arg(format!("--threads={}", self.threads));
            // a whole module can be run with workers of another kind
            if let Ok(kind) = std::env::var("RMOGSTORED_TEST_WORKERS")
                && !self
                    .args
                    .iter()
                    .any(|arg| arg.starts_with("--exec-workers"))
            {
                command.arg(format!("--exec-workers={kind}"));
            }
        }
        if !self.bare && self.default_listener {
            command.arg("--httplisten=127.0.0.1:0");
        }
        command.args(&self.args).envs(self.envs.iter().cloned());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if drop_privileges {
            command.gid(NOBODY).uid(NOBODY);
        }
        self.prepare_child(&mut command, &root);
        // a copy cannot be executed while another test's child, between its fork and its exec, still has the
        // descriptor by which it was written
        let mut child = wait_for("the server to be executable", PATIENCE, || {
            match command.spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => None,
                other => {
                    Some(other.unwrap_or_else(|error| panic!("start {}: {error}", exe.display())))
                }
            }
        });
        let log = Log::follow(child.stderr.take().expect("stderr is piped"));
        Server {
            child,
            exe,
            log,
            root,
            ended: None,
            _own: own,
            _exe_dir: exe_dir,
        }
    }

    fn prepare_child(&self, command: &mut Command, root: &Path) {
        let umask = self.umask;
        let rlimits = self.rlimits.clone();
        let mount = self.mount.clone().map(|mount| {
            let target = root.join(&mount.device);
            let target = CString::new(target.to_str().expect("a plain path")).expect("no NUL");
            (mount, target)
        });
        let filter = sandbox::filter(&self.without);
        let inherited: Vec<(i32, i32)> = self
            .inherited
            .iter()
            .map(|(fd, number)| (fd.as_raw_fd(), *number))
            .collect();
        let prepare = move || {
            for &(fd, number) in &inherited {
                // SAFETY: no pointers; the copy is not close-on-exec
                check(unsafe { libc::dup2(fd, number) }.min(0))?;
            }
            // SAFETY: umask cannot fail and touches this process alone
            unsafe { libc::umask(umask as libc::mode_t) };
            for &(resource, soft, hard) in &rlimits {
                let limit = libc::rlimit {
                    rlim_cur: soft as _,
                    rlim_max: hard as _,
                };
                // SAFETY: the struct lives across the call
                check(unsafe { libc::setrlimit(resource as _, &limit) })?;
            }
            if let Some((mount, target)) = &mount {
                mount.apply(target)?;
            }
            sandbox::apply(&filter)
        };
        // SAFETY: the closure makes system calls only and allocates nothing, as the time between fork and exec wants
        unsafe { command.pre_exec(prepare) };
    }
}

/// A filesystem that only the server sees.
#[derive(Clone)]
struct Mount {
    device: String,
    source: CString,
    kind: CString,
    options: CString,
}

impl Mount {
    #[cfg(target_os = "linux")]
    fn apply(&self, target: &CString) -> io::Result<()> {
        // SAFETY: no pointers; on failure nothing has changed
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: NUL-terminated literals; the source and type are ignored for a change of propagation
        check(unsafe {
            libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                std::ptr::null(),
                private,
                std::ptr::null(),
            )
        })?;
        // SAFETY: all strings are NUL-terminated and outlive the call
        check(unsafe {
            libc::mount(
                self.source.as_ptr(),
                target.as_ptr(),
                self.kind.as_ptr(),
                0,
                self.options.as_ptr().cast(),
            )
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn apply(&self, _target: &CString) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub fn is_root() -> bool {
    // SAFETY: geteuid cannot fail
    unsafe { libc::geteuid() == 0 }
}

pub(super) fn readable_tempdir() -> TempDir {
    let dir = tempfile::Builder::new()
        .prefix("rmogstored-test-")
        .tempdir()
        .expect("a temporary folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    dir
}

/// A fresh docroot with `dev1` and `dev2`.
pub fn own_docroot() -> TempDir {
    let dir = readable_tempdir();
    for device in ["dev1", "dev2"] {
        fs::create_dir(dir.path().join(device)).expect("mkdir");
    }
    dir
}

fn chown_tree(root: &Path, user: u32) {
    std::os::unix::fs::chown(root, Some(user), Some(user)).expect("chown");
    for entry in fs::read_dir(root).expect("readdir").map(Result::unwrap) {
        if entry.file_type().expect("type").is_dir() {
            chown_tree(&entry.path(), user);
        }
    }
}

/// A listener of the running server, as its `listening on` line names it.
#[derive(Clone, Debug, PartialEq)]
pub enum Listener {
    Http(SocketAddr),
    HttpGet(SocketAddr),
    HttpUnix(PathBuf),
    HttpGetUnix(PathBuf),
    Mgmt(SocketAddr),
    MgmtUnix(PathBuf),
}

impl Listener {
    /// `listening on http 127.0.0.1:80` and its like.
    pub fn parse(line: &str) -> Option<Listener> {
        let (_, rest) = line.split_once("listening on ")?;
        let (kind, place) = rest.trim().split_once(' ')?;
        let unix = place.strip_prefix("unix:").map(PathBuf::from);
        Some(match (kind, unix) {
            ("http", Some(path)) => Listener::HttpUnix(path),
            ("http-get", Some(path)) => Listener::HttpGetUnix(path),
            ("http", None) => Listener::Http(place.parse().ok()?),
            ("http-get", None) => Listener::HttpGet(place.parse().ok()?),
            ("mgmt", Some(path)) => Listener::MgmtUnix(path),
            ("mgmt", None) => Listener::Mgmt(place.parse().ok()?),
            _ => return None,
        })
    }
}

/// What the server wrote to stderr, line by line, while it runs.
pub(super) struct Log {
    shared: Arc<(Mutex<Vec<String>>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Log {
    pub(super) fn follow(stderr: impl Read + Send + 'static) -> Log {
        let shared = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                theirs
                    .0
                    .lock()
                    .unwrap()
                    .push(String::from_utf8_lossy(&line).into_owned());
                theirs.1.notify_all();
            }
        });
        Log {
            shared,
            reader: Some(reader),
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.shared.0.lock().unwrap().clone()
    }

    /// Waits for the first line from `skip` on that `wanted` likes.
    pub(super) fn wait(
        &self,
        skip: usize,
        deadline: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let end = Instant::now() + deadline;
        let mut lines = self.shared.0.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().skip(skip).find(|line| wanted(line)) {
                return Some(line.clone());
            }
            let left = end.checked_duration_since(Instant::now())?;
            lines = self.shared.1.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Waits until every process that holds the pipe has gone, so that no line is missing.
    pub(super) fn join(&mut self) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        eventually("the end of the server's stderr", PATIENCE, || {
            reader.is_finished()
        });
        reader.join().expect("the log reader");
    }
}

/// A running server. Dropping it kills and reaps master and workers, by pid.
pub struct Server {
    child: Child,
    exe: PathBuf,
    log: Log,
    root: PathBuf,
    ended: Option<ExitStatus>,
    _own: Option<TempDir>,
    _exe_dir: Option<TempDir>,
}

impl Server {
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// One worker, ten threads, one listener, a docroot with `dev1` and `dev2`.
    #[track_caller]
    pub fn start() -> Server {
        Builder::new().start()
    }

    #[track_caller]
    fn await_ready(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self
            .log
            .wait(0, Duration::from_millis(20), |line| {
                line.contains("ready with ")
            })
            .is_none()
        {
            if let Some(status) = self.child.try_wait().expect("waitpid") {
                self.ended = Some(status);
                self.log.join();
                panic!("the server ended with {status} before it was ready");
            }
            assert!(
                Instant::now() < end,
                "the server is not ready after {PATIENCE:?}"
            );
        }
        assert!(
            !self.listeners().is_empty(),
            "no `listening on` line before `ready`"
        );
    }

    /// The master's pid.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The listeners, in the order in which the server named them.
    pub fn listeners(&self) -> Vec<Listener> {
        self.log
            .lines()
            .iter()
            .filter_map(|line| Listener::parse(line))
            .collect()
    }

    /// The first TCP listener that serves everything.
    #[track_caller]
    pub fn addr(&self) -> SocketAddr {
        let first = self
            .listeners()
            .into_iter()
            .find_map(|listener| match listener {
                Listener::Http(addr) => Some(addr),
                _ => None,
            });
        first.expect("an http listener on TCP")
    }

    /// The first TCP listener that only reads.
    #[track_caller]
    pub fn get_addr(&self) -> SocketAddr {
        let first = self
            .listeners()
            .into_iter()
            .find_map(|listener| match listener {
                Listener::HttpGet(addr) => Some(addr),
                _ => None,
            });
        first.expect("an http-get listener on TCP")
    }

    /// The first sidechannel listener on TCP.
    #[track_caller]
    pub fn mgmt_addr(&self) -> SocketAddr {
        let first = self
            .listeners()
            .into_iter()
            .find_map(|listener| match listener {
                Listener::Mgmt(addr) => Some(addr),
                _ => None,
            });
        first.expect("a mgmt listener on TCP")
    }

    /// The first UNIX listener that serves everything.
    #[track_caller]
    pub fn unix_path(&self) -> PathBuf {
        let first = self
            .listeners()
            .into_iter()
            .find_map(|listener| match listener {
                Listener::HttpUnix(path) => Some(path),
                _ => None,
            });
        first.expect("an http listener on a UNIX socket")
    }

    /// A new connection to the first full listener.
    #[track_caller]
    pub fn conn(&self) -> Conn {
        Conn::connect(self.addr())
    }

    /// The newest pid of every worker slot, by slot.
    pub fn worker_pids(&self) -> Vec<i32> {
        let mut newest = BTreeMap::new();
        for (slot, pid) in self
            .log
            .lines()
            .iter()
            .filter_map(|line| parse_worker(line))
        {
            newest.insert(slot, pid);
        }
        newest.into_values().collect()
    }

    /// What the server wrote to stderr so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Waits for a line that contains `pattern`, already written or still to come.
    #[track_caller]
    pub fn wait_log(&self, pattern: &str, deadline: Duration) -> String {
        self.wait_log_after(0, pattern, deadline)
    }

    /// As `wait_log`, but among the lines after the first `skip` (usually `log().len()` of a moment before).
    #[track_caller]
    pub fn wait_log_after(&self, skip: usize, pattern: &str, deadline: Duration) -> String {
        match self.log.wait(skip, deadline, |line| line.contains(pattern)) {
            Some(line) => line,
            None => panic!("no log line with {pattern:?} within {deadline:?}"),
        }
    }

    /// Sends a signal to the master.
    pub fn signal(&self, signal: i32) {
        assert!(self.ended.is_none(), "the master has already been reaped");
        // SAFETY: the pid is our child's, not yet reaped, so nobody else can have it
        check(unsafe { libc::kill(self.pid(), signal) }).expect("kill");
    }

    /// Waits for the master's end and reaps it.
    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        let child = &mut self.child;
        let status = wait_for("the master's exit", deadline, || {
            child.try_wait().expect("waitpid")
        });
        self.ended = Some(status);
        status
    }

    /// A graceful stop, which must end with exit code 0 and no process left; gives the whole log.
    #[track_caller]
    pub fn stop(mut self) -> Vec<String> {
        self.signal(libc::SIGQUIT);
        let status = self.wait_exit(PATIENCE);
        assert_eq!(
            status.code(),
            Some(0),
            "QUIT must end in exit code 0, not {status}"
        );
        for pid in self.all_worker_pids() {
            eventually("a worker's end before its master's", PATIENCE, || {
                !self.is_ours(pid)
            });
        }
        self.log.join();
        self.log()
    }

    fn all_worker_pids(&self) -> Vec<i32> {
        self.log
            .lines()
            .iter()
            .filter_map(|line| parse_worker(line))
            .map(|(_, pid)| pid)
            .collect()
    }

    /// Is this pid a living process of our binary? (A pid may have been reused; a zombie has no `exe`.)
    pub fn is_ours(&self, pid: i32) -> bool {
        if !Path::new("/proc/self/exe").exists() {
            // SAFETY: signal 0 delivers nothing
            return unsafe { libc::kill(pid, 0) } == 0;
        }
        let Ok(exe) = fs::read_link(format!("/proc/{pid}/exe")) else {
            return false;
        };
        let ours = fs::canonicalize(&self.exe).unwrap_or_else(|_| self.exe.clone());
        exe.to_string_lossy().starts_with(&*ours.to_string_lossy())
    }

    /// The docroot.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path below the docroot.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below.trim_start_matches('/'))
    }

    /// The same path as the server sees it: through its mount namespace.
    pub fn seen(&self, below: &str) -> PathBuf {
        let inside = self.path(below);
        Path::new(&format!("/proc/{}/root", self.pid()))
            .join(inside.strip_prefix("/").unwrap_or(&inside))
    }

    /// Puts a file there behind the server's back, making its folders.
    #[track_caller]
    pub fn write(&self, below: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(below);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir -p");
        fs::write(&path, bytes).expect("write");
        path
    }

    /// The bytes of a file, or `None` if there is none.
    pub fn read(&self, below: &str) -> Option<Vec<u8>> {
        fs::read(self.path(below)).ok()
    }

    /// Everything below the docroot that is not a folder, hidden names too, sorted.
    pub fn names(&self) -> Vec<String> {
        names_below(&self.root)
    }
}

/// Everything below a folder that is not itself a folder, as sorted relative paths.
pub fn names_below(root: &Path) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("readdir").map(Result::unwrap) {
            let path = entry.path();
            if folder == root && entry.file_name() == RUN_DIR {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => walk(root, &path, names),
                // comes and goes with the elected worker's rounds
                _ if path.extension().is_some_and(|e| e == "probe") => {}
                _ => names.push(
                    path.strip_prefix(root)
                        .expect("below")
                        .to_string_lossy()
                        .into_owned(),
                ),
            }
        }
    }
    let mut names = Vec::new();
    walk(root, root, &mut names);
    names.sort();
    names
}

/// `… worker 0 is ready, pid 101` gives `(0, 101)`.
fn parse_worker(line: &str) -> Option<(u32, i32)> {
    let (_, rest) = line.split_once(": worker ")?;
    let (slot, rest) = rest.split_once(" is ready, pid ")?;
    Some((slot.parse().ok()?, rest.trim().parse().ok()?))
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
        // workers end by themselves when the master's channel closes; whoever does not is ended by pid
        let end = Instant::now() + Duration::from_secs(5);
        let mut alive = self.all_worker_pids();
        loop {
            alive.retain(|pid| self.is_ours(*pid));
            if alive.is_empty() || Instant::now() >= end {
                break;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        for pid in alive {
            // SAFETY: the pid was checked to be a process of our binary, started for this test
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        if std::thread::panicking() {
            eprintln!(
                "---- the server's log:\n{}\n----",
                self.log.lines().join("\n")
            );
        }
    }
}
