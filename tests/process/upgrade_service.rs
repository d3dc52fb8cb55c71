//! Upgrades of a server as an operator runs it: detached, with a log file or the system's log, with workers of another
//! user, with systemd's sockets, on a full disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::facts;
use crate::config::run_command;
use crate::harness::server::is_root;
use crate::harness::tree::{Builder, Claim, End, Program, Tree};
use crate::harness::{Conn, PATIENCE, eventually};

/// Its number everywhere.
const NOBODY: u32 = 65534;

/// Where lines go that nobody's stderr gets.
enum Journal {
    /// Log files: the one, and those that it was renamed to.
    Files(RefCell<Vec<PathBuf>>),
    System(Arc<Mutex<Vec<String>>>, Arc<AtomicBool>),
}

impl Journal {
    fn file(path: &Path) -> Journal {
        Journal::Files(RefCell::new(vec![path.to_owned()]))
    }

    /// Who plays syslogd, until it is dropped.
    fn system(socket: UnixDatagram) -> Journal {
        let (lines, enough) = <(Arc<Mutex<Vec<String>>>, Arc<AtomicBool>)>::default();
        let (theirs, is_enough) = (Arc::clone(&lines), Arc::clone(&enough));
        let tick = Some(Duration::from_millis(50));
        socket.set_read_timeout(tick).expect("SO_RCVTIMEO");
        std::thread::spawn(move || {
            let mut buf = [0; 8192];
            while !is_enough.load(Ordering::Relaxed) {
                if let Ok(len) = socket.recv(&mut buf) {
                    let line = String::from_utf8_lossy(&buf[..len]).into_owned();
                    // `<30>Nov 21 15:47:40 rmogstored[1]: info: text`, as a file has it
                    let line = line[20..].replacen("]: ", "] ", 1);
                    theirs.lock().unwrap().push(line);
                }
            }
        });
        Journal::System(lines, enough)
    }

    fn lines(&self) -> Vec<String> {
        match self {
            Journal::System(lines, _) => lines.lock().unwrap().clone(),
            Journal::Files(paths) => {
                let read = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
                let text: String = paths.borrow().iter().map(read).collect();
                text.lines().map(str::to_owned).collect()
            }
        }
    }

    /// How many lines there are: what is written from now on has not been waited for.
    fn mark(&self) -> usize {
        self.lines().len()
    }

