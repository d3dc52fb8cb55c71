//! The operator's side: `--stop`, `--reload`, `--upgrade` and `--status`. Each
//! returns when the thing is done, or has failed.

use super::{FAILED, OK, Order, PROCESSING, socket_of};
use crate::config::{Config, Verb};
use crate::pidfile::{self, Found};
use crate::run::candidates;
use crate::sys::pidfd::Pidfd;
use crate::sys::signal::Signal;
use crate::sys::socket;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The exit code of "nobody runs".
const NOBODY: u8 = 3;

/// A master that does not take up an order within this is stopped, or hangs.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(10);

/// After the holder's end: until its claim is seen to have ended too.
const FREE_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked whether the claim has ended.
const LOOK: Duration = Duration::from_millis(20);

/// The same while the process can be waited for.
const LOOK_BESIDE: Duration = Duration::from_secs(1);

/// Why it was not done, in a line.
#[derive(Debug)]
pub struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    fn new(text: impl Into<String>) -> Failure {
        let (text, code) = (text.into(), 1);
        Failure { text, code }
    }

    /// What the program ends with: 1, or 3 when nobody runs.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Does what the configuration's verb says to the server that holds its
/// pidfile.
pub fn run(config: &Config) -> Result<(), Failure> {
    let Some(path) = config.pidfile.as_deref() else {
        return Err(Failure::new("whom to ask is not known without --pidfile"));
    };
    let said = match config.verb {
        Verb::Stop => stop(path),
        Verb::Reload => ask(config, path, Order::Reload),
        Verb::Upgrade => ask(config, path, Order::Upgrade),
        Verb::Status { json } => ask(config, path, Order::Status { json }),
        Verb::Serve | Verb::Check => Ok(String::new()),
    }?;
    // Nobody is left to be told when stdout is closed.
    drop(writeln!(io::stdout(), "{said}"));
    Ok(())
}

/// The process that has claimed the pidfile.
fn holder(path: &Path) -> Result<Pidfd, Failure> {
    let nobody = |why: &str| Failure {
        text: format!("nobody runs: pidfile={} {why}", path.display()),
        code: NOBODY,
    };
    match pidfile::find(path) {
        Ok(Found::Held(process)) => Ok(process),
        Ok(Found::NotExist) => Err(nobody("does not exist")),
        Ok(Found::NotHeld) => Err(match std::fs::read_to_string(path) {
            // cmogstored and its elders write a pid and lock nothing.
            Ok(text) if !text.trim().is_empty() => nobody(&format!(
                "names pid {}, which has not locked it: a server that has died, or another program's",
                text.trim().escape_debug()
            )),
            _ => nobody("is claimed by nobody"),
        }),
        Err(e) => Err(Failure::new(format!("pidfile={}: {e}", path.display()))),
    }
}

/// By a signal, which every server of ours understands.
fn stop(path: &Path) -> Result<String, Failure> {
    let process = holder(path)?;
    let pid = process.pid();
    match process.signal(Signal::Quit) {
        // It ended by itself just now.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
        Err(e) => {
            return Err(Failure::new(format!(
                "pid {pid} could not be told to stop: {e}"
            )));
        }
        Ok(()) => log::info!("pid {pid} was told to stop; waiting for its end"),
    }
    // As long as its clients want.
    loop {
        match process.wait(LOOK_BESIDE) {
            Ok(true) => break,
            // Its number may be another's by now.
            Ok(false)
                if !process.is_certain() && pidfile::read(path).ok() != Some(Found::Held(pid)) =>
            {
                break;
            }
            Ok(false) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(Failure::new(format!("waiting for pid {pid}: {e}"))),
        }
    }
    await_free(path, pid)
}

/// The process has ended; so does its claim, unless it had shared that with
/// another: its predecessor or its successor in an upgrade.
fn await_free(path: &Path, pid: u32) -> Result<String, Failure> {
    let end = Instant::now() + FREE_WITHIN;
    loop {
        match pidfile::read(path) {
            Ok(Found::NotExist | Found::NotHeld) => return Ok(format!("pid {pid} has ended")),
            Ok(Found::Held(other)) if other != pid => {
                return Err(Failure::new(format!(
                    "pid {pid} has ended, but pid {other} has the pidfile now, and serves on"
                )));
            }
            _ if Instant::now() < end => std::thread::sleep(LOOK),
            _ => {
                return Err(Failure::new(format!(
                    "pid {pid} has ended, but another process has claimed pidfile={}",
                    path.display()
                )));
            }
        }
    }
}

/// Over the control socket.
fn ask(config: &Config, path: &Path, order: Order) -> Result<String, Failure> {
    loop {
        let pid = holder(path)?.pid();
        let answer = connect(config, path, pid).and_then(|stream| converse(stream, pid, order));
        // Its successor has taken over just now. What was only asked is asked
        // again; an order may have been obeyed.
        let is_question = matches!(order, Order::Status { .. });
        let has_moved = || pidfile::read(path).is_ok_and(|now| now != Found::Held(pid));
        match answer {
            Err(_) if is_question && has_moved() => {}
            other => return other,
        }
    }
}

