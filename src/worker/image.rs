//! A worker that is a fresh image of the program instead of a copy of the
//! master: nothing that went wrong in the master's memory is in it, and its
//! addresses are its own. Forked as any other, it executes the program again and
//! finds in a variable of the environment what it was given.

use super::privileges::Privileges;
use super::{Door, Start};
use crate::channel::Channel;
use crate::config::Snapshot;
use crate::listener::Serves;
use crate::log::{destinations, ears, set_destinations, set_ears};
use crate::scoreboard::{MAX_SLOTS, Scoreboard};
use crate::sys::exec::Program;
use crate::sys::inherit::{self, pass, take_variable};
use crate::sys::process::{self, Solo};
use crate::sys::signal::{self, Inbox, Mask};
use crate::sys::{memory, thread};
use socket2::SockRef;
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the image finds what it was given.
const VARIABLE: &str = "RMOGSTORED_WORKER";

/// How a start that somebody has mistaken ends, as a wrong argv does.
const BAD_USE: i32 = 2;

/// What every image of the same server is made of: the program as it was when
/// the master started (a file that is replaced on the disk never mixes
/// versions), the configuration as the master read it, the scoreboard.
pub struct Image {
    program: Program,
    argv: Vec<OsString>,
    snapshot: OwnedFd,
    scoreboard: OwnedFd,
}

/// What one worker is given.
pub struct Parcel<'a> {
    /// The worker's number, as the operator counts.
    pub nr: usize,
    /// Its line on the scoreboard.
    pub slot: usize,
    pub consumers: usize,
    pub umask: u32,
    pub privileges: &'a Privileges,
    /// Where the lock files are.
    pub run: &'a Path,
    pub channel: &'a Channel,
    pub doors: &'a [Door],
}

impl Image {
    /// For the master, at its start. `scoreboard`: see [`Scoreboard::with_file`].
    pub fn open(snapshot: &Snapshot, scoreboard: OwnedFd) -> io::Result<Image> {
        Ok(Image {
            program: Program::this()?,
            argv: snapshot.argv().to_vec(),
            snapshot: seal(snapshot)?,
            scoreboard,
        })
    }

    /// Images that are made from now on have this configuration.
    pub fn renew(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.snapshot = seal(snapshot)?;
        Ok(())
    }

    /// What a forked child must hold beside its parcel.
    pub fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [
            self.program.as_fd(),
            self.snapshot.as_fd(),
            self.scoreboard.as_fd(),
        ]
    }

    /// In the forked child, all signals blocked: becomes the image. What returns
    /// is why not.
    pub fn exec(&self, parcel: &Parcel<'_>) -> io::Error {
        let words = match self.words(parcel) {
            Ok(words) => words,
            Err(e) => return e,
        };
        let mut env: Vec<_> = std::env::vars_os().collect();
        env.push((VARIABLE.into(), words));
        self.program.exec(&self.argv, &env)
    }

    /// The variable's value; its descriptors are passed on.
    fn words(&self, parcel: &Parcel<'_>) -> io::Result<OsString> {
        let doors = parcel.doors.iter().map(|door| {
            let fd = pass(door.listener.as_fd())?;
            let lent = if door.is_lent { ":lent" } else { "" };
            Ok(format!("{fd}:{}:{}{lent}", door.site, door.serves))
        });
        let ears = match ears().as_ref() {
            Some(before) => pass(before.as_fd())?.to_string(),
            None => "-".to_owned(),
        };
        let text = format!(
            "nr={} slot={} consumers={} umask={} privileges={} log={} ears={ears} channel={} snapshot={} scoreboard={} doors={} run=",
            parcel.nr,
            parcel.slot,
            parcel.consumers,
            parcel.umask,
            parcel.privileges,
            destinations(),
            pass(parcel.channel.as_fd())?,
            pass(self.snapshot.as_fd())?,
            pass(self.scoreboard.as_fd())?,
            doors.collect::<io::Result<Vec<_>>>()?.join(","),
        );
        let mut words = OsString::from(text);
        words.push(parcel.run);
        Ok(words)
    }
}