    /// The first line of this process behind `skip` with this text.
    #[track_caller]
    fn wait(&self, skip: usize, pid: i32, text: &str) -> String {
        let ident = format!("rmogstored[{pid}] ");
        let is_it = |line: &String| line.starts_with(&ident) && line.contains(text);
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let lines = self.lines();
            if let Some(line) = lines.iter().skip(skip).find(|line| is_it(line)) {
                return line.clone();
            }
            assert!(
                std::time::Instant::now() < end,
                "pid {pid} does not say {text:?}: {lines:#?}"
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// USR2 to the pidfile's master; that, and its successor's pid.
    #[track_caller]
    fn usr2(&self, tree: &Tree) -> (i32, i32) {
        tree.await_calm();
        let (skip, old) = (self.mark(), tree.master());
        tree.signal(old, libc::SIGUSR2);
        let line = self.wait(skip, old, " was started");
        let pid = line
            .split_once("upgrade: pid ")
            .and_then(|(_, rest)| rest.strip_suffix(" was started")?.parse().ok());
        (old, pid.expect("a pid"))
    }

    /// The same, and both serve.
    #[track_caller]
    fn upgrade(&self, tree: &Tree) -> (i32, i32) {
        let skip = self.mark();
        let (old, new) = self.usr2(tree);
        self.wait(skip, old, &format!("pid {new} is ready; both serve"));
        eventually("the pidfile to name the new one", PATIENCE, || {
            tree.claim().is_of(new) && tree.old_claim().is_of(old)
        });
        (old, new)
    }

    /// A program that fails; the old one is told why, and says it.
    #[track_caller]
    fn roll_back(&self, tree: &Tree) {
        assert!(tree.install(&Program::Shell("exit 7")));
        tree.await_calm();
        let (skip, old) = (self.mark(), tree.master());
        tree.signal(old, libc::SIGUSR2);
        let line = self.wait(skip, old, "upgrade failed: ");
        assert!(
            line.contains("exited with 7; this server serves on"),
            "{line}"
        );
        assert!(tree.install(&Program::Ours));
        tree.settle(&[(old, 2)]);
    }

    /// Manual in both directions, one that fails, and one that commits by itself. `look` is called whenever there is
    /// something to be seen: with the masters that there are. `can_fail`: it was started as the program that a test
    /// can replace.
    #[track_caller]
    fn all_ways(&self, tree: &Tree, can_fail: bool, look: impl Fn(&[i32])) {
        look(&[tree.master()]);
        for goes_on in [false, true] {
            let skip = self.mark();
            let (old, new) = self.upgrade(tree);
            self.wait(skip, new, "ready with 2 workers");
            look(&[new, old]);
            let (goes, stays) = if goes_on { (old, new) } else { (new, old) };
            tree.signal(goes, libc::SIGQUIT);
            tree.await_gone(goes);
            tree.settle(&[(stays, 2)]);
            self.wait(skip, new, "listening on http");
            self.wait(skip, new, "this server is in charge");
            self.wait(skip, goes, "stopping: ");
            look(&[stays]);
        }
        if can_fail {
            self.roll_back(tree);
            look(&[tree.master()]);
        }
        tree.set("upgrade", Some("auto"));
        tree.set("probation", Some("0.2"));
        tree.verb(&["--reload"]).expect(0, &[]);
        let skip = self.mark();
        let (old, new) = self.usr2(tree);
        self.wait(skip, old, &format!("upgrade: committed: pid {new} serves"));
        tree.await_gone(old);
        tree.settle(&[(new, 2)]);
        self.wait(skip, new, &format!("the predecessor, pid {old}, has gone"));
        look(&[new]);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the journal:\n{}\n----", self.lines().join("\n"));
        }
        if let Journal::System(_, enough) = self {
            enough.store(true, Ordering::Relaxed);
        }
    }
}

/// Its workers: neither a successor nor what that starts.
fn workers(master: i32) -> Vec<i32> {
    let mut children = facts::children(master);
    children.retain(|pid| facts::title(*pid).contains("worker"));
    children
}

/// The session of a process.
fn session(pid: i32) -> i32 {
    // SAFETY: no pointers
    unsafe { libc::getsid(pid) }
}

/// With a log file or with the system's log.
fn daemon(program: &Program, builder: Builder, journal: &Journal, stderr: Option<&Path>) {
    let builder = builder.arg("--daemonize");
    let Some(tree) = builder.start(program) else {
        return;
    };
    // the daemon has left who started it
    assert_eq!(tree.await_end(tree.first()), End::Exited(0));
    let told = tree.mark();
    let of_all = session(tree.master());
    journal.all_ways(&tree, stderr.is_some(), |masters| {
        for master in masters {
            assert_eq!(session(*master), of_all, "it has detached a second time");
            let cwd = fs::read_link(format!("/proc/{master}/cwd")).expect("cwd");
            assert_eq!(cwd, Path::new("/"));
            for pid in workers(*master).iter().chain([master]) {
                for (nr, place) in facts::descriptors(*pid) {
                    let place = Path::new(&place);
                    match (nr, stderr) {
                        (2, Some(file)) => assert_eq!(place, file, "{pid}"),
                        (0..=2, _) => assert!(place.ends_with("dev/null"), "{nr}: {place:?}"),
                        _ => assert!(!place.starts_with("pipe:"), "{pid} has {nr}: {place:?}"),
                    }
                }
            }
        }
        tree.conn().put("/dev1/file", b"x").expect(201, true);
    });
    assert_eq!(
        tree.mark(),
        told,
        "on the caller's terminal: {:#?}",
        tree.log()
    );
    tree.stop();
}

#[test]
fn a_daemon_with_a_log_file() {
    // as a shell has it in the folder of a release
    let builder = Tree::builder().called("bin/rmogstored");
    let log = builder.path("log");
    let builder = builder.set("log-file", log.to_str().unwrap());
    daemon(&Program::Ours, builder, &Journal::file(&log), Some(&log));
}

#[test]
fn a_daemon_that_is_found_in_path() {
    let builder = Tree::builder();
    let cwd = builder.path("root");
    let log = builder.path("log");
    let builder = builder.by_name_in(&cwd);
    let builder = builder.set("log-file", log.to_str().unwrap());
    daemon(&Program::Ours, builder, &Journal::file(&log), Some(&log));
}

/// Only root can give it a /dev/log of its own: in a mount namespace.
#[test]
fn a_daemon_of_the_systems_log() {
    if !has_namespaces() {
        return;
    }
    let builder = Tree::builder();
    let (socket, dev) = (builder.path("syslog"), builder.path("dev"));
    let journal = Journal::system(UnixDatagram::bind(&socket).expect("bind"));
    let (socket, dev) = (socket.display(), dev.display());
    let there = format!(
        "mkdir -p {dev} && mount --rbind /dev {dev} && mount -t tmpfs none /dev && \
         for name in null zero random urandom; do ln -s {dev}/$name /dev/$name; done && \
         ln -s {socket} /dev/log"
    );
    daemon(
        &Program::Shell(&in_namespace(&there)),
        builder,
        &journal,
        None,
    );
}

fn has_namespaces() -> bool {
    let tried = Command::new("unshare").args(["-m", "true"]).output();
    let has = tried.is_ok_and(|ended| ended.status.success());
    if !has {
        eprintln!("skipped: no mount namespace");
    }
    has
}

/// A program: ours, in a mount namespace of its own that was prepared by these commands.
fn in_namespace(prepare: &str) -> String {
    format!("exec unshare -m sh -c '{prepare} || exit 9; exec \"$@\"' sh \"$OURS\" \"$@\"")
}

/// Uid of a process.
fn uid(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a living process");
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    let words = line.expect("Uid").split_whitespace();
    words.map(str::to_owned).collect()
}

#[test]
fn workers_of_another_user() {
    if !is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let builder = Tree::builder();
    for name in ["root", "root/dev1", "root/dev2"] {
        chown(builder.path(name), Some(NOBODY), Some(NOBODY)).expect("chown");
    }
    let log = builder.path("log");
    let builder = builder
        .set("user", "65534")
        .set("log-file", log.to_str().unwrap());
    let Some(tree) = builder.start(&Program::Ours) else {
        return;
    };
    let journal = Journal::file(&log);
    // whose each file is that is not of one master alone, and its mode
    let files = || -> BTreeMap<PathBuf, (u32, u32)> {
        let folder = fs::read_dir(tree.path("pid.run")).expect("the run folder");
        let mut all: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
        all.retain(|path| !path.to_str().unwrap().contains("control."));
        all.extend([tree.pidfile(), tree.path("pid.run"), log.clone()]);
        all.into_iter()
            .filter_map(|path| {
                let facts = fs::metadata(&path).ok()?;
                Some((path, (facts.uid(), facts.mode())))
            })
            .collect()
    };
    let lock = tree.path("pid.run/health.lock");
    eventually("the lock of the election", PATIENCE, || lock.exists());
    let before = files();
    assert_eq!(before[&lock].0, NOBODY);
    assert_eq!(before[&tree.path("pid.run")].0, NOBODY);
    assert_eq!(before[&tree.pidfile()].0, 0);
    journal.all_ways(&tree, true, |masters| {
        for master in masters {
            assert_eq!(uid(*master), ["0"; 4]);
            let socket = tree.path(&format!("pid.run/control.{master}"));
            let socket = fs::metadata(socket).expect("the control socket");
            assert_eq!((socket.uid(), socket.mode() & 0o777), (0, 0o600));
            let workers = workers(*master);
            assert_eq!(workers.len(), 2, "{}", tree.family());
            for worker in workers {
                assert_eq!(uid(worker), ["65534"; 4]);
            }
        }
        let now = files();
        for (path, facts) in &before {
            assert_eq!(now.get(path), Some(facts), "{}", path.display());
        }
        let status = tree.status();
        assert_eq!(status["pid"], masters[0], "{status:#}");
        tree.conn().put("/dev1/file", b"x").expect(201, true);
        let put = fs::metadata(tree.root().join("dev1/file")).expect("the file");
        assert_eq!(put.uid(), NOBODY);
    });
    // one of the new ones is elected: the lock is theirs
    let inode = fs::metadata(&lock).unwrap().ino();
    let suffix = format!(":{inode}");
    eventually("a leader of the last master's", PATIENCE, || {
        let locks = fs::read_to_string("/proc/locks").expect("/proc/locks");
        locks.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.len() > 5
                && words[5].ends_with(&suffix)
                && words[4]
                    .parse()
                    .is_ok_and(|pid| workers(tree.master()).contains(&pid))
        })
    });
    tree.stop();
}

