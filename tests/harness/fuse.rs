//! A filesystem of one file that the test serves itself, over /dev/fuse: while it gives no answer, the calls
//! of the server hang inside of the kernel, whatever library or call they came through. Read-only.
//!
//! The numbers are those of linux/fuse.h, protocol 7.31. Should the test die, the kernel ends what hangs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use super::server::Builder;

/// What the one file, `file`, says.
pub const CONTENT: &[u8] = b"back again";

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const ACCESS: u32 = 34;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Node numbers: the root is 1 by definition.
const ROOT: u64 = 1;
const FILE: u64 = 2;

/// The kernel wants to be read with room for a whole write; the least that it takes.
const REQUEST_MAX: usize = 8192 + 4096;

struct Request {
    opcode: u32,
    unique: u64,
    node: u64,
    body: Vec<u8>,
}

#[derive(Default)]
struct State {
    hangs: bool,
    /// The test is through with it.
    over: bool,
    held: Vec<Request>,
}

/// The filesystem; one mount of it.
pub struct Fuse {
    device: Arc<File>,
    state: Arc<Mutex<State>>,
}

impl Fuse {
    /// `None`, with a line that says why: it wants root and /dev/fuse.
    pub fn open() -> Option<Fuse> {
        if !super::server::is_root() {
            eprintln!("skipped: mounting a filesystem wants root");
            return None;
        }
        let device = match File::options().read(true).write(true).open("/dev/fuse") {
            Ok(device) => Arc::new(device),
            Err(error) => {
                eprintln!("skipped: /dev/fuse: {error}");
                return None;
            }
        };
        Some(Fuse {
            device,
            state: Arc::default(),
        })
    }

    /// A server that sees it as this device.
    pub fn mount(&self, builder: Builder, device: &str) -> Builder {
        let fd = self.device.as_raw_fd();
        let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other");
        let (device_file, state) = (Arc::clone(&self.device), Arc::clone(&self.state));
        std::thread::spawn(move || serve(&device_file, &state));
        builder.mount(device, "rmogstored-test", "fuse", &options)
    }

    /// From now on nothing is answered, until the guard is dropped.
    #[must_use]
    pub fn hang(&self) -> Hang<'_> {
        self.state.lock().unwrap().hangs = true;
        Hang { fuse: self }
    }

    /// Calls that wait for an answer now.
    pub fn held(&self) -> usize {
        self.state.lock().unwrap().held.len()
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // nobody waits for its thread, which ends when the mount goes with the server's namespace
        self.state.lock().unwrap().over = true;
    }
}

/// Keep it in a variable declared behind the server, so that a test that fails lets go first.
pub struct Hang<'a> {
    fuse: &'a Fuse,
}

impl Drop for Hang<'_> {
    fn drop(&mut self) {
        let mut state = self.fuse.state.lock().unwrap();
        state.hangs = false;
        for request in std::mem::take(&mut state.held) {
            answer(&self.fuse.device, &request);
        }
    }
}

fn serve(mut device: &File, state: &Mutex<State>) {
    let mut buf = vec![0; REQUEST_MAX.max(1 << 17)];
    loop {
        let len = match device.read(&mut buf) {
            Ok(len) => len,
            // a request that was interrupted in between
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // not mounted yet
            Err(error)
                if error.raw_os_error() == Some(libc::EPERM) && !state.lock().unwrap().over =>
            {
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            // unmounted
            Err(_) => return,
        };
        let word = |at: usize| u32::from_ne_bytes(buf[at..at + 4].try_into().expect("four"));
        let long = |at: usize| u64::from_ne_bytes(buf[at..at + 8].try_into().expect("eight"));
        let request = Request {
            opcode: word(4),
            unique: long(8),
            node: long(16),
            body: buf[40..len].to_vec(),
        };
        let mut state = state.lock().unwrap();
        match request.opcode {
            FORGET | BATCH_FORGET | INTERRUPT => {}
            INIT => answer(device, &request),
            _ if state.hangs => state.held.push(request),
            _ => answer(device, &request),
        }
    }
}

fn answer(mut device: &File, request: &Request) {
    let (error, body) = match reply(request) {
        Ok(body) => (0, body),
        Err(errno) => (-errno, Vec::new()),
    };
    let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(error.to_ne_bytes());
    bytes.extend(request.unique.to_ne_bytes());
    bytes.extend(body);
    // who asked may have been killed meanwhile
    let _ = device.write_all(&bytes);
}

fn reply(request: &Request) -> Result<Vec<u8>, i32> {
    let mut out = Vec::new();
    let mut longs = |values: &[u64]| out.extend(values.iter().flat_map(|v| v.to_ne_bytes()));
    match request.opcode {
        INIT => {
            // version, readahead, no flags, background, the most that is written
            for word in [7_u32, 31, 0, 0, 0, 4096] {
                out.extend(word.to_ne_bytes());
            }
            out.resize(64, 0);
        }
        LOOKUP if request.node == ROOT && request.body == b"file\0" => {
            // no time for which the kernel might remember it
            longs(&[FILE, 0, 0, 0, 0]);
            out.extend(attributes(FILE));
        }
        LOOKUP => return Err(libc::ENOENT),
        GETATTR => {
            longs(&[0, 0]);
            out.extend(attributes(request.node));
        }
        OPEN | OPENDIR => longs(&[0, 0]),
        READ => {
            let at = u64::from_ne_bytes(request.body[8..16].try_into().expect("eight")) as usize;
            out.extend_from_slice(CONTENT.get(at..).unwrap_or_default());
        }
        READDIR | RELEASE | RELEASEDIR | FLUSH | ACCESS => {}
        STATFS => {
            // blocks, free, available, inodes, free ones; the size of a block, of a name, and of a block again
            longs(&[1000, 500, 400, 10, 5]);
            for word in [4096_u32, 255, 4096, 0] {
                out.extend(word.to_ne_bytes());
            }
            out.resize(80, 0);
        }
        _ => return Err(libc::EROFS),
    }
    Ok(out)
}

/// `struct fuse_attr`.
fn attributes(node: u64) -> Vec<u8> {
    let (mode, size) = match node {
        ROOT => (libc::S_IFDIR | 0o755, 4096),
        _ => (libc::S_IFREG | 0o644, CONTENT.len() as u64),
    };
    let mut out = Vec::new();
    for long in [node, size, 1, 1_700_000_000, 1_700_000_000, 1_700_000_000] {
        out.extend(u64::to_ne_bytes(long));
    }
    for word in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        out.extend(u32::to_ne_bytes(word));
    }
    out
}