fn seal(snapshot: &Snapshot) -> io::Result<OwnedFd> {
    memory::sealed(c"rmogstored-snapshot", &snapshot.encode())
}

/// The first thing that the program does. Where it was executed to be a worker it
/// is one, and does not return.
pub fn enter() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let given = Solo::prove().map_err(|e| e.to_string()).and_then(|solo| {
        let words = take_variable(&solo, VARIABLE);
        Given::unpack(&words.unwrap_or_default())
    });
    let code = match given {
        Ok(given) => given.serve(),
        Err(why) => {
            log::error!("{VARIABLE}: {why}; it is for the server's own workers: unset it");
            BAD_USE
        }
    };
    process::exit(code)
}

/// What came in a parcel.
struct Given {
    nr: usize,
    slot: usize,
    consumers: usize,
    umask: u32,
    privileges: Privileges,
    run: PathBuf,
    channel: Channel,
    snapshot: Snapshot,
    scoreboard: Scoreboard,
    doors: Vec<Door>,
}

impl Given {
    fn unpack(words: &OsStr) -> Result<Given, String> {
        let mut words = Words(words.as_bytes());
        let nr = words.number("nr")?;
        let slot = words.number("slot")?;
        let consumers = words.number("consumers")?;
        let umask = words.number("umask")?;
        let privileges = words.number("privileges")?;
        let destinations = words.number("log")?;
        let ears = match words.text("ears")? {
            "-" => None,
            fd => Some(adopt(fd).map_err(|why| format!("ears: {why}"))?),
        };
        let channel = words
            .fd("channel")
            .and_then(|fd| Channel::from_fd(fd).map_err(|e| format!("channel: {e}")))?;
        let snapshot = words.fd("snapshot").and_then(|fd| {
            let bytes = memory::bytes(fd).map_err(|e| format!("snapshot: {e}"))?;
            Snapshot::decode(&bytes).ok_or("snapshot: not one of this program".to_owned())
        })?;
        let scoreboard = words.fd("scoreboard").and_then(|fd| {
            Scoreboard::from_fd(fd.as_fd()).map_err(|e| format!("scoreboard: {e}"))
        })?;
        let doors = words.text("doors")?;
        let doors = doors.split(',').map(door).collect::<Result<Vec<_>, _>>()?;
        let run = PathBuf::from(OsString::from_vec(words.rest("run")?.to_vec()));
        if slot >= MAX_SLOTS || scoreboard.slot(slot).worker().0 != nr {
            return Err(format!(
                "worker {nr} is not in line {slot} of the scoreboard"
            ));
        }
        set_destinations(destinations);
        ears.into_iter().for_each(set_ears);
        Ok(Given {
            nr,
            slot,
            consumers,
            umask,
            privileges,
            run,
            channel,
            snapshot,
            scoreboard,
            doors,
        })
    }

    /// From here on it is a worker like any other.
    fn serve(self) -> i32 {
        // The kernel has named it after the descriptor.
        let name = self.snapshot.argv().first().map(Path::new);
        let name = name.and_then(Path::file_name).unwrap_or_default();
        if let Ok(name) = CString::new(name.as_bytes()) {
            thread::name_thread(&name);
        }
        let nr = self.nr;
        match self.start() {
            Ok(start) => super::run(start),
            Err(e) => {
                log::error!("worker {nr}: after the exec: {e}");
                1
            }
        }
    }

    fn start(self) -> io::Result<Start> {
        let Ok(config) = self.snapshot.config() else {
            return Err(io::Error::other("the master's configuration is refused"));
        };
        let signals = Inbox::open()?;
        signal::ignore_but_stops()?;
        Mask::none().apply();
        Ok(Start {
            nr: self.nr,
            slot: self.slot,
            config,
            doors: self.doors,
            run: self.run,
            channel: self.channel,
            scoreboard: self.scoreboard,
            consumers: self.consumers,
            umask: self.umask,
            privileges: self.privileges,
            signals,
        })
    }
}