/// What a systemd socket unit would see: it has the listeners too.
#[test]
fn sockets_of_systemd_stay_lent() {
    let http = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mgmt = TcpListener::bind("127.0.0.1:0").expect("bind");
    let [http_addr, mgmt_addr] = [&http, &mgmt].map(|socket| socket.local_addr().unwrap());
    let builder = Tree::builder();
    let log = builder.path("log");
    let builder = builder
        .lend(&http, 3)
        .lend(&mgmt, 4)
        .env("LISTEN_FDS", "2")
        .set("httplisten", &http_addr.to_string())
        .set("mgmtlisten", &mgmt_addr.to_string())
        .set("log-file", log.to_str().unwrap());
    let program = Program::Shell("export LISTEN_PID=$$; exec \"$OURS\" \"$@\"");
    let Some(tree) = builder.start(&program) else {
        return;
    };
    let journal = Journal::file(&log);
    let inode = |socket: &TcpListener| {
        let place = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let place = fs::read_link(place).expect("a descriptor");
        place.to_str().unwrap().to_owned()
    };
    let places = [&http, &mgmt].map(inode);
    journal.all_ways(&tree, false, |masters| {
        for master in masters {
            for pid in workers(*master).iter().chain([master]) {
                let held = facts::descriptors(*pid);
                for place in &places {
                    let count = held.iter().filter(|(_, other)| other == place).count();
                    assert_eq!(count, 1, "{pid} has {place}");
                }
            }
        }
        tree.conn().put("/dev1/file", b"x").expect(201, true);
        drop(Conn::connect(mgmt_addr));
    });
    // two masters are told to go at the same time: neither closes a door
    tree.set("upgrade", None);
    tree.verb(&["--reload"]).expect(0, &[]);
    let (old, new) = journal.upgrade(&tree);
    for pid in [new, old] {
        tree.signal(pid, libc::SIGQUIT);
    }
    for pid in [old, new] {
        tree.await_gone(pid);
    }
    eventually("nobody of it", PATIENCE, || {
        facts::descendants(tree.keeper()).is_empty()
    });
    for (socket, addr) in [(&http, http_addr), (&mgmt, mgmt_addr)] {
        let conn = Conn::try_connect(addr, Duration::from_secs(2)).expect("an open door");
        socket.set_nonblocking(true).unwrap();
        eventually("it to wait in the queue", PATIENCE, || {
            let waits = socket.accept();
            waits.is_ok_and(|(_, peer)| peer == conn.local_addr())
        });
    }
    // each of two that end at the same moment may leave it to the other one to empty it
    assert!(
        !matches!(tree.claim(), Claim::Held(_)),
        "{:?}",
        tree.claim()
    );
}

