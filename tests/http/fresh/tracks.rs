//! One file under load, and what may be seen of it: one writer numbers its versions, says when it begins a change and
//! when that was completed; whoever asks meanwhile must see one of the versions between.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::{content, exchange, overwrite, overwrite_in_secret};
use crate::harness::{Conn, Response, show};

/// How the writer makes the next version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Habit {
    Put,
    /// Every second version is none: DELETE.
    Delete,
    Rename,
    /// Every second version is none: unlink(2).
    Unlink,
    /// Another file's inode gets the name.
    Link,
    /// The folder is exchanged for another.
    Folder,
    /// The folder is a link that is turned.
    Turn,
    /// Every second version is a link that leads out.
    Escape,
    /// In place, equally long.
    Write,
    /// The same, and the time of modification is put back.
    Secret,
    /// In place, longer each time.
    Grow,
    /// In place, shorter each time.
    Shrink,
}

pub const HABITS: [Habit; 12] = [
    Habit::Put,
    Habit::Delete,
    Habit::Rename,
    Habit::Unlink,
    Habit::Link,
    Habit::Folder,
    Habit::Turn,
    Habit::Escape,
    Habit::Write,
    Habit::Secret,
    Habit::Grow,
    Habit::Shrink,
];

pub struct Track {
    pub id: usize,
    pub habit: Habit,
    /// Bytes of the first version, about.
    len: usize,
    pub target: String,
    folder: PathBuf,
    outside: PathBuf,
    /// The last version that may be seen.
    begun: AtomicU64,
    /// The first version that may still be seen.
    done: AtomicU64,
    /// Tags and their versions, in both directions.
    tags: Mutex<(HashMap<String, u64>, HashMap<u64, String>)>,
}

/// What is asked, and what was known when it was.
pub struct Ask {
    what: What,
    since: u64,
}

#[derive(Clone, Debug)]
pub enum What {
    Get,
    Head,
    /// Of the bytes from here on, ten.
    Range(usize),
    /// Unless it is this version.
    Unless(String, u64),
}

impl Track {
    pub fn new(id: usize, habit: Habit, len: usize, device: &Path, outside: &Path) -> Track {
        let track = Track {
            id,
            habit,
            len,
            target: format!("/dev1/{id}/a/file"),
            folder: device.join(id.to_string()),
            outside: outside.join(id.to_string()),
            begun: AtomicU64::new(1),
            done: AtomicU64::new(1),
            tags: Mutex::default(),
        };
        let real = if habit == Habit::Turn { "b1" } else { "a" };
        fs::create_dir_all(track.folder.join(real)).expect("mkdir");
        fs::create_dir(&track.outside).expect("mkdir");
        if habit == Habit::Turn {
            symlink(real, track.folder.join("a")).expect("symlink");
        }
        let first = track.version(1).expect("the first version is one");
        fs::write(track.file(), first).expect("write");
        track
    }

    fn file(&self) -> PathBuf {
        self.folder.join("a/file")
    }

    /// Written to while it is read: a reply may have bytes of several versions.
    fn is_in_place(&self) -> bool {
        use Habit::{Grow, Secret, Shrink, Write};
        matches!(self.habit, Write | Secret | Grow | Shrink)
    }

    /// A version's bytes, or the status that stands for it.
    fn version(&self, version: u64) -> Result<Vec<u8>, u16> {
        let step = version as usize;
        match self.habit {
            Habit::Delete | Habit::Unlink if version.is_multiple_of(2) => Err(404),
            Habit::Escape if version.is_multiple_of(2) => Err(403),
            Habit::Write | Habit::Secret => Ok(vec![version as u8; self.len]),
            Habit::Grow => Ok(vec![b'g'; self.len + step]),
            Habit::Shrink => Ok(vec![b's'; self.len + 1000 - step]),
            // so that two in one tick of the clock, with one inode, still differ in their tags
            _ => Ok(content(self.id, version, self.len + step % 7)),
        }
    }

    /// Makes the next version, and says when.
    pub fn change(&self, conn: &mut Conn) {
        let version = self.begun.fetch_add(1, SeqCst) + 1;
        self.make(version, conn);
        self.done.fetch_max(version, SeqCst);
    }

    fn make(&self, version: u64, conn: &mut Conn) {
        let (file, next) = (self.file(), self.outside.join("next"));
        let bytes = match self.version(version) {
            Ok(bytes) => bytes,
            Err(403) => {
                symlink("/", &next).expect("symlink");
                return fs::rename(next, file).expect("rename");
            }
            Err(_) if self.habit == Habit::Delete => {
                return assert_eq!(conn.delete(&self.target).status, 204);
            }
            Err(_) => return fs::remove_file(file).expect("unlink"),
        };
        match self.habit {
            Habit::Put | Habit::Delete => {
                assert_eq!(conn.put(&self.target, &bytes).status, 201);
            }
            Habit::Rename | Habit::Unlink | Habit::Escape => {
                fs::write(&next, bytes).expect("write");
                fs::rename(next, file).expect("rename");
            }
            Habit::Link => {
                let other = self.outside.join(version.to_string());
                fs::write(&other, bytes).expect("write");
                fs::hard_link(other, &next).expect("link");
                fs::rename(next, file).expect("rename");
            }
            Habit::Folder => {
                let other = self.folder.join(format!("b{version}"));
                fs::create_dir(&other).expect("mkdir");
                fs::write(other.join("file"), bytes).expect("write");
                exchange(&other, &self.folder.join("a"));
            }
            Habit::Turn => {
                let name = format!("b{version}");
                let other = self.folder.join(&name);
                fs::create_dir(&other).expect("mkdir");
                fs::write(other.join("file"), bytes).expect("write");
                symlink(name, &next).expect("symlink");
                fs::rename(next, self.folder.join("a")).expect("rename");
            }
            Habit::Write => overwrite(&file, 0, &bytes),
            Habit::Secret => overwrite_in_secret(&file, &bytes),
            Habit::Grow => overwrite(&file, bytes.len() as u64 - 1, b"g"),
            Habit::Shrink => {
                let file = fs::OpenOptions::new().write(true).open(file);
                file.and_then(|file| file.set_len(bytes.len() as u64))
                    .expect("truncate");
            }
        }
    }