fn connect(config: &Config, pidfile: &Path, pid: u32) -> Result<UnixStream, Failure> {
    let mut tried = Vec::new();
    for folder in candidates(config) {
        let path = socket_of(&folder, pid);
        match knock(&path) {
            Ok(stream) if is_of(&stream, pid) => return Ok(stream),
            Ok(_) => tried.push(format!("{}: another process listens", path.display())),
            Err(e) => tried.push(format!("{}: {e}", path.display())),
        }
    }
    Err(Failure::new(format!(
        "pid {pid} holds pidfile={}, but cannot be asked: an older program, another daemon, or \
         another docroot? ({})",
        pidfile.display(),
        tried.join("; ")
    )))
}

/// Where its queue is full (it was stopped, and many have asked) a connect waits.
fn knock(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(TAKEN_UP_WITHIN))?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Err(io::Error::new(
            e.kind(),
            format!(
                "nobody was let in within {} s: was it stopped, or does it hang?",
                TAKEN_UP_WITHIN.as_secs()
            ),
        )),
        other => other.map(|()| UnixStream::from(OwnedFd::from(socket))),
    }
}

/// Whether that process listens, as far as can be seen: a folder may be one
/// that others write to.
fn is_of(stream: &UnixStream, pid: u32) -> bool {
    let listener = socket::credentials(stream.as_fd());
    listener.is_ok_and(|listener| listener.pid.is_none_or(|theirs| theirs == pid))
}

/// Says the order, passes on what is said of it, returns the outcome.
fn converse(stream: UnixStream, pid: u32, order: Order) -> Result<String, Failure> {
    let broken = |e: io::Error| match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::new(format!(
            "pid {pid} has not answered within {} s: was it stopped, or does it hang?",
            TAKEN_UP_WITHIN.as_secs()
        )),
        _ => Failure::new(format!("the answer of pid {pid}: {e}")),
    };
    let patience = Some(TAKEN_UP_WITHIN);
    stream.set_read_timeout(patience).map_err(broken)?;
    // Who is refused finds the other end closed, and why in what comes.
    let _ = (&stream).write_all(format!("{order}\n").as_bytes());
    let mut answer = BufReader::new(&stream);
    let mut line = String::new();
    loop {
        line.clear();
        match answer.read_line(&mut line) {
            Err(e) if e.kind() != ErrorKind::ConnectionReset => return Err(broken(e)),
            Ok(1..) if line.ends_with('\n') => {}
            _ => {
                return Err(Failure::new(format!(
                    "pid {pid} has ended, or hung up, without an answer: see its log"
                )));
            }
        }
        // It has taken it up; from here on it may take as long as it takes.
        stream.set_read_timeout(None).map_err(broken)?;
        let said = line.trim_end_matches('\n');
        match said.split_once(' ').unwrap_or((said, "")) {
            (PROCESSING, text) => log::info!("{text}"),
            (FAILED, why) => return Err(Failure::new(why)),
            (OK, text) => {
                let mut whole = text.to_owned();
                whole.push('\n');
                // A reset is an end like another.
                match answer.read_to_string(&mut whole) {
                    Err(e) if e.kind() != ErrorKind::ConnectionReset => return Err(broken(e)),
                    _ => {}
                }
                whole.truncate(whole.trim_end_matches('\n').len());
                return Ok(whole);
            }
            _ => {
                return Err(Failure::new(format!(
                    "pid {pid} says what is not understood: {}",
                    said.escape_debug()
                )));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(by: &'static [u8], order: Order) -> Result<String, String> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(&theirs).read_line(&mut line).unwrap();
            theirs.write_all(by).unwrap();
            line
        });
        let outcome = converse(ours, 7, order).map_err(|e| e.to_string());
        assert_eq!(server.join().unwrap(), format!("{order}\n"));
        outcome
    }

    #[test]
    fn answers() {
        for (answer, outcome) in [
            ("ok fine\n", Ok("fine")),
            ("processing\nprocessing a b\nok\n", Ok("")),
            ("ok one\ntwo\n\nthree\n", Ok("one\ntwo\n\nthree")),
            ("failed because\n", Err("because")),
            ("processing x\n", Err("without an answer")),
            ("processing x\nok half a li", Err("without an answer")),
            ("", Err("without an answer")),
            ("hello\n", Err("not understood: hello")),
        ] {
            let got = answered(answer.as_bytes(), Order::Reload);
            match (&got, outcome) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(got), Err(want)) => assert!(got.contains(want), "{got}"),
                _ => panic!("{answer:?}: {got:?}"),
            }
        }
    }
}
