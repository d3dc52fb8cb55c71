//! `--stop`, `--reload`, `--upgrade` and `--status`: what the operator is told, and when.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Events, Poll, Token};
use rmogstored::control::{Asker, Office, Order};
use rmogstored::pidfile::Pidfile;

use super::{Ended, Folder, run, run_command};
use crate::harness::sandbox::{self, Missing};
use crate::harness::server::is_root;
use crate::harness::{PATIENCE, Server};

/// A master that this process plays: it holds the pidfile, and answers as `obey` says.
struct StandIn {
    pidfile: Option<Pidfile>,
    leaving: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// It has claimed the pidfile, and listens nowhere.
    fn mute(path: &Path) -> StandIn {
        let pidfile = Pidfile::claim(path).expect("claim");
        pidfile.write(std::process::id()).expect("write");
        StandIn {
            pidfile: Some(pidfile),
            leaving: Arc::default(),
            thread: None,
        }
    }

    fn start(
        path: &Path,
        mut obey: impl FnMut(&mut Office, Asker, Order) + Send + 'static,
    ) -> StandIn {
        let mut master = StandIn::mute(path);
        let leaving = Arc::clone(&master.leaving);
        let (door, first) = (Token(0), Token(1));
        let mut poll = Poll::new().expect("poll");
        let pid = std::process::id();
        let mut office =
            Office::open(&run_folder(path), pid, poll.registry(), door, first).expect("office");
        master.thread = Some(std::thread::spawn(move || {
            let mut events = Events::with_capacity(16);
            while !leaving.load(Ordering::Relaxed) {
                let tick = Some(Duration::from_millis(20));
                if let Err(e) = poll.poll(&mut events, tick) {
                    assert_eq!(e.kind(), io::ErrorKind::Interrupted, "poll");
                    continue;
                }
                for event in &events {
                    for (asker, order) in office.hear(event.token(), poll.registry()) {
                        obey(&mut office, asker, order);
                    }
                }
                office.tend(poll.registry());
            }
            office.remove();
        }));
        master
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.leaving.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        drop(self.pidfile.take());
    }
}

/// The folder where a server with this pidfile has its socket, made.
fn run_folder(pidfile: &Path) -> PathBuf {
    let folder = PathBuf::from(format!("{}.run", pidfile.display()));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .expect("mkdir");
    folder
}

fn option(pidfile: &Path) -> String {
    format!("--pidfile={}", pidfile.display())
}

/// Runs a verb.
fn tell(verb: &str, pidfile: &Path) -> Ended {
    run(&[verb, &option(pidfile)])
}

fn started(pidfile: &Path) -> Server {
    Server::builder().arg(&option(pidfile)).start()
}

/// A process that does nothing, and is gone with its test.
struct Sleeper(Child);

impl Sleeper {
    /// It holds this file open, if there is one.
    fn holding(file: Option<&File>) -> Sleeper {
        let mut command = Command::new("sleep");
        command.arg("60").stdin(Stdio::null());
        if let Some(fd) = file.map(|file| file.as_fd().as_raw_fd()) {
            let keep = move || {
                // SAFETY: no pointers; the descriptor is a copy that this child alone has
                let kept = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
                if kept == 0 {
                    Ok(())
                } else {
                    Err(io::Error::last_os_error())
                }
            };
            // SAFETY: one system call
            unsafe { command.pre_exec(keep) };
        }
        Sleeper(command.spawn().expect("sleep"))
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("waitpid").is_none()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stop_returns_when_the_server_has_ended() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let mut server = started(&path);
    let pid = server.pid();
    let said = tell("--stop", &path).expect(0, &[&format!("pid {pid} was told to stop")]);
    assert_eq!(said.out, format!("pid {pid} has ended\n"));
    assert_eq!(server.wait_exit(Duration::from_secs(1)).code(), Some(0));
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
    tell("--stop", &path).expect(
        3,
        &[
            "nobody runs",
            path.to_str().unwrap(),
            "is claimed by nobody",
        ],
    );
}

#[test]
fn a_stop_waits_for_the_clients() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let mut server = started(&path);
    let mut upload = server.conn();
    upload.send("PUT /dev1/x HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx");
    upload.settle();
    let stopping = std::thread::spawn({
        let path = path.clone();
        move || tell("--stop", &path)
    });
    server.wait_log("stopping: ", PATIENCE);
    assert!(!stopping.is_finished());
    upload.send("y");
    assert_eq!(upload.response().status, 201);
    stopping.join().unwrap().expect(0, &[]);
    assert_eq!(server.wait_exit(Duration::from_secs(1)).code(), Some(0));
}