/// logrotate knows the pidfile, and no more: whoever it names passes it on.
#[test]
fn a_rotation_in_the_middle_of_an_upgrade() {
    let builder = Tree::builder();
    let log = builder.path("log");
    let builder = builder.set("log-file", log.to_str().unwrap());
    let Some(tree) = builder.start(&Program::Ours) else {
        return;
    };
    let journal = Journal::file(&log);
    let follows = |master: &i32| {
        let workers = workers(*master);
        let mut all = workers.iter().chain([master]);
        let stderr = |pid: &i32| fs::read_link(format!("/proc/{pid}/fd/2")).ok();
        workers.len() == 2 && all.all(|pid| stderr(pid).as_ref() == Some(&log))
    };
    let rotate = |nr: usize, masters: &[i32]| {
        let to = log.with_extension(nr.to_string());
        fs::rename(&log, &to).expect("rename");
        let Journal::Files(files) = &journal else {
            unreachable!()
        };
        files.borrow_mut().insert(nr - 1, to.clone());
        tree.signal(tree.master(), libc::SIGUSR1);
        eventually("all to write to the new file", PATIENCE, || {
            masters.iter().all(follows)
        });
        fs::metadata(&to).expect("the old one").len()
    };
    // both serve, and the new one is told; what the old one says then is in the new file
    let (old, new) = journal.upgrade(&tree);
    rotate(1, &[old, new]);
    tree.signal(new, libc::SIGQUIT);
    tree.settle(&[(old, 2)]);
    // before the commit it is the old one
    tree.set("upgrade", Some("auto"));
    tree.set("probation", Some("2"));
    tree.verb(&["--reload"]).expect(0, &[]);
    let skip = journal.mark();
    let (old, new) = journal.usr2(&tree);
    journal.wait(skip, new, "ready with 2 workers");
    assert!(tree.claim().is_of(old), "{:?}", tree.claim());
    let len = rotate(2, &[old, new]);
    journal.wait(skip, old, &format!("committed: pid {new} serves"));
    journal.wait(skip, new, &format!("the predecessor, pid {old}, has gone"));
    tree.settle(&[(new, 2)]);
    assert_eq!(fs::metadata(log.with_extension("2")).unwrap().len(), len);
    let text = fs::read_to_string(&log).expect("the log");
    assert!(text.contains("upgrade: committed"), "{text}");
    assert!(text.contains("has gone"), "{text}");
    // one that has opened it, and cannot be told yet
    tree.await_calm();
    let skip = journal.mark();
    let (old, new) = journal.usr2(&tree);
    journal.wait(skip, new, "taken over from the predecessor");
    tree.signal(new, libc::SIGSTOP);
    rotate(3, &[old]);
    tree.signal(new, libc::SIGCONT);
    journal.wait(skip, old, &format!("committed: pid {new} serves"));
    tree.await_gone(old);
    tree.settle(&[(new, 2)]);
    eventually("the last one to write to the new file", PATIENCE, || {
        follows(&new)
    });
    tree.stop();
}

