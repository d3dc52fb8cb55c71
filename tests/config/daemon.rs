//! `--daemonize`: what starts it learns whether the service is ready, and then has nothing to do with it any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Folder, addresses, pid_in, run, run_command};
use crate::harness::{Conn, PATIENCE, eventually};
use crate::process::facts;

/// Ends all processes that were started with a file of this folder, when the test does.
pub struct Reaper(PathBuf);

impl Reaper {
    pub fn new(folder: &Folder) -> Reaper {
        Reaper(folder.path(""))
    }

    /// Every process whose command line names the folder (a service's is a title soon), or that has something of it
    /// open.
    fn pids(&self) -> Vec<i32> {
        let folder = self.0.to_str().expect("a plain path");
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| *pid != std::process::id() as i32)
            .filter(|pid| {
                let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let is_open = |(_, place): &(i32, String)| place.starts_with(folder);
                String::from_utf8_lossy(&words).contains(folder)
                    || facts::descriptors(*pid).iter().any(is_open)
            })
            .collect()
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        for pid in self.pids() {
            // SAFETY: a process of this test alone: its command line or its files name the test's folder
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// Fields of /proc/PID/stat behind the name: state, parent, process group, session, terminal.
fn stat(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    let (_, rest) = text.rsplit_once(") ").expect("a name");
    rest.split(' ').take(5).map(str::to_owned).collect()
}

fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}/cwd")).exists() && stat(pid)[0] != "Z"
}

/// Where a standard stream leads; `None`: the process has just ended.
fn stream(pid: i32, nr: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/fd/{nr}")).ok()
}

/// A service's file; its pidfile is `pid`.
fn config(folder: &Folder) -> String {
    let root = folder.docroot("root");
    let pid = folder.at("pid");
    folder.config(
        "x.conf",
        &format!(
            "docroot = {root}\npidfile = {pid}\nhttplisten = 127.0.0.1:0\nmgmtlisten = 127.0.0.1:0\n\
             worker-processes = 2\ndaemonize\n"
        ),
    )
}

#[track_caller]
fn stop(pid: i32) {
    // SAFETY: the pid was read from this test's own pidfile
    unsafe { libc::kill(pid, libc::SIGQUIT) };
    eventually("the daemon's end", PATIENCE, || !is_alive(pid));
}

#[test]
fn it_detaches_when_it_is_ready() {
    let folder = Folder::new();
    let config = config(&folder);
    let reaper = Reaper::new(&folder);
    // run waits for the end of its output: nobody holds the caller's stdout or stderr any more
    let ended = run(&[&config]).expect(0, &["ready with 2 workers"]);
    assert_eq!(ended.out, "");
    let pid = pid_in(&folder.path("pid")).expect("a pid");
    let line = ended
        .err
        .lines()
        .find(|line| line.contains("ready with"))
        .unwrap_or_default();
    assert!(line.starts_with(&format!("rmogstored[{pid}] ")), "{line}");
    // it serves already
    let (http, mgmt) = addresses(&ended.listeners());
    let mut conn = Conn::connect(http);
    conn.put("/dev1/file", b"hello").expect(201, true);
    drop(Conn::connect(mgmt));
    drop(conn);

    let master = stat(pid);
    let own = stat(std::process::id() as i32);
    assert_ne!(master[3], own[3], "a session of its own");
    assert_ne!(master[3], pid.to_string(), "and not its leader");
    assert_eq!(master[4], "0", "no terminal");
    assert_ne!(master[1], own[0], "no child of ours");
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        Path::new("/")
    );
    let workers: Vec<i32> = reaper
        .pids()
        .into_iter()
        .filter(|worker| stat(*worker)[1] == pid.to_string())
        .collect();
    assert_eq!(workers.len(), 2);
    for process in workers.iter().chain([&pid]) {
        for nr in 0..3 {
            assert_eq!(stream(*process, nr), Some("/dev/null".into()), "{nr}");
        }
    }
    // one that is started later is no different
    // SAFETY: a worker of this test's own service
    unsafe { libc::kill(workers[0], libc::SIGKILL) };
    eventually("another worker", PATIENCE, || {
        let pids = reaper.pids();
        let new = pids
            .iter()
            .find(|new| !workers.contains(new) && **new != pid);
        new.is_some_and(|new| is_alive(*new) && stream(*new, 2) == Some("/dev/null".into()))
    });
    stop(pid);
    assert_eq!(fs::read(folder.path("pid")).unwrap(), b"");
    eventually("the workers' end", PATIENCE, || reaper.pids().is_empty());
}

/// The file is the daemon's stderr; until it is ready, who started it hears the same.
#[test]
fn its_log_may_be_a_file() {
    let folder = Folder::new();
    let config = config(&folder);
    let reaper = Reaper::new(&folder);
    let arg = format!("--log-file={}", folder.at("log"));
    let ended = run(&[&config, &arg]).expect(0, &["ready with 2 workers"]);
    let pid = pid_in(&folder.path("pid")).expect("a pid");
    let pids = reaper.pids();
    assert_eq!(pids.len(), 3);
    for process in pids {
        assert_eq!(stream(process, 2), Some(folder.path("log")));
        assert_eq!(stream(process, 1), Some("/dev/null".into()));
    }
    let text = fs::read_to_string(folder.path("log")).unwrap();
    let logged: Vec<_> = text.lines().collect();
    for line in ended.err.lines() {
        assert!(logged.contains(&line), "{line:?} is not in {text}");
    }
    stop(pid);
    let text = fs::read_to_string(folder.path("log")).unwrap();
    assert!(text.contains("stopping: who has begun"), "{text}");
}

