//! The program that this process was started by, to be executed anew: as argv
//! said it, where it was said, so that a replaced file or a moved symlink is
//! what is found.

use super::{Heard, LEN, Link, VARIABLE, VERSION, Word};
use crate::sys::inherit::{number, pass};
use crate::sys::{process, signal, socket};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long `PROGRAM --version` may take to say what it is.
const SAYS_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its first element is found in PATH if it has no slash.
    argv: Vec<OsString>,
    /// Where it was started. None: that had been removed.
    folder: Option<PathBuf>,
}

/// What a successor inherits.
pub struct Legacy<'a> {
    pub listeners: Vec<BorrowedFd<'a>>,
    /// By which it finds them.
    pub variables: [(&'static str, String); 3],
    pub pidfile: Option<BorrowedFd<'a>>,
}

impl Program {
    /// As this process was started.
    pub fn ours(argv: Vec<OsString>) -> Program {
        Program {
            argv,
            folder: folder(),
        }
    }

    /// How it was called.
    pub fn name(&self) -> String {
        let name = self.argv.first().map(|name| name.display().to_string());
        name.unwrap_or_default()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.argv.first().cloned().unwrap_or_default());
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    /// On the child's side of a fork: becomes the program. What comes back is
    /// why not.
    pub fn become_it(&self, link: &Link, legacy: &Legacy<'_>) -> io::Error {
        signal::let_go();
        // With whatever it starts it can be ended, should it fail.
        if let Err(e) = process::lead_group() {
            return e;
        }
        let mut keep = vec![link.as_fd()];
        keep.extend(&legacy.listeners);
        keep.extend(legacy.pidfile);
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        keep.extend([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
        if let Err(e) = process::close_all_but(&keep) {
            return e;
        }
        let foreign = self.what_it_says();
        if let Some(name) = &foreign {
            if let Err(e) = link.say(&Word::Foreign(name.clone())) {
                return e;
            }
            match wait(link) {
                Heard::Word(Word::Go) => {}
                other => return io::Error::other(format!("{name} was not let go: {other:?}")),
            }
        }
        let inherited = match &foreign {
            // It would keep what it knows nothing of open for ever.
            Some(_) => legacy.listeners.clone(),
            None => keep,
        };
        for fd in inherited {
            if let Err(e) = pass(fd) {
                return e;
            }
        }
        let pidfile = legacy
            .pidfile
            .map_or("-".to_owned(), |fd| number(fd).to_string());
        let mut command = self.command();
        command
            .args(self.argv.iter().skip(1))
            // It would take the watchdog for another's: that one's pid is in there.
            .env_remove("WATCHDOG_PID")
            .envs(legacy.variables.iter().map(|(name, value)| (name, value)));
        if foreign.is_none() {
            let link = number(link.as_fd());
            command.env(VARIABLE, format!("{VERSION}:{link}:{pidfile}"));
        }
        command.exec()
    }

    /// The first line of what `--version` prints, if it is another program's.
    /// One that says nothing may be ours and broken: it is tried.
    fn what_it_says(&self) -> Option<String> {
        let mut child = self
            .command()
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let end = Instant::now() + SAYS_WITHIN;
        while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = child.kill();
        let _ = child.wait();
        let mut stdout = child.stdout.take()?;
        // What it has started may hold it open, and is not waited for.
        socket::set_nonblocking(stdout.as_fd(), true).ok()?;
        let mut text = vec![0; LEN];
        let read = stdout.read(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text[..read]);
        let line = text.lines().next()?.trim();
        let is_ours = line.starts_with("rmogstored") || line.is_empty();
        (!is_ours).then(|| line.chars().take(80).collect())
    }
}

/// In the child, which has nothing else to do.
fn wait(link: &Link) -> Heard {
    loop {
        match link.hear() {
            Heard::Nothing => std::thread::sleep(Duration::from_millis(2)),
            other => return other,
        }
    }
}

/// Where this process works, by the name that its user gave it: a symlink to
/// the release of the day is to be followed anew.
fn folder() -> Option<PathBuf> {
    let real = std::env::current_dir().ok()?;
    let named = std::env::var_os("PWD").map(PathBuf::from);
    let id = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    let named = named.filter(|named| named.is_absolute() && id(named) == id(&real));
    Some(named.unwrap_or(real))
}
