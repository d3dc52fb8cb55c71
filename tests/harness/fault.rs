//! A start that does not get on: a library, preloaded into the server (`fault.c` says what it does and where),
//! and the file by which a test controls it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::cc;

/// What fault.c maps, and where its two counters begin.
const PAGE: usize = 4096;
const COUNTERS: u64 = 64;

/// Whose start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who {
    Master,
    /// A worker that is a copy of its master.
    Copy,
    /// A worker of either kind.
    Worker,
}

/// At which step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// The program begins.
    Start,
    /// The first thing after the fork, in the child.
    Birth,
    Fork,
    /// A folder below the docroot is opened.
    Docroot,
    /// A process starts its first thread.
    Thread,
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mishap {
    /// Nothing, until the fault is cleared.
    Hang,
    Abort,
    /// It exits with 9.
    Exit,
    /// The call fails: EAGAIN.
    Fail,
}

/// The power over the starts of one tree.
pub struct Fault {
    control: File,
    path: PathBuf,
    below: PathBuf,
    library: PathBuf,
}

impl Fault {
    /// Its control file is in `folder`; `docroot` is what `Step::Docroot` is about. `None`, with a line that says
    /// why: there is no C compiler here.
    pub fn new(folder: &Path, docroot: &Path) -> Option<Fault> {
        let library = cc::library("fault")?;
        let path = folder.join("fault");
        fs::write(&path, [0; PAGE]).expect("the control file");
        let control = File::options().read(true).write(true).open(&path);
        Some(Fault {
            control: control.expect("the control file"),
            path,
            below: docroot.to_owned(),
            library,
        })
    }

    /// What a process needs in its environment to be in this power.
    pub fn envs(&self) -> [(&'static str, String); 3] {
        let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
        [
            ("LD_PRELOAD", text(&self.library)),
            ("FAULT_CONTROL", text(&self.path)),
            ("FAULT_BELOW", text(&self.below)),
        ]
    }

    /// From now on; so many times, or 0: always.
    pub fn set(&self, who: Who, step: Step, mishap: Mishap, times: u32) {
        let who = match who {
            Who::Master => b'm',
            Who::Copy => b'c',
            Who::Worker => b'w',
        };
        let step = match step {
            Step::Start => b's',
            Step::Birth => b'b',
            Step::Fork => b'f',
            Step::Docroot => b'd',
            Step::Thread => b't',
        };
        let mishap = match mishap {
            Mishap::Hang => b'h',
            Mishap::Abort => b'a',
            Mishap::Exit => b'x',
            Mishap::Fail => b'e',
        };
        self.clear();
        let counters = [[0; 4], times.to_ne_bytes()].concat();
        self.write(&counters, COUNTERS);
        self.write(&[step, mishap], 1);
        // last: until now nothing happens
        self.write(&[who], 0);
    }

    /// All is well again, and who hangs goes on.
    pub fn clear(&self) {
        self.write(&[0], 0);
    }

    /// How often it struck since it was set.
    pub fn struck(&self) -> u32 {
        let mut bytes = [0; 4];
        self.control
            .read_exact_at(&mut bytes, COUNTERS)
            .expect("control");
        u32::from_ne_bytes(bytes)
    }

    fn write(&self, bytes: &[u8], at: u64) {
        self.control.write_all_at(bytes, at).expect("control");
    }
}