    /// A question, asked now; `choice` picks which.
    pub fn ask(&self, choice: u64) -> Ask {
        let since = self.done.load(SeqCst);
        let what = match choice % 8 {
            0 => What::Head,
            1 | 2 if !self.is_in_place() => {
                let tags = self.tags.lock().unwrap();
                // the newest that anybody has seen: it may be the current one, or just not any more
                match tags.1.iter().max() {
                    Some((version, tag)) => What::Unless(tag.clone(), *version),
                    None => What::Get,
                }
            }
            3 if !self.is_in_place() => What::Range(self.len / 2),
            _ => What::Get,
        };
        Ask { what, since }
    }

    pub fn request(&self, ask: &Ask) -> String {
        let (verb, line) = match &ask.what {
            What::Get => ("GET", String::new()),
            What::Head => ("HEAD", String::new()),
            What::Range(from) => ("GET", format!("Range: bytes={from}-{}\r\n", from + 9)),
            What::Unless(tag, _) => ("GET", format!("If-None-Match: {tag}\r\n")),
        };
        format!("{verb} {} HTTP/1.1\r\nHost: t\r\n{line}\r\n", self.target)
    }

    pub fn may_shrink(&self) -> bool {
        self.habit == Habit::Shrink
    }

    /// Whether the connection may end instead of a reply: the file shrank under it.
    pub fn may_break(&self, ask: &Ask) -> bool {
        self.may_shrink() && self.begun.load(SeqCst) > ask.since
    }

    /// Fails the test unless the reply shows a version that was there at some moment since it was asked for.
    #[track_caller]
    pub fn judge(&self, ask: &Ask, reply: &Response) {
        let until = self.begun.load(SeqCst);
        let mut fitting = (ask.since..=until).filter(|version| self.fits(ask, reply, *version));
        let Some(version) = fitting.next() else {
            let stale = (1..ask.since).rfind(|version| self.fits(ask, reply, *version));
            panic!(
                "{:?} of {} ({:?}): {} is none of the versions {} to {until} but {stale:?}: {}",
                ask.what,
                self.target,
                self.habit,
                reply.status,
                ask.since,
                show(&reply.body)
            );
        };
        let alone = fitting.next().is_none();
        if self.is_in_place() {
            return;
        }
        // who asks from now on must not see an older one, completed or not
        self.done.fetch_max(version, SeqCst);
        if alone && matches!(reply.status, 200 | 206) {
            let mut tags = self.tags.lock().unwrap();
            let tag = reply.etag();
            let known = *tags.0.entry(tag.clone()).or_insert(version);
            assert_eq!(known, version, "{}: {tag} of two versions", self.target);
            let known = tags.1.entry(version).or_insert(tag.clone()).clone();
            assert_eq!(known, tag, "{}: two tags of {version}", self.target);
        }
    }

    fn fits(&self, ask: &Ask, reply: &Response, version: u64) -> bool {
        let bytes = match self.version(version) {
            Ok(bytes) => bytes,
            Err(status) => return reply.status == status,
        };
        if let What::Unless(_, known) = ask.what
            && known == version
        {
            return reply.status == 304;
        }
        match ask.what {
            What::Range(from) if from >= bytes.len() => return reply.status == 416,
            What::Range(from) => {
                let upto = bytes.len().min(from + 10);
                let part = &bytes[from..upto];
                let total = bytes.len();
                return match reply.status {
                    200 => part.len() == total && reply.body == part,
                    206 => {
                        let range = format!("bytes {from}-{}/{total}", upto - 1);
                        reply.must("Content-Range") == range && reply.body == part
                    }
                    _ => false,
                };
            }
            _ => {}
        }
        if reply.status != 200 || reply.content_length() != bytes.len() as u64 {
            return false;
        }
        match (&ask.what, self.habit) {
            (What::Head, _) => true,
            // no byte is older than what was complete when it was asked for, and none is newer than `version`
            (_, Habit::Write | Habit::Secret) => {
                let newest = version.wrapping_sub(ask.since) as u8;
                let oldest = ask.since as u8;
                reply
                    .body
                    .iter()
                    .all(|byte| byte.wrapping_sub(oldest) <= newest)
            }
            // the kernel clears what is cut off, also in pages that are on their way out by sendfile
            (_, Habit::Shrink) => {
                let mut bytes = reply.body.iter().enumerate();
                let last = self.version(self.begun.load(SeqCst));
                let kept = last.map_or(0, |last| last.len());
                bytes.all(|(at, byte)| *byte == b's' || at >= kept && *byte == 0)
            }
            _ => reply.body == bytes,
        }
    }
}
