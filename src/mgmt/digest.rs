//! A digest in the making: a file, how far it was read, and the sum so far.

use super::command::Algorithm;
use crate::device::Line;
use crate::ledger::{Act, Ledger};
use crate::seats::Seat;
use crate::store::download::Download;
use crate::sys::clock::Tick;
use crate::sys::file::Facts;
use md5::{Digest, Md5};
use sha1::Sha1;
use std::fmt;
use std::fs::File;

/// What one turn reads before others get theirs. Bytes.
pub const SLICE: u64 = 8 * 1024 * 1024;

/// The same for a disk that is slow, or busy with many of them. Milliseconds.
const SLICE_MS: u32 = 100;

/// What one read asks for: small beside a core's cache, large beside a system
/// call. Bytes.
const READ: usize = 128 * 1024;

enum Sum {
    Md5(Md5),
    Sha1(Sha1),
}

/// See the module.
pub struct Job {
    file: Download,
    offset: u64,
    sum: Sum,
    algorithm: Algorithm,
    /// The path as the client spelled it.
    sent: Box<[u8]>,
    /// st_dev.
    filesystem: u64,
    line: Line,
}

/// How far a slice came.
#[derive(Debug, PartialEq, Eq)]
pub enum Slice {
    /// There is more of the file.
    More,
    /// The reply is written.
    Done,
}

impl Job {
    /// Begins with a file that was opened just now, in the device of this line.
    pub fn new(algorithm: Algorithm, sent: &[u8], file: File, facts: &Facts, line: Line) -> Job {
        Job {
            file: Download::new(file, facts.size),
            offset: 0,
            sum: match algorithm {
                Algorithm::Md5 => Sum::Md5(Md5::new()),
                Algorithm::Sha1 => Sum::Sha1(Sha1::new()),
            },
            algorithm,
            sent: sent.into(),
            filesystem: facts.device,
            line,
        }
    }

    /// The filesystem that is read (st_dev).
    pub fn filesystem(&self) -> u64 {
        self.filesystem
    }

    /// The line before the device that is read.
    pub fn line(&self) -> Line {
        self.line
    }

    /// Reads on until `left`, which it lessens, is 0; it makes it 0 when the
    /// slice's time is over. The reply goes behind the end of `out`.
    pub fn slice(
        &mut self,
        left: &mut u64,
        out: &mut Vec<u8>,
        ledger: &Ledger,
        seat: &Seat,
    ) -> Slice {
        // For a core, if not for the disk.
        seat.will_wait();
        self.read(left, out, ledger, || {})
    }

    /// The same; `rest` comes after each read.
    fn read(
        &mut self,
        left: &mut u64,
        out: &mut Vec<u8>,
        ledger: &Ledger,
        rest: impl Fn(),
    ) -> Slice {
        let mut bytes = Vec::with_capacity(READ);
        let start = Tick::now();
        let nobody = Seat::default();
        while *left > 0 {
            bytes.clear();
            ledger.go(Act::Digest);
            match self.file.read_into(&mut bytes, self.offset, READ, &nobody) {
                Ok(n) => {
                    match &mut self.sum {
                        Sum::Md5(sum) => sum.update(&bytes),
                        Sum::Sha1(sum) => sum.update(&bytes),
                    }
                    self.offset += n as u64;
                    ledger.digested(n);
                    rest();
                    *left = left.saturating_sub(n as u64);
                    if n < READ {
                        self.say(out);
                        return Slice::Done;
                    }
                    if Tick::now().since(start) >= SLICE_MS {
                        *left = 0;
                    }
                }
                Err(e) => {
                    self.fail(&e, out);
                    return Slice::Done;
                }
            }
        }
        Slice::More
    }

    /// To the file's end, at low priority. Kernels that do not preempt let whoever
    /// is woken wait for the next tick, so the core is offered after each read:
    /// wrk's p99 beside digests on the same core was 1.2 ms without that, and is
    /// what it is without digests, 0.3 ms (`scripts/bench-neighbours`).
    pub fn run(&mut self, out: &mut Vec<u8>, ledger: &Ledger) {
        let rest = std::thread::yield_now;
        while self.read(&mut { SLICE }, out, ledger, rest) == Slice::More {}
    }

    /// A turn of it begins, which may not come back.
    pub fn enters(&self, ledger: &Ledger) {
        let name = self.algorithm.name().as_bytes();
        ledger.about(&[name, b" ", &self.sent], Act::Digest);
    }

    /// The reply of one that cannot go on.
    pub fn fail(&self, e: &dyn std::fmt::Display, out: &mut Vec<u8>) {
        crate::log::client(format_args!(
            "{} {} failed at {}: {e}",
            self.algorithm.name(),
            self.sent.escape_ascii(),
            self.offset
        ));
        out.extend_from_slice(b"ERR read ");
        out.extend_from_slice(&self.sent);
        out.extend_from_slice(format!(" at {} failed\r\n", self.offset).as_bytes());
    }

    fn say(&self, out: &mut Vec<u8>) {
        let hex = match &self.sum {
            Sum::Md5(sum) => hex(&sum.clone().finalize()),
            Sum::Sha1(sum) => hex(&sum.clone().finalize()),
        };
        reply(self.algorithm, &self.sent, &hex, out);
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, sent) = (self.algorithm.name(), self.sent.escape_ascii());
        write!(f, "{name} {sent}, {} bytes so far", self.offset)
    }
}

/// `PATH ALGORITHM=VALUE`; the value `-1` is a file that cannot be opened.
pub fn reply(algorithm: Algorithm, sent: &[u8], value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(sent);
    out.extend_from_slice(format!(" {}={value}\r\n", algorithm.name()).as_bytes());
}

fn hex(sum: &[u8]) -> String {
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}