/// What is on the small disk, seen from outside of its namespace.
struct Small {
    tree: Tree,
    pidfile: String,
    seen: PathBuf,
}

impl Small {
    fn start(upgrade: &str) -> Option<Small> {
        if !has_namespaces() {
            return None;
        }
        let builder = Tree::builder();
        let disk = builder.path("small");
        fs::create_dir(&disk).expect("mkdir");
        let prepare = format!("mount -t tmpfs -o size=64k none {}", disk.display());
        let pidfile = disk.join("pid").display().to_string();
        let builder = builder
            .set("pidfile", &pidfile)
            .set("upgrade", upgrade)
            .set("probation", "1");
        let tree = builder.start(&Program::Shell(&in_namespace(&prepare)))?;
        let seen = format!("/proc/{}/root{}", tree.first(), disk.display());
        let seen = PathBuf::from(seen);
        Some(Small {
            tree,
            pidfile,
            seen,
        })
    }

    /// Takes all room that there is.
    fn fill(&self) {
        let path = self.seen.join("fill");
        let fill = Command::new("dd")
            .args(["if=/dev/zero", "bs=4096"])
            .arg(format!("of={}", path.display()))
            .output();
        let said = String::from_utf8_lossy(&fill.expect("dd").stderr).into_owned();
        assert!(said.contains("No space left"), "{said}");
    }