/// Linux before 5.3: by the process's number, and by its claim.
#[test]
fn a_stop_without_pidfds() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let mut server = started(&path);
    let mut command = Command::new(env!("CARGO_BIN_EXE_rmogstored"));
    command.args(["--stop", &option(&path)]);
    let filter = sandbox::filter(&[Missing::Pidfd]);
    // SAFETY: system calls only
    unsafe { command.pre_exec(move || sandbox::apply(&filter)) };
    let said = run_command(&mut command).expect(0, &[]);
    assert_eq!(said.out, format!("pid {} has ended\n", server.pid()));
    assert_eq!(server.wait_exit(Duration::from_secs(1)).code(), Some(0));
}

#[test]
fn nobody_runs() {
    let folder = Folder::new();
    let path = folder.path("pid");
    for verb in ["--status", "--stop", "--reload", "--upgrade"] {
        let said = tell(verb, &path).expect(3, &["nobody runs", "pid does not exist"]);
        assert_eq!(said.out, "");
    }
    assert!(!path.exists());
    // What a dead master left, or what another daemon wrote.
    let mut innocent = Sleeper::holding(None);
    let text = format!("{}\n", innocent.0.id());
    fs::write(&path, &text).unwrap();
    for args in [["--status", "--json"], ["--stop", "--threads=10"]] {
        let names = format!("names pid {}, which has not locked it", innocent.0.id());
        let said = run(&[args[0], args[1], &option(&path)]).expect(3, &[&names]);
        assert_eq!(said.out, "");
    }
    assert!(innocent.is_alive());
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert!(!folder.path("pid.run").exists());
}

#[test]
fn whom_to_ask_must_be_said() {
    let folder = Folder::new();
    for verb in ["--stop", "--reload", "--upgrade", "--status"] {
        run(&[verb]).expect(2, &["need --pidfile"]);
    }
    let without = folder.config("a.conf", "threads = 10\n");
    run(&["--status", &without]).expect(1, &["need --pidfile"]);
    let path = folder.path("pid");
    let with = folder.config("b.conf", &format!("pidfile = {}\n", path.display()));
    run(&["--status", &with]).expect(3, &["nobody runs", path.to_str().unwrap()]);
    let server = started(&path);
    run(&["--stop", &with]).expect(0, &[&format!("pid {}", server.pid())]);
}

/// A server that has just started, over what a dead one left: the number is somebody else's by now.
#[test]
fn nobody_else_is_signalled() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let mut innocent = Sleeper::holding(None);
    let claim = Pidfile::claim(&path).unwrap();
    tell("--stop", &path).expect(1, &["has not written its pid yet"]);
    claim.write(innocent.0.id()).unwrap();
    let pid = format!("it names pid {}, but another process", innocent.0.id());
    for verb in ["--stop", "--status"] {
        tell(verb, &path).expect(1, &[&pid, path.to_str().unwrap()]);
    }
    assert!(innocent.is_alive());
}

/// In the middle of an upgrade the claim is its predecessor's too.
#[test]
fn a_stop_tells_who_serves_on() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let claim = Pidfile::claim(&path).unwrap();
    let handed = File::from(claim.as_fd().try_clone_to_owned().unwrap());
    let mut successor = Sleeper::holding(Some(&handed));
    let pid = successor.0.id();
    claim.write(pid).unwrap();
    let stopping = std::thread::spawn({
        let path = path.clone();
        move || tell("--stop", &path)
    });
    let status = successor.0.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGQUIT));
    claim.write(std::process::id()).unwrap();
    let ours = std::process::id();
    let told = format!("pid {pid} has ended, but pid {ours} has the pidfile now");
    stopping.join().unwrap().expect(1, &[&told]);
}