/// `FD:SITE:SERVES`, and `:lent` where that is so.
fn door(text: &str) -> Result<Door, String> {
    let bad = |why: &dyn Display| format!("doors: {text:?}: {why}");
    let (words, is_lent) = match text.strip_suffix(":lent") {
        Some(words) => (words, true),
        None => (text, false),
    };
    let [fd, site, serves] = words.split(':').collect::<Vec<_>>()[..] else {
        return Err(bad(&"expected FD:SITE:SERVES"));
    };
    let all = [Serves::Http, Serves::HttpGet, Serves::Mgmt];
    let serves = all.into_iter().find(|kind| kind.to_string() == serves);
    let listener = adopt(fd).map_err(|e| bad(&e))?;
    let is_listener = SockRef::from(&listener).is_listener();
    if !is_listener.map_err(|e| bad(&e))? {
        return Err(bad(&"not a listener"));
    }
    Ok(Door {
        listener,
        site: site.parse().map_err(|e| bad(&e))?,
        serves: serves.ok_or_else(|| bad(&"serves what?"))?,
        is_lent,
    })
}

fn adopt(number: &str) -> Result<OwnedFd, String> {
    let number = number.parse().map_err(|_| format!("{number:?}"))?;
    inherit::adopt(number).map_err(|e| format!("descriptor {number}: {e}"))
}

/// `KEY=VALUE KEY=VALUE ...`, in the order in which they were written.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The value of the next word, which must have that key.
    fn text(&mut self, key: &str) -> Result<&'a str, String> {
        let all = self.rest(key)?;
        let end = all.iter().position(|byte| *byte == b' ');
        let (word, rest) = all.split_at(end.unwrap_or(all.len()));
        self.0 = rest.get(1..).unwrap_or_default();
        std::str::from_utf8(word).map_err(|e| format!("{key}: {e}"))
    }

    fn number<T: FromStr<Err: Display>>(&mut self, key: &str) -> Result<T, String> {
        let text = self.text(key)?;
        text.parse().map_err(|e| format!("{key}={text}: {e}"))
    }

    fn fd(&mut self, key: &str) -> Result<OwnedFd, String> {
        adopt(self.text(key)?).map_err(|why| format!("{key}: {why}"))
    }

    /// All that is behind the next key.
    fn rest(&self, key: &str) -> Result<&'a [u8], String> {
        let value = self.0.strip_prefix(key.as_bytes());
        value
            .and_then(|value| value.strip_prefix(b"="))
            .ok_or_else(|| format!("no {key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &str) -> String {
        match Given::unpack(OsStr::new(words)) {
            Ok(_) => panic!("taken: {words}"),
            Err(why) => why,
        }
    }

    #[test]
    fn what_is_no_parcel_is_refused_by_the_name_of_what_is_wrong() {
        let good = "nr=0 slot=0 consumers=1 umask=18 privileges=-,- log=1 ears=- ";
        for (words, named) in [
            ("", "no nr"),
            ("1", "no nr"),
            ("nr=0", "no slot"),
            ("nr=x slot=0", "nr=x: "),
            ("nr=-1 slot=0", "nr=-1: "),
            (good, "no channel"),
            (&format!("{good}channel=x"), "channel: \"x\""),
            (&format!("{good}channel=1"), "channel: descriptor 1: "),
            (&format!("{good}channel=999999"), "descriptor 999999: "),
        ] {
            let why = refused(words);
            assert!(why.contains(named), "{words:?}: {why}");
        }
    }

    #[test]
    fn a_path_may_hold_anything() {
        let mut words = Words(b"a=b run= c=d=\xff");
        assert_eq!(words.text("a"), Ok("b"));
        assert_eq!(words.rest("run"), Ok(&b" c=d=\xff"[..]));
    }
}
