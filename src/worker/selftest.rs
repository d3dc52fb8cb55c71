//! Whether this copy of the master can serve, tried before it says that it is
//! ready. A fork copies whatever state the master was in; a worker that would
//! hang with its first client ends here, and says at what.

use super::consumer::Work;
use crate::client::Client;
use crate::listener::Serves;
use crate::queue::{LONGEST_WAIT, Queue, Wait, Woken};
use crate::scoreboard::{Device, Scoreboard};
use crate::sync::{Condvar, Mutex};
use crate::sys::clock::{self, Tick};
use crate::sys::socket::Peer;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// No step takes longer on a machine that works, however busy it is.
const STEP: Duration = Duration::from_secs(5);

/// Docroots and devices that do not answer within this are not waited for: they
/// hang, and others are to be served.
const LOOK: Duration = Duration::from_secs(1);

/// From small objects of the allocator's lists to what it maps. Bytes.
const SIZES: [usize; 8] = [16, 100, 1 << 10, 5000, 64 << 10, 300_000, 4 << 20, 20 << 20];

/// What the request's reply has at most. Bytes.
const REPLY: u64 = 4096;

/// Tries everything. The error names the step.
pub fn run(work: &Work, docroots: &[PathBuf], board: &Scoreboard) -> io::Result<()> {
    // First, so that it goes on beside the others.
    let look = Look::begin(docroots, board).map_err(named("a thread for the docroots"))?;
    within("memory", allocate)?;
    within("locks", parking)?;
    let theirs = work.clone();
    within("a worker's locks", move || touch(&theirs))?;
    within("the queue", queue)?;
    let asked = request(work).map_err(named("a request"));
    let hangs = look.end()?;
    match asked {
        // Its consumer is inside of that.
        Err(e) if hangs => log::warn!("self-test: {e}, and a docroot hangs"),
        other => other?,
    }
    Ok(())
}

fn named(step: &str) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::other(format!("self-test: {step}: {e}"))
}

/// One step, in a thread that is joined when it has come to its end, and left
/// where it is when that takes too long.
fn within(step: &str, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let (tell, ended) = channel();
    let started = std::thread::Builder::new()
        .name("self-test".to_owned())
        .spawn(move || {
            // Who asked may have stopped waiting.
            let _ = tell.send(work());
        });
    let thread = started.map_err(named(step))?;
    match ended.recv_timeout(STEP) {
        Ok(result) => {
            // It has said its last word; a panic aborts the process.
            let _ = thread.join();
            result.map_err(named(step))
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(named(step)(
            io::Error::other(format!("no end within {STEP:?}")),
        )),
    }
}

/// Of each size the ends alone are touched: to fill the largest took 6 ms.
fn allocate() -> io::Result<()> {
    let mut held: Vec<Vec<u8>> = Vec::new();
    for (nr, size) in SIZES.into_iter().enumerate() {
        let mut bytes = vec![0; size];
        bytes[0] = nr as u8 + 1;
        bytes[size - 1] = nr as u8 + 1;
        held.push(bytes);
    }
    let is_whole = |(nr, bytes): (usize, &Vec<u8>)| {
        let ends = [bytes[0], bytes[bytes.len() - 1]];
        ends == [nr as u8 + 1; 2]
    };
    if held.iter().enumerate().all(is_whole) {
        return Ok(());
    }
    Err(io::Error::other("what was written is not what is read"))
}

/// What the standard library and the locks' library share in the whole process:
/// locks that the master may have held.
fn parking() -> io::Result<()> {
    drop(io::stdin().lock());
    drop(io::stdout().lock());
    drop(io::stderr().lock());
    drop(std::env::var_os("PATH"));
    clock::seed();
    // Each waits for the other, so both go through the table of those who wait.
    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let other = Arc::clone(&pair);
    let thread = std::thread::Builder::new()
        .name("self-test".to_owned())
        .spawn(move || bounce(&other, 1))?;
    bounce(&pair, 0);
    // It ends by returning; a panic aborts the process.
    let _ = thread.join();
    Ok(())
}

/// Waits until the ball is on this side, even or odd, and passes it on.
fn bounce((ball, moved): &(Mutex<usize>, Condvar), side: usize) {
    for _ in 0..4 {
        let mut ball = ball.lock();
        while *ball % 2 != side {
            moved.wait(&mut ball);
        }
        *ball += 1;
        moved.notify_one();
    }
}

/// The locks that this worker's threads share.
fn touch(work: &Work) -> io::Result<()> {
    drop(work.gate.enter(true));
    work.devices.expire(Tick::now(), STEP);
    work.queue.retain(|_| true);
    work.watchers.is_started();
    work.seats.rouse();
    work.fsck.count();
    Ok(())
}

/// Add, wait, arm again, close: what a consumer does with the kernel.
fn queue() -> io::Result<()> {
    let queue = Queue::<UnixStream>::new()?;
    let (mut ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    queue
        .add(Box::new(theirs), Wait::Read)
        .map_err(|(_, e)| e)?;
    ours.write_all(b"?")?;
    for wait in [Wait::Read, Wait::Write, Wait::ReadWrite] {
        let turn = match queue.next(LONGEST_WAIT)? {
            Woken::By(turn) => turn,
            Woken::Late | Woken::Poisoned => {
                return Err(io::Error::other("woken by nobody"));
            }
        };
        if wait == Wait::Write {
            // Unread it would make the end a reset.
            turn.deref().read_exact(&mut [0])?;
        }
        queue.rearm(turn, wait)?;
    }
    match queue.next(LONGEST_WAIT)? {
        Woken::By(turn) => queue.close(turn),
        Woken::Late | Woken::Poisoned => return Err(io::Error::other("woken by nobody")),
    }
    if ours.read(&mut [0])? != 0 {
        return Err(io::Error::other("a closed client says something"));
    }
    Ok(())
}

/// A GET of what is not there, through this worker's own queue, consumers,
/// parser and store.
fn request(work: &Work) -> io::Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let place = work.gate.enter(false);
    let client = Client::new(theirs.into(), Peer::Unix, 0, Serves::HttpGet, place);
    work.queue
        .add(Box::new(client), Wait::Read)
        .map_err(|(_, e)| e)?;
    let name = format!("/rmogstored-self-test-{:x}", clock::seed());
    let asked = format!("GET {name} HTTP/1.1\r\nHost: self-test\r\nConnection: close\r\n\r\n");
    ours.write_all(asked.as_bytes())?;
    ours.set_read_timeout(Some(STEP))?;
    let mut reply = Vec::new();
    match (&ours).take(REPLY).read_to_end(&mut reply) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            return Err(io::Error::other(format!("no reply within {STEP:?}")));
        }
        other => other?,
    };
    if reply.starts_with(b"HTTP/1.1 404 ") {
        return Ok(());
    }
    let line = reply.split(|b| *b == b'\r').next().unwrap_or_default();
    Err(io::Error::other(format!(
        "404 was expected, the reply is \"{}\"",
        line.escape_ascii()
    )))
}