#[test]
fn a_report_is_printed_as_it_came() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let _master = StandIn::start(&path, |office, asker, order| {
        let text = match order {
            Order::Status { json: true } => "{\"pid\":1}".to_owned(),
            Order::Status { json: false } => "line\n".repeat(100_000),
            other => panic!("{other:?}"),
        };
        office.done(asker, Ok(text));
    });
    let said = tell("--status", &path).expect(0, &[]);
    assert_eq!(said.err, "");
    assert_eq!(said.out, "line\n".repeat(100_000));
    let said = run(&["--status", "--json", &option(&path)]).expect(0, &[]);
    assert_eq!(said.out, "{\"pid\":1}\n");
}

#[test]
fn progress_is_told_and_the_outcome_is_the_exit_code() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let _master = StandIn::start(&path, |office, asker, order| {
        office.say(asker, "1 of 2");
        office.say(asker, "2 of 2");
        office.done(
            asker,
            match order {
                Order::Reload => Ok("generation 2 serves".to_owned()),
                _ => Err("the successor died".to_owned()),
            },
        );
    });
    let told = ["info: reload\n", "info: 1 of 2\n", "info: 2 of 2\n"];
    let said = tell("--reload", &path).expect(0, &told);
    assert_eq!(said.out, "generation 2 serves\n");
    let said =
        tell("--upgrade", &path).expect(1, &["info: 2 of 2\n", "error: the successor died\n"]);
    assert_eq!(said.out, "");
}

#[test]
fn who_cannot_be_asked_is_named() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let _master = StandIn::mute(&path);
    let ours = format!(
        "pid {} holds pidfile={}",
        std::process::id(),
        path.display()
    );
    let socket = run_folder(&path).join(format!("control.{}", std::process::id()));
    let named = [ours.as_str(), "cannot be asked", socket.to_str().unwrap()];
    for verb in ["--status", "--reload", "--upgrade"] {
        tell(verb, &path).expect(1, &named);
    }
    // What a dead master with the same number left.
    drop(UnixListener::bind(&socket).unwrap());
    tell("--status", &path).expect(1, &named);
}

#[test]
fn a_master_that_ends_has_not_answered() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let _master = StandIn::mute(&path);
    let socket = run_folder(&path).join(format!("control.{}", std::process::id()));
    let listener = UnixListener::bind(&socket).unwrap();
    let ending = std::thread::spawn(move || drop(listener.accept().unwrap()));
    tell("--upgrade", &path).expect(1, &["without an answer"]);
    ending.join().unwrap();
}

/// Somebody who may enter the folder, and connect.
#[test]
fn only_its_user_and_root_may_ask() {
    if !is_root() {
        return;
    }
    const NOBODY: u32 = 65534;
    let folder = Folder::new();
    let path = folder.path("pid");
    let _master = StandIn::start(&path, |_, _, order| panic!("{order:?}"));
    let run = run_folder(&path);
    let socket = run.join(format!("control.{}", std::process::id()));
    let program = folder.path("rmogstored");
    fs::copy(env!("CARGO_BIN_EXE_rmogstored"), &program).unwrap();
    let as_nobody = || {
        let mut command = Command::new(&program);
        command
            .args(["--reload", &option(&path)])
            .uid(NOBODY)
            .gid(NOBODY);
        run_command(&mut command)
    };
    as_nobody().expect(1, &["cannot be asked", "Permission denied"]);
    for (opened, mode) in [(&run, 0o755), (&socket, 0o666)] {
        fs::set_permissions(opened, fs::Permissions::from_mode(mode)).unwrap();
    }
    as_nobody().expect(1, &["user 65534 may not ask, only user 0 and root"]);
}

/// A server that is root's is not stopped by somebody else.
#[test]
fn who_may_not_signal_it_is_told() {
    if !is_root() {
        return;
    }
    const NOBODY: u32 = 65534;
    let folder = Folder::new();
    let path = folder.path("pid");
    let _master = StandIn::mute(&path);
    let program = folder.path("rmogstored");
    fs::copy(env!("CARGO_BIN_EXE_rmogstored"), &program).unwrap();
    let mut command = Command::new(&program);
    command
        .args(["--stop", &option(&path)])
        .uid(NOBODY)
        .gid(NOBODY);
    let pid = format!("pid {} could not be told to stop", std::process::id());
    run_command(&mut command).expect(1, &[&pid, "Operation not permitted"]);
}