    fn make_room(&self) {
        fs::remove_file(self.seen.join("fill")).expect("unlink");
    }

    fn content(&self) -> String {
        fs::read_to_string(self.seen.join("pid")).expect("the pidfile")
    }

    fn is_claimed(&self) -> bool {
        let file = File::open(self.seen.join("pid")).expect("the pidfile");
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// A second start, there.
    fn start_beside(&self) -> String {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.tree.first()))
            .arg(env!("CARGO_BIN_EXE_rmogstored"))
            .arg(format!("--config={}", self.tree.path("conf").display()))
            .arg(format!("--pidfile={}", self.pidfile));
        run_command(&mut command).expect(1, &[]).err
    }

    #[track_caller]
    fn expect_service(&self) {
        let old = self.tree.first();
        let workers = workers(old);
        assert!(self.tree.is_alive(old) && workers.len() == 2);
        assert!(!workers.into_iter().any(facts::is_draining));
        assert!(self.is_claimed());
        assert!(self.start_beside().contains("already running"));
        let mut conn = self.tree.conn();
        conn.put("/dev1/file", b"x").expect(201, true);
    }
}

/// Its .oldbin has no room: nothing is begun.
#[test]
fn a_full_disk_before_an_upgrade() {
    let Some(small) = Small::start("auto") else {
        return;
    };
    let (tree, old) = (&small.tree, small.tree.first());
    small.fill();
    let skip = tree.mark();
    tree.signal(old, libc::SIGUSR2);
    let said = tree.wait_log(skip, "upgrade failed: ", PATIENCE);
    assert!(
        said.contains("pid.oldbin: ") && said.contains("make room there"),
        "{said}"
    );
    assert!(said.ends_with("this server serves on"), "{said}");
    assert_eq!(small.content(), format!("{old}\n"));
    small.expect_service();
    small.make_room();
    let skip = tree.mark();
    tree.signal(old, libc::SIGUSR2);
    tree.wait_log(skip, "upgrade: committed", PATIENCE);
    assert_eq!(tree.await_end(old), End::Exited(0));
}

/// The file's own block is taken away, too: otherwise there is room for another pid in it.
#[test]
fn a_full_disk_at_the_commit() {
    for upgrade in ["auto", "manual"] {
        let Some(small) = Small::start(upgrade) else {
            return;
        };
        let (tree, old) = (&small.tree, small.tree.first());
        let skip = tree.mark();
        tree.signal(old, libc::SIGUSR2);
        let new = tree.await_successor(skip);
        // it is not ready before the disk is full
        tree.signal(new, libc::SIGSTOP);
        let pidfile = File::options().write(true).open(small.seen.join("pid"));
        pidfile.expect("the pidfile").set_len(0).expect("truncate");
        small.fill();
        assert_eq!(small.content(), "");
        tree.signal(new, libc::SIGCONT);
        let said = tree.wait_log(skip, "upgrade failed: ", PATIENCE);
        assert!(said.contains("make room there"), "{upgrade}: {said}");
        assert!(said.ends_with("this server serves on"), "{said}");
        tree.await_gone(new);
        eventually("the old one alone", PATIENCE, || {
            facts::descendants(tree.keeper()).len() == 3
        });
        small.expect_service();
        small.make_room();
        let skip = tree.mark();
        tree.signal(old, libc::SIGUSR2);
        let new = tree.await_successor(skip);
        tree.wait_log(skip, "this server is in charge", PATIENCE);
        assert_eq!(small.content(), format!("{new}\n"));
    }
}