#[test]
fn why_it_is_not_ready_is_told_to_who_started_it() {
    let folder = Folder::new();
    let config = config(&folder);
    let _reaper = Reaper::new(&folder);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let arg = format!("--httplisten={addr}");
    run(&[&config, &arg]).expect(1, &["cannot listen on", &addr, "before it was ready"]);
    assert_eq!(fs::read(folder.path("pid")).unwrap(), b"");
}

/// A worker that cannot start has its own words for it.
#[test]
fn a_worker_that_cannot_start_is_heard() {
    let folder = Folder::new();
    let config = config(&folder);
    let _reaper = Reaper::new(&folder);
    // a worker has a descriptor of each docroot and the master has none, so with one fewer than enough for the
    // worker there are enough for the master
    let sites: Vec<String> = (0..10)
        .map(|nr| {
            let root = folder.docroot(&format!("root{nr}"));
            let text = format!("docroot = {root}\nhttplisten = 127.0.0.1:0\n");
            folder.config(&format!("{nr}.conf"), &text)
        })
        .collect();
    let start = |limit: i32| {
        run_command(
            Command::new("sh")
                .arg("-c")
                .arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\""))
                .arg(env!("CARGO_BIN_EXE_rmogstored"))
                .args([&config, "--multi", "--maxconns=1", "--worker-processes=1"])
                .args(&sites),
        )
    };
    let heard = (10..80).rev().find_map(|limit| {
        let ended = start(limit);
        if ended.code == Some(0) {
            stop(pid_in(&folder.path("pid")).expect("a pid"));
            return None;
        }
        Some(ended)
    });
    heard.expect("too few descriptors").expect(
        1,
        &[
            "] error: worker 0: ",
            "Too many open files",
            "could not start (its reason is above)",
            "before it was ready",
        ],
    );
}

#[test]
fn a_second_start_is_told_who_runs() {
    let folder = Folder::new();
    let config = config(&folder);
    let _reaper = Reaper::new(&folder);
    run(&[&config]).expect(0, &[]);
    let pid = pid_in(&folder.path("pid")).expect("a pid");
    run(&[&config]).expect(1, &[&format!("already running on PID: {pid}")]);
    run(&[&config, "--daemonize=0"]).expect(1, &[&format!("already running on PID: {pid}")]);
    assert_eq!(pid_in(&folder.path("pid")), Some(pid));
    stop(pid);
    run(&[&config]).expect(0, &[]);
    let next = pid_in(&folder.path("pid")).expect("a pid");
    assert_ne!(next, pid);
    stop(next);
}

#[test]
fn of_many_starts_one_wins() {
    let folder = Folder::new();
    let config = config(&folder);
    let _reaper = Reaper::new(&folder);
    let mut codes: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| run(&[&config, "--worker-processes=1"])))
            .collect();
        let ended = starts
            .into_iter()
            .map(|start| start.join().expect("a start"));
        ended
            .map(|ended| {
                if ended.code != Some(0) {
                    assert!(ended.err.contains("already running"), "{}", ended.err);
                }
                ended.code
            })
            .collect()
    });
    codes.sort_unstable();
    assert_eq!(codes[0], Some(0));
    assert_eq!(codes[1..], [Some(1); 5]);
    stop(pid_in(&folder.path("pid")).expect("a pid"));
}

#[test]
fn relative_paths_are_refused() {
    let closing = "relative paths are incompatible with --daemonize";
    let folder = Folder::new();
    let root = folder.docroot("root");
    folder.config("x.conf", "httplisten = 127.0.0.1:0\n");
    let here = |args: &[&str], path: &str| {
        run_command(
            Command::new(env!("CARGO_BIN_EXE_rmogstored"))
                .current_dir(folder.path(""))
                .env("PATH", path)
                .args(args),
        )
    };
    let docroot = format!("--docroot={root}");
    let listen = "--httplisten=127.0.0.1:0";
    for (args, path, said) in [
        (
            vec!["-d", &docroot, "--config=x.conf"],
            "/bin",
            "config=x.conf must use an absolute path",
        ),
        (
            vec!["-d", "--docroot=root", listen],
            "/bin",
            "docroot=root must use an absolute path",
        ),
        (
            vec!["-d", &docroot, listen, "--pidfile=pid"],
            "/bin",
            "pidfile=pid must use an absolute path",
        ),
        (
            vec!["-d", &docroot, listen, "--log-file=log"],
            "/bin",
            "log-file=log must use an absolute path",
        ),
        (
            vec!["-d", &docroot, listen],
            "/bin:bin",
            "PATH environment contains relative path",
        ),
    ] {
        here(&args, path).expect(1, &[said, closing]);
        let mut args = args.clone();
        args.push("--check-config");
        here(&args, path).expect(1, &[said, closing]);
        args.push("--daemonize=0");
        args.retain(|arg| *arg != "-d");
        here(&args, path).expect(0, &[]);
    }
}