/// A look at each docroot and each device.
struct Look {
    begun: Instant,
    /// What is being looked at.
    at: Arc<Mutex<PathBuf>>,
    ended: Receiver<io::Result<()>>,
}

impl Look {
    /// Devices that are known to be dead are left out.
    fn begin(docroots: &[PathBuf], board: &Scoreboard) -> io::Result<Look> {
        let mut paths: Vec<(PathBuf, bool)> = Vec::new();
        for (site, docroot) in docroots.iter().enumerate() {
            paths.push((docroot.clone(), true));
            let rows = board.rows().filter(|(_, row)| row.state() != Device::Dead);
            let names = rows.filter_map(|(_, row)| row.device());
            for (_, name) in names.filter(|(of, _)| *of == site) {
                paths.push((docroot.join(OsStr::from_bytes(&name)), false));
            }
        }
        let at = Arc::new(Mutex::new(PathBuf::new()));
        let (tell, ended) = channel();
        let shared = Arc::clone(&at);
        std::thread::Builder::new()
            .name("look".to_owned())
            .spawn(move || {
                // Who asked may have stopped waiting.
                let _ = tell.send(look(paths, &shared));
            })?;
        Ok(Look {
            begun: Instant::now(),
            at,
            ended,
        })
    }

    /// Whether any of them hangs.
    fn end(self) -> io::Result<bool> {
        let left = LOOK.saturating_sub(self.begun.elapsed());
        match self.ended.recv_timeout(left) {
            Ok(looked) => looked.map(|()| false),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                log::warn!(
                    "self-test: {} does not answer within {LOOK:?}; others are served",
                    self.at.lock().display()
                );
                Ok(true)
            }
        }
    }
}

/// A docroot must be there; a device may be missing, or be ill.
fn look(paths: Vec<(PathBuf, bool)>, at: &Mutex<PathBuf>) -> io::Result<()> {
    for (path, must_be) in paths {
        at.lock().clone_from(&path);
        match std::fs::metadata(&path) {
            Err(e) if must_be => return Err(named(&format!("docroot {}", path.display()))(e)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                log::warn!("self-test: device {}: {e}", path.display());
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_that_need_no_worker() {
        within("memory", allocate).unwrap();
        within("locks", parking).unwrap();
        within("the queue", queue).unwrap();
    }

    #[test]
    fn a_step_that_hangs_is_named_and_left_behind() {
        let begun = Instant::now();
        let (stop, stopped) = channel::<()>();
        let hangs = move || {
            let _ = stopped.recv();
            Ok(())
        };
        let error = within("a step", hangs).unwrap_err().to_string();
        assert_eq!(error, "self-test: a step: no end within 5s");
        assert!(begun.elapsed() >= STEP);
        drop(stop);
    }

    #[test]
    fn docroots_must_be_there_and_devices_need_not() {
        let folder = tempfile::tempdir().unwrap();
        let docroot = folder.path().to_owned();
        let board = Scoreboard::new().unwrap();
        board.place(0, b"dev1").unwrap();
        let ended = Look::begin(std::slice::from_ref(&docroot), &board)
            .unwrap()
            .end();
        assert!(!ended.unwrap());
        let missing = docroot.join("missing");
        let error = Look::begin(std::slice::from_ref(&missing), &board)
            .unwrap()
            .end();
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("self-test: docroot") && error.contains("missing"),
            "{error}"
        );
    }
}
