//! A service across its masters: the real binary under an init of its own (`keeper.c`), as an operator has it, with
//! a config file, a pidfile, and a path to the program behind which another one can be installed.
//!
//! Whoever descends from the keeper belongs to the test, and ends with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::fault::Fault;
use super::server::{Listener, Log, readable_tempdir};
use super::{Conn, PATIENCE, cc, wait_for};
use crate::config::{Ended, run};
use crate::process::facts;
use crate::process::traffic::{Habit, Traffic};

/// The real program.
const OURS: &str = env!("CARGO_BIN_EXE_rmogstored");

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Exited(i32),
    Killed(i32),
}

/// What is found where the program was.
pub enum Program<'a> {
    Ours,
    /// Ours, in the power of this fault from its first moment.
    Faulty(&'a Fault),
    /// `heir.c`, which speaks the handshake as this script says.
    Heir(&'a str),
    /// `cmog.c`, which behaves like another daemon.
    Cmog,
    /// These lines, run by a shell. `$OURS` is the real program.
    Shell(&'a str),
    /// Bytes that are no program.
    Garbage,
    /// A file that nobody may execute.
    Locked,
    Nothing,
}

/// How the service is to be started.
pub struct Builder {
    folder: TempDir,
    conf: Vec<(String, String)>,
    args: Vec<String>,
    envs: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    /// Its argv[0]; the program's path by default.
    called: Option<String>,
    lent: Vec<(OwnedFd, i32)>,
    fault: bool,
}

impl Builder {
    /// A line of its config file; what has the key by default is replaced.
    pub fn set(mut self, key: &str, value: &str) -> Builder {
        set(&mut self.conf, key, Some(value));
        self
    }

    /// One more line of its config file, for what may be said twice.
    pub fn also(mut self, key: &str, value: &str) -> Builder {
        self.conf.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn workers(self, count: usize) -> Builder {
        self.set("worker-processes", &count.to_string())
    }

    pub fn arg(mut self, arg: &str) -> Builder {
        self.args.push(arg.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// Started from here, by its name alone: the program is found in PATH.
    pub fn by_name_in(mut self, cwd: &Path) -> Builder {
        self.cwd = cwd.to_owned();
        self.called("rmogstored")
    }

    /// Started by this name, in its folder: `bin/rmogstored`.
    pub fn called(mut self, name: &str) -> Builder {
        self.called = Some(name.to_owned());
        self
    }

    /// Started with this descriptor under that number, as systemd does it.
    pub fn lend(mut self, fd: &impl AsRawFd, number: i32) -> Builder {
        // out of the way of all numbers that are asked for
        // SAFETY: no pointers
        let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 500) };
        assert!(copy >= 0, "F_DUPFD: {}", io::Error::last_os_error());
        // SAFETY: the call has just made it, for us alone
        let copy = unsafe { OwnedFd::from_raw_fd(copy) };
        self.lent.push((copy, number));
        self
    }

    /// In the power of `Tree::fault`.
    pub fn faulty(mut self) -> Builder {
        self.fault = true;
        self
    }

    /// A path in the folder of the test, which is there before the start.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it and waits until it is ready. `None`: no C compiler.
    #[track_caller]
    pub fn start(self, program: &Program) -> Option<Tree> {
        let tree = self.spawn(program)?;
        tree.wait_log(0, "ready with ", PATIENCE);
        Some(tree)
    }

    /// The same for a test that watches the start.
    #[track_caller]
    pub fn spawn(mut self, program: &Program) -> Option<Tree> {
        let keeper = cc::program("keeper")?;
        let folder = self.folder.path().to_owned();
        let fault = match self.fault {
            true => Some(Fault::new(&folder, &folder.join("root"))?),
            false => None,
        };
        for (name, value) in fault.iter().flat_map(Fault::envs) {
            self.envs.push((name.into(), value.into()));
        }
        let conf = folder.join("conf");
        write_conf(&conf, &self.conf);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut paths = vec![folder.join("bin")];
        paths.extend(std::env::split_paths(&path));
        let program_path = folder.join("bin/rmogstored");
        install(program, &program_path)?;
        let mut command = Command::new(keeper);
        command.arg(match &self.called {
            Some(name) => name.as_ref(),
            None => program_path.as_os_str(),
        });
        command
            .arg(format!("--config={}", conf.display()))
            .args(&self.args)
            .env("PATH", std::env::join_paths(paths).expect("no colon"))
            .env("OURS", OURS)
            .envs(self.envs)
            .current_dir(&self.cwd)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let lent: Vec<(i32, i32)> = self
            .lent
            .iter()
            .map(|(fd, number)| (fd.as_raw_fd(), *number))
            .collect();
        let lend = move || {
            for (fd, number) in &lent {
                // SAFETY: no pointers; the copy is not close-on-exec
                if unsafe { libc::dup2(*fd, *number) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls only and allocates nothing, as the time between fork and exec wants
        unsafe { command.pre_exec(lend) };
        let mut keeper = command.spawn().expect("the keeper");
        let log = Log::follow(keeper.stderr.take().expect("piped"));
        let (ends, first) = follow_ends(&mut keeper);
        Some(Tree {
            hold: keeper.stdin.take(),
            keeper,
            ends,
            first,
            log,
            conf: Mutex::new(self.conf),
            fault,
            folder: self.folder,
        })
    }
}

fn set(conf: &mut Vec<(String, String)>, key: &str, value: Option<&str>) {
    conf.retain(|(old, _)| old != key);
    conf.extend(value.map(|value| (key.to_owned(), value.to_owned())));
}

/// In one step, as editors do.
fn write_conf(path: &Path, conf: &[(String, String)]) {
    let lines: String = conf
        .iter()
        .map(|(key, value)| format!("{key} = {value}\n"))
        .collect();
    let fresh = path.with_extension("new");
    fs::write(&fresh, lines).expect("write");
    fs::rename(&fresh, path).expect("rename");
}

/// Puts a program where the service looks for it, in one step. `None`: no C compiler.
fn install(program: &Program, path: &Path) -> Option<()> {
    let fresh = path.with_extension("new");
    let script = |lines: &str| write_program(&fresh, &format!("#!/bin/sh\n{lines}\n"), 0o755);
    match program {
        Program::Ours => symlink(OURS, &fresh).expect("symlink"),
        Program::Cmog => symlink(cc::program("cmog")?, &fresh).expect("symlink"),
        Program::Heir(steps) => {
            let heir = cc::program("heir")?;
            script(&format!("exec {} '{steps}' \"$@\"", heir.display()));
        }
        Program::Faulty(fault) => {
            let envs: String = fault
                .envs()
                .iter()
                .map(|(name, value)| format!("export {name}={value}\n"))
                .collect();
            script(&format!("{envs}exec \"$OURS\" \"$@\""));
        }
        Program::Shell(lines) => script(lines),
        Program::Garbage => write_program(&fresh, "\u{1}\u{2} no program\n", 0o755),
        Program::Locked => write_program(&fresh, "#!/bin/sh\nexit 0\n", 0o644),
        Program::Nothing => {
            fs::remove_file(path).expect("unlink");
            return Some(());
        }
    }
    fs::rename(&fresh, path).expect("rename");
    Some(())
}

/// By another process: while this one had the file open to write it, a child that another test forks at that moment
/// would keep it from being executed.
fn write_program(path: &Path, text: &str, mode: u32) {
    let wrote = Command::new("sh")
        .args(["-c", "printf %s \"$2\" > \"$1\"", "sh"])
        .arg(path)
        .arg(text)
        .status();
    assert!(wrote.expect("sh").success());
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

type Ends = Arc<Mutex<BTreeMap<i32, End>>>;

/// Reads what the keeper tells, for as long as it lives; its first line is the pid of what it has started.
fn follow_ends(keeper: &mut Child) -> (Ends, i32) {
    let mut told = BufReader::new(keeper.stdout.take().expect("piped"));
    let mut first = String::new();
    told.read_line(&mut first).expect("the keeper's first line");
    let first = first.trim().strip_prefix("started ");
    let first = first.and_then(|pid| pid.parse().ok()).expect("a pid");
    let ends = Ends::default();
    let theirs = Arc::clone(&ends);
    std::thread::spawn(move || {
        for line in told.lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |nr: usize| words[nr].parse::<i32>().expect("a number");
            let end = match words[1] {
                "exited" => End::Exited(number(2)),
                _ => End::Killed(number(2)),
            };
            theirs.lock().unwrap().insert(number(0), end);
        }
    });
    (ends, first)
}

/// A running service. Dropping it kills all of its processes.
pub struct Tree {
    keeper: Child,
    hold: Option<ChildStdin>,
    ends: Ends,
    first: i32,
    log: Log,
    conf: Mutex<Vec<(String, String)>>,
    fault: Option<Fault>,
    folder: TempDir,
}

/// Who has claimed a pidfile.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    NoFile,
    /// Locked by nobody; what is in it.
    Free(String),
    /// Locked; what is in it.
    Held(String),
}

impl Claim {
    /// Locked, and it names this process.
    pub fn is_of(&self, pid: i32) -> bool {
        *self == Claim::Held(format!("{pid}\n"))
    }

    /// It names this process, whether it is locked or not.
    pub fn names(&self, pid: i32) -> bool {
        self.is_of(pid) || *self == Claim::Free(format!("{pid}\n"))
    }

    /// Nobody has it, and it names nobody.
    pub fn is_over(&self) -> bool {
        *self == Claim::NoFile || *self == Claim::Free(String::new())
    }
}

impl Tree {
    /// Two workers, ten threads, a listener on a free port, a docroot with `dev1` and `dev2`, a pidfile, and short
    /// farewells.
    pub fn builder() -> Builder {
        let folder = readable_tempdir();
        for name in ["bin", "root/dev1", "root/dev2"] {
            fs::create_dir_all(folder.path().join(name)).expect("mkdir");
        }
        let at = |name: &str| folder.path().join(name).display().to_string();
        let conf = [
            ("docroot", at("root")),
            ("pidfile", at("pid")),
            ("httplisten", "127.0.0.1:0".to_owned()),
            ("worker-processes", "2".to_owned()),
            ("threads", "10".to_owned()),
            ("drain-grace", "0.3".to_owned()),
        ];
        Builder {
            conf: conf
                .map(|(key, value)| (key.to_owned(), value))
                .into_iter()
                .collect(),
            args: Vec::new(),
            envs: Vec::new(),
            cwd: folder.path().to_owned(),
            called: None,
            lent: Vec::new(),
            fault: false,
            folder,
        }
    }

    /// A path in the folder of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    pub fn pidfile(&self) -> PathBuf {
        self.path("pid")
    }

    pub fn oldbin(&self) -> PathBuf {
        self.path("pid.oldbin")
    }

    pub fn fault(&self) -> &Fault {
        self.fault.as_ref().expect("a tree that is faulty()")
    }

    /// Puts a file below the docroot.
    pub fn write(&self, below: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.root().join(below), bytes).expect("write");
    }

    /// Changes a line of the config file; `None` takes it away.
    pub fn set(&self, key: &str, value: Option<&str>) {
        let mut conf = self.conf.lock().unwrap();
        set(&mut conf, key, value);
        write_conf(&self.path("conf"), &conf);
    }

    /// What the config file was last made to say of this key.
    pub fn conf(&self, key: &str) -> Option<String> {
        let conf = self.conf.lock().unwrap();
        let found = conf.iter().rfind(|(name, _)| name == key);
        found.map(|(_, value)| value.clone())
    }

    /// Adds a line to the config file.
    pub fn also(&self, key: &str, value: &str) {
        let mut conf = self.conf.lock().unwrap();
        conf.push((key.to_owned(), value.to_owned()));
        write_conf(&self.path("conf"), &conf);
    }

    /// Writes the config file as it was last set, whatever is there now.
    pub fn restore_conf(&self) {
        write_conf(&self.path("conf"), &self.conf.lock().unwrap());
    }

    /// From now on this is the service's program. `false`: no C compiler.
    pub fn install(&self, program: &Program) -> bool {
        let path = self.path("bin/rmogstored");
        install(program, &path).is_some()
    }

    /// The pid of what was started first.
    pub fn first(&self) -> i32 {
        self.first
    }

    /// The pid in the pidfile.
    #[track_caller]
    pub fn master(&self) -> i32 {
        let claim = self.claim();
        match &claim {
            Claim::Held(text) | Claim::Free(text) => text.trim_end().parse().ok(),
            Claim::NoFile => None,
        }
        .unwrap_or_else(|| panic!("no pid in the pidfile: {claim:?}"))
    }

    /// What has the test's processes below it.
    pub fn keeper(&self) -> i32 {
        self.keeper.id() as i32
    }

    /// The pids of all masters that were started, the living and the dead.
    pub fn masters(&self) -> Vec<i32> {
        let mut masters = vec![self.first];
        masters.extend(self.log().iter().filter_map(|line| successor(line)));
        masters
    }

    /// The workers of this master.
    pub fn workers(&self, master: i32) -> Vec<i32> {
        let masters = self.masters();
        facts::children(master)
            .into_iter()
            .filter(|pid| !masters.contains(pid))
            .collect()
    }

    pub fn is_alive(&self, pid: i32) -> bool {
        facts::is_alive(pid)
    }

    /// Sends a signal to a process of this service.
    #[track_caller]
    pub fn signal(&self, pid: i32, signal: i32) {
        assert!(
            facts::descendants(self.keeper()).contains(&pid),
            "{pid} is none of ours:\n{}",
            self.family()
        );
        crate::process::signal(pid, signal);
    }

    /// Waits until a process has ended.
    #[track_caller]
    pub fn await_gone(&self, pid: i32) {
        let what = format!("the end of {pid}");
        super::eventually(&what, PATIENCE, || !self.is_alive(pid));
    }

    /// Waits for the end of a process that has outlived its parent, or never had one but the keeper.
    #[track_caller]
    pub fn await_end(&self, pid: i32) -> End {
        wait_for(&format!("the end of {pid}"), PATIENCE, || {
            self.ends.lock().unwrap().get(&pid).copied()
        })
    }

    /// What the processes have written to stderr.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// How many lines that is: what is written from now on has not been waited for.
    pub fn mark(&self) -> usize {
        self.log().len()
    }

    /// Waits for a line with this text behind the first `skip`.
    #[track_caller]
    pub fn wait_log(&self, skip: usize, pattern: &str, deadline: Duration) -> String {
        match self.log.wait(skip, deadline, |line| line.contains(pattern)) {
            Some(line) => line,
            None => panic!(
                "no log line with {pattern:?} within {deadline:?}; the processes:\n{}",
                self.family()
            ),
        }
    }

    /// Waits until somebody says that a successor was started; its pid.
    #[track_caller]
    pub fn await_successor(&self, skip: usize) -> i32 {
        let line = self
            .log
            .wait(skip, PATIENCE, |line| successor(line).is_some());
        let line = line.unwrap_or_else(|| panic!("nobody says that a successor was started"));
        successor(&line).expect("a pid")
    }

    /// Whether a line of the log from `skip` on has this text.
    pub fn has_said(&self, skip: usize, pattern: &str) -> bool {
        self.log()[skip..].iter().any(|line| line.contains(pattern))
    }

    /// The listeners that were named last, one for each time that the service named it.
    pub fn listeners(&self) -> Vec<Listener> {
        let lines = self.log();
        lines
            .iter()
            .filter_map(|line| Listener::parse(line))
            .collect()
    }

    /// The first TCP listener that serves everything.
    #[track_caller]
    pub fn addr(&self) -> SocketAddr {
        let first = self.listeners().into_iter().find_map(|l| match l {
            Listener::Http(addr) => Some(addr),
            _ => None,
        });
        first.expect("an http listener on TCP")
    }

    #[track_caller]
    pub fn conn(&self) -> Conn {
        Conn::connect(self.addr())
    }

    /// So many clients of each habit, who work and count what fails.
    pub fn clients(&self, habits: &[(Habit, usize)]) -> Traffic {
        Traffic::on(self.addr(), &self.root(), self.keeper(), habits)
    }

    /// Waits for a line behind the first `skip` that `is_it`.
    #[track_caller]
    pub fn wait_line(&self, skip: usize, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        match self.log.wait(skip, PATIENCE, is_it) {
            Some(line) => line,
            None => panic!("no log line: {what}; the processes:\n{}", self.family()),
        }
    }

    /// Waits until the pidfile's master says that it has nothing to do but to serve.
    #[track_caller]
    pub fn await_calm(&self) {
        super::eventually("a master that only serves", PATIENCE, || {
            let status = self.status();
            status["state"] == "serving"
                && status["predecessor"].is_null()
                && status["upgrade"]["state"] == "none"
        });
    }

    /// USR2 to the pidfile's master, and both serve; the pids of the old one and of the new one.
    #[track_caller]
    pub fn upgrade(&self) -> (i32, i32) {
        self.await_calm();
        let (skip, old) = (self.mark(), self.master());
        self.signal(old, libc::SIGUSR2);
        let new = self.await_successor(skip);
        let line = self.wait_log(skip, "both serve", PATIENCE);
        assert!(
            line.contains(&format!("upgrade: pid {new} is ready")),
            "{line}"
        );
        (old, new)
    }

    /// Runs a verb against the pidfile: `--reload`, `--status --json`.
    #[track_caller]
    pub fn verb(&self, args: &[&str]) -> Ended {
        let pidfile = format!("--pidfile={}", self.pidfile().display());
        run(&[args, &[pidfile.as_str()]].concat())
    }

    /// What `--status --json` says.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let ended = self.verb(&["--status", "--json"]);
        assert_eq!(ended.code, Some(0), "--status: {}", ended.err);
        serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {}", ended.out))
    }

    /// The state of the pidfile, from outside: nobody's claim is disturbed by it.
    pub fn claim(&self) -> Claim {
        claim(&self.pidfile())
    }

    pub fn old_claim(&self) -> Claim {
        claim(&self.oldbin())
    }

    /// Waits until this master, of whomever else there may be, has so many workers that accept.
    #[track_caller]
    pub fn settle_beside(&self, master: i32, wanted: usize) {
        super::eventually("a successor's workers", PATIENCE, || {
            let workers = self.workers(master);
            workers.len() == wanted && !workers.into_iter().any(facts::is_draining)
        });
    }

    /// Waits until the service is exactly this: these masters, each with so many workers that accept, and nobody else;
    /// and the first of them is who the pidfile names.
    #[track_caller]
    pub fn settle(&self, masters: &[(i32, usize)]) {
        let mut why = String::new();
        let start = std::time::Instant::now();
        while start.elapsed() < PATIENCE {
            match self.is_settled(masters) {
                Ok(()) => return,
                Err(other) => why = other,
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        panic!(
            "not {masters:?} after {PATIENCE:?}: {why}\n{}",
            self.family()
        );
    }

    fn is_settled(&self, masters: &[(i32, usize)]) -> Result<(), String> {
        let mut known = 0;
        for (master, wanted) in masters {
            let workers = self.workers(*master);
            let serving = workers.iter().filter(|pid| !facts::is_draining(**pid));
            let serving = serving.count();
            if !self.is_alive(*master) || serving != *wanted || workers.len() != *wanted {
                return Err(format!(
                    "{master} has {} workers, {serving} of them accept",
                    workers.len()
                ));
            }
            known += 1 + workers.len();
        }
        let all = facts::descendants(self.keeper()).len();
        if all != known {
            return Err(format!("{all} processes instead of {known}"));
        }
        let (claim, old) = (self.claim(), self.old_claim());
        let Some((master, workers)) = masters.first() else {
            return Ok(());
        };
        // cmog locks nothing, and has no workers
        if !claim.is_of(*master) && (*workers > 0 || !claim.names(*master)) {
            return Err(format!("the pidfile: {claim:?}"));
        }
        match masters.len() {
            1 if !old.is_over() && !self.was_killed(&old) => Err(format!("pid.oldbin: {old:?}")),
            2 if !masters.iter().any(|(pid, _)| old.names(*pid)) => {
                Err(format!("pid.oldbin: {old:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Nobody has it, and who it names could not empty it.
    fn was_killed(&self, claim: &Claim) -> bool {
        let Claim::Free(text) = claim else {
            return false;
        };
        let end = text
            .trim_end()
            .parse()
            .ok()
            .and_then(|pid: i32| self.ends.lock().unwrap().get(&pid).copied());
        matches!(end, Some(End::Killed(_)))
    }

    /// The processes, a line each, for the message of a test that fails.
    pub fn family(&self) -> String {
        let describe = |pid: i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let threads = facts::threads(pid);
            let accepts = if facts::is_draining(pid) {
                "no acceptor"
            } else {
                "accepts"
            };
            let short: Vec<&str> = stat.split(' ').take(4).collect();
            format!("  {} {threads} threads, {accepts}\n", short.join(" "))
        };
        let all = facts::descendants(self.keeper()).into_iter();
        let list: String = all.map(describe).collect();
        format!(
            "{list}pidfile {:?}, pid.oldbin {:?}",
            self.claim(),
            self.old_claim()
        )
    }

    /// A graceful stop by the pidfile's master; nobody is left.
    #[track_caller]
    pub fn stop(self) {
        let master = self.master();
        self.signal(master, libc::SIGQUIT);
        assert_eq!(self.await_end(master), End::Exited(0));
        super::eventually("the end of all processes", PATIENCE, || {
            facts::descendants(self.keeper()).is_empty()
        });
        assert!(self.claim().is_over(), "{:?}", self.claim());
        let old = self.old_claim();
        assert!(old.is_over() || self.was_killed(&old), "{old:?}");
    }
}

/// `upgrade: pid N was started` gives N.
fn successor(line: &str) -> Option<i32> {
    let (_, rest) = line.split_once("upgrade: pid ")?;
    rest.strip_suffix(" was started")?.parse().ok()
}

/// Who has claimed a pidfile. Two looks at the file and one at the locks between them, so that one master's words and
/// another's lock are not taken for one claim.
fn claim(path: &Path) -> Claim {
    let mut holders = BTreeSet::new();
    let mut unseen = 0;
    for _ in 0..100 {
        let Ok(facts) = fs::symlink_metadata(path) else {
            return Claim::NoFile;
        };
        let before = fs::read_to_string(path).unwrap_or_default();
        holders = lock_holders(facts.ino());
        let is_same = fs::read_to_string(path).unwrap_or_default() == before;
        match holders.len() {
            // one lock may be missed in such a list, but not again and again
            0 if is_same && unseen < 3 => unseen += 1,
            0 if is_same => return Claim::Free(before),
            1 if is_same => return Claim::Held(before),
            // the list of locks is read in parts, between which a lock may go from one to another
            _ => {}
        }
    }
    panic!(
        "{} changes without end, or is held twice: {holders:?}",
        path.display()
    );
}

/// Who has the flock, from /proc/locks: `1: FLOCK  ADVISORY  WRITE 101 fe:00:4711 0 EOF`. While the list changes a line
/// may be there twice.
fn lock_holders(inode: u64) -> BTreeSet<String> {
    let locks = fs::read_to_string("/proc/locks").expect("/proc/locks");
    let suffix = format!(":{inode}");
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_it = words.len() > 5
            && words[1] == "FLOCK"
            && words[3] == "WRITE"
            && words[5].ends_with(&suffix);
        is_it.then(|| words[4].to_owned())
    };
    locks.lines().filter_map(holder).collect()
}

impl Drop for Tree {
    fn drop(&mut self) {
        // the keeper kills whoever is left, and ends
        drop(self.hold.take());
        let _ = self.keeper.wait();
        if std::thread::panicking() {
            eprintln!("---- the log:\n{}\n----", self.log.lines().join("\n"));
        }
    }
}
