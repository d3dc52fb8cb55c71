//! `--user`, `--group`, `--nice`, `--core-limit`: what workers are, and that the master stays what it was.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::{Command, Stdio};

use super::{facts, signal};
use crate::harness::server::own_docroot;
use crate::harness::{Conn, PATIENCE, Server, eventually, pattern};

/// Its number everywhere; its group's name differs between systems.
const NOBODY: u32 = 65534;

/// Only root can make others: elsewhere there is nothing to be tested.
fn is_root() -> bool {
    // SAFETY: no pointers
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: only root can become another user");
    }
    root
}

/// A docroot that is another user's.
fn docroot_of(user: u32) -> tempfile::TempDir {
    let folder = own_docroot();
    for path in ["", "dev1", "dev2"] {
        chown(folder.path().join(path), Some(user), Some(user)).expect("chown");
    }
    folder
}

/// The words behind this name in /proc/PID/status.
fn status(pid: i32, name: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a living process");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let words = line.expect(name).split_whitespace();
    words.map(str::to_owned).collect()
}

fn nice(pid: i32) -> i32 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    let (_, rest) = text.rsplit_once(") ").expect("a name");
    rest.split(' ')
        .nth(16)
        .expect("nice")
        .parse()
        .expect("a number")
}

fn core_limit(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"));
    let words = line.expect("the line").split_whitespace().next();
    words.expect("soft").to_owned()
}

#[test]
fn workers_are_another_user() {
    if !is_root() {
        return;
    }
    let root = docroot_of(NOBODY);
    let server = Server::builder()
        .workers(2)
        .docroot(root.path())
        .arg("--user=65534")
        .arg("--group=65533")
        .arg("--nice=3")
        .arg("--core-limit=12345")
        .start();
    let master = server.pid();
    assert_eq!(status(master, "Uid"), ["0"; 4]);
    assert_eq!(status(master, "NoNewPrivs"), ["0"]);
    assert_eq!(nice(master), nice(std::process::id() as i32));
    let workers = facts::children(master);
    assert_eq!(workers.len(), 2);
    for pid in &workers {
        assert_eq!(status(*pid, "Uid"), ["65534"; 4]);
        assert_eq!(status(*pid, "Gid"), ["65533"; 4]);
        let groups = status(*pid, "Groups");
        assert!(
            groups.contains(&"65533".to_owned()) && !groups.contains(&"0".to_owned()),
            "{groups:?}"
        );
        assert_eq!(status(*pid, "NoNewPrivs"), ["1"]);
        assert_eq!(status(*pid, "CapEff"), ["0000000000000000"]);
        assert_eq!(nice(*pid), nice(master) + 3);
        assert_eq!(core_limit(*pid), "12345");
        // dumpable again: /proc/PID is its own
        let owner = fs::metadata(format!("/proc/{pid}/fd")).expect("fd").uid();
        assert_eq!(owner, NOBODY);
    }
    // all the ways in which an upload gets its name
    let bytes = pattern(100_000);
    let mut conn = server.conn();
    for _ in 0..3 {
        conn.put("/dev1/a/file", &bytes).expect(201, true);
    }
    assert_eq!(conn.get("/dev1/a/file").expect(200, true).body, bytes);
    let facts = fs::metadata(server.path("dev1/a/file")).expect("the file");
    assert_eq!((facts.uid(), facts.gid()), (NOBODY, 65533));
    // the lock files are the workers', and one of them is elected
    let run = fs::metadata(server.path(".rmogstored-run")).expect("the run folder");
    assert_eq!((run.uid(), run.mode() & 0o777), (NOBODY, 0o700));
    server.wait_log("is elected", PATIENCE);
    conn.delete("/dev1/a/file").expect(204, true);
    server.stop();
}

/// What an earlier start made as root, the workers get; and root gets back.
#[test]
fn lock_files_go_to_whom_workers_are() {
    if !is_root() {
        return;
    }
    let root = docroot_of(NOBODY);
    let lock = root.path().join(".rmogstored-run/health.lock");
    for (user, owner) in [(None, 0), (Some("--user=65534"), NOBODY), (None, 0)] {
        let builder = Server::builder().docroot(root.path());
        let builder = match user {
            Some(user) => builder.arg(user),
            None => builder,
        };
        let server = builder.start();
        server.wait_log("is elected", PATIENCE);
        let owners = (
            fs::metadata(&lock).expect("the lock").uid(),
            fs::metadata(lock.parent().unwrap()).expect("run").uid(),
        );
        assert_eq!(owners, (owner, owner), "{user:?}");
        server.stop();
    }
}

/// What the workers' user could have put into the run folder is not followed by root.
#[test]
fn a_link_in_the_run_folder_is_not_followed() {
    if !is_root() {
        return;
    }
    let root = docroot_of(NOBODY);
    let run = root.path().join(".rmogstored-run");
    let victim = own_docroot();
    let (hard, soft) = (victim.path().join("hard"), victim.path().join("soft"));
    fs::create_dir(&run).unwrap();
    chown(&run, Some(NOBODY), None).unwrap();
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
    for path in [&hard, &soft] {
        fs::write(path, b"root's").unwrap();
    }
    fs::hard_link(&hard, run.join("fsck.1")).expect("one filesystem");
    std::os::unix::fs::symlink(&soft, run.join("fsck.2")).unwrap();
    let server = Server::builder()
        .docroot(root.path())
        .arg("--user=65534")
        .start();
    for path in [&hard, &soft] {
        assert_eq!(fs::metadata(path).unwrap().uid(), 0, "{}", path.display());
        assert_eq!(fs::read(path).unwrap(), b"root's");
    }
    server.stop();
}

