//! A disk that hangs: a library, preloaded into the server (`hang.c` says what it holds and how), and the
//! file by which a test controls it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::server::{Builder, own_docroot};
use super::{Server, cc};

/// What hang.c maps.
const PAGE: usize = 4096;

/// Where its two counters begin.
const COUNTERS: u64 = 64;

/// Which calls do not come back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Calls {
    /// Those that look up a name: open, opendir, stat.
    Opens,
    /// Those that read a file's content.
    Reads,
    /// Those that change the disk.
    Writes,
    /// Every one, statvfs too.
    All,
    /// Those that ask what is in memory, which no disk holds up.
    Memory,
    /// None: reads from memory find nothing, or are no call that the kernel knows.
    Nothing,
    Unknown,
}

impl Calls {
    fn mode(self) -> char {
        match self {
            Calls::Opens => 'o',
            Calls::Reads => 'r',
            Calls::Writes => 'w',
            Calls::All => 'a',
            Calls::Memory => 'm',
            Calls::Nothing => 'z',
            Calls::Unknown => 'v',
        }
    }
}

/// A docroot with `dev1` and `dev2`, and the power over a part of it.
pub struct Disk {
    root: TempDir,
    below: PathBuf,
    control: File,
    library: PathBuf,
    folder: TempDir,
}

impl Disk {
    /// `part` of the docroot (`dev1`; nothing: all of it) can be made to hang. `None`, with a line that says
    /// why: there is no C compiler here.
    pub fn new(part: &str) -> Option<Disk> {
        let library = cc::library("hang")?;
        let root = own_docroot();
        let below = fs::canonicalize(root.path()).expect("the docroot");
        let below = if part.is_empty() {
            below
        } else {
            below.join(part)
        };
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("control");
        fs::write(&path, [&b"0"[..], &[0; PAGE - 1]].concat()).expect("the control file");
        let control = File::options().read(true).write(true).open(path);
        Some(Disk {
            root,
            below,
            control: control.expect("the control file"),
            library,
            folder,
        })
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A server on this disk.
    pub fn builder(&self) -> Builder {
        let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
        Server::builder()
            .docroot(self.root.path())
            .env("LD_PRELOAD", &text(&self.library))
            .env("HANG_BELOW", &text(&self.below))
            .env("HANG_CONTROL", &text(&self.folder.path().join("control")))
    }

    /// From now on these calls do not come back, until the guard is dropped.
    #[must_use]
    pub fn hang(&self, calls: Calls) -> Hang<'_> {
        self.set(&format!("{}\n", calls.mode()));
        Hang { disk: self }
    }

    /// From now on each of these calls takes so long, until the guard is dropped.
    #[must_use]
    pub fn slow(&self, calls: Calls, milliseconds: u32) -> Hang<'_> {
        self.set(&format!("{}{milliseconds}\n", calls.mode()));
        Hang { disk: self }
    }

    fn set(&self, text: &str) {
        // the limit first and the mode last, so that no call is held without its limit
        let (mode, limit) = text.as_bytes().split_at(1);
        self.control.write_all_at(limit, 1).expect("control");
        self.control.write_all_at(mode, 0).expect("control");
    }

    fn counter(&self, nr: u64) -> u32 {
        let mut bytes = [0; 4];
        self.control
            .read_exact_at(&mut bytes, COUNTERS + 4 * nr)
            .expect("control");
        u32::from_ne_bytes(bytes)
    }

    /// Calls that are held now (one that was ended by SIGKILL counts for ever).
    pub fn held(&self) -> u32 {
        self.counter(0)
    }

    /// All that were held ever.
    pub fn ever(&self) -> u32 {
        self.counter(1)
    }
}

/// As long as it lives, the disk hangs. Keep it in a variable declared behind the server, so that a test
/// that fails lets go before it stops the server.
pub struct Hang<'a> {
    disk: &'a Disk,
}

impl Hang<'_> {
    /// Takes the control file away instead: the library lets go by itself.
    pub fn vanish(&self) {
        fs::remove_file(self.disk.folder.path().join("control")).expect("unlink");
    }
}

impl Drop for Hang<'_> {
    fn drop(&mut self) {
        self.disk.set("0\n");
    }
}

/// How many consumers of a worker are held; a prober may be, too.
pub fn held_consumers(pid: i32) -> usize {
    let held = held_threads(pid).into_iter();
    held.filter(|name| name.starts_with("con:")).count()
}

/// The names of the threads of a process that are held, without the library's mark.
pub fn held_threads(pid: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .filter_map(|name| Some(name.trim_end().strip_prefix("held:")?.to_owned()))
        .collect()
}