#[test]
fn a_name_that_nobody_has_is_an_error_at_start() {
    for (arg, named) in [
        (
            "--user=no-such-user",
            "user=no-such-user: there is no such user",
        ),
        (
            "--group=no-such-group",
            "group=no-such-group: there is no such group",
        ),
    ] {
        let (status, said) = Server::builder().arg(arg).run_to_exit();
        assert_eq!(status.code(), Some(1));
        assert!(said.contains(named), "{said}");
        let (status, said) = Server::builder()
            .arg(arg)
            .arg("--check-config")
            .run_to_exit();
        assert_eq!(status.code(), Some(1));
        assert!(said.contains(named), "{said}");
    }
}

#[test]
fn who_is_not_root_can_only_be_himself() {
    let (status, said) = Server::builder()
        .unprivileged()
        .arg("--user=0")
        .run_to_exit();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("user=0: only root can become another"),
        "{said}"
    );
    if !is_root() {
        return;
    }
    let server = Server::builder()
        .unprivileged()
        .arg("--user=65534")
        .arg("--group=65534")
        .start();
    server.conn().put("/dev1/x", b"x").expect(201, true);
    server.stop();
    // what takes root is the worker's error, with its errno
    let (status, said) = Server::builder()
        .unprivileged()
        .arg("--nice=-5")
        .run_to_exit();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("worker 0: nice=-5: setpriority: Permission denied"),
        "{said}"
    );
}

/// The log is opened by root in a folder that workers cannot enter, and yet it is theirs.
#[test]
fn workers_write_to_a_log_that_they_could_not_open() {
    if !is_root() {
        return;
    }
    let root = docroot_of(NOBODY);
    let logs = own_docroot();
    fs::set_permissions(logs.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let path = logs.path().join("log");
    let server = Server::builder()
        .docroot(root.path())
        .arg("--user=65534")
        .arg(&format!("--log-file={}", path.display()))
        .start();
    fs::rename(&path, logs.path().join("log.1")).unwrap();
    server.signal(libc::SIGUSR1);
    let has = |text: &str| fs::read_to_string(&path).is_ok_and(|log| log.contains(text));
    eventually("the worker to follow", PATIENCE, || {
        has("log: 1 of 1 workers write to it")
    });
    let mut conn = Conn::connect(server.addr());
    conn.send("PUT /dev1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf");
    conn.finish_sending();
    conn.expect_eof();
    eventually("the worker's line", PATIENCE, || {
        has("PUT /dev1/x failed from")
    });
    server.stop();
}

/// Each step takes the right to the one before it, so the order is the point.
#[test]
fn rights_are_given_up_in_order() {
    if !is_root() {
        return;
    }
    let root = docroot_of(NOBODY);
    let server = Server::builder()
        .docroot(root.path())
        .arg("--user=65534")
        .arg("--nice=1")
        .arg("--core-limit=0")
        .start();
    let folder = own_docroot();
    let report = folder.path().join("strace");
    let calls = "prlimit64,setpriority,setgroups,setresgid,setresuid,prctl";
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-p", &server.pid().to_string()])
        .args(["-o", report.to_str().unwrap(), "-e", calls])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut strace = match strace {
        Ok(strace) => strace,
        Err(error) => {
            eprintln!("skipped: strace: {error}");
            return;
        }
    };
    eventually("strace to be attached", PATIENCE, || {
        assert!(strace.try_wait().expect("waitpid").is_none(), "strace");
        facts::is_traced(server.pid())
    });
    let skip = server.log().len();
    signal(facts::children(server.pid())[0], libc::SIGKILL);
    server.wait_log_after(skip, "is ready, pid ", PATIENCE);
    // SAFETY: no pointers; the pid is our child's, not yet reaped
    unsafe { libc::kill(strace.id() as i32, libc::SIGINT) };
    strace.wait().expect("waitpid");

    let text = fs::read_to_string(&report).expect("the report");
    let at = |call: &str| {
        let found = text.lines().position(|line| line.contains(call));
        found.unwrap_or_else(|| panic!("no {call} in {text}"))
    };
    let order = [
        at("RLIMIT_CORE, {rlim_cur=0"),
        at("setpriority(PRIO_PROCESS, 0, "),
        at("setgroups("),
        at("setresgid(65534, 65534, 65534) "),
        at("setresuid(65534, 65534, 65534) "),
        at("PR_SET_NO_NEW_PRIVS, 1"),
        at("PR_SET_DUMPABLE, "),
        at("setresuid(0, 0, 0) "),
    ];
    assert!(order.is_sorted(), "{order:?} in {text}");
    let last = text.lines().nth(order[7]).expect("the line");
    assert!(last.contains("EPERM"), "{last}");
    server.stop();
}
