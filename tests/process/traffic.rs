//! Clients that work until they are told to stop, check every reply, and write down what went wrong: a test
//! about processes wants to know how many failed and whose they were, not only the first.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::facts;
use crate::harness::conn::Ended;
use crate::harness::{Conn, PATIENCE, Response, Server, eventually, pattern};

/// Where nobody listens any more, the kernel drops the SYN: nobody answers before its repetition.
const DIAL: Duration = Duration::from_millis(400);

/// The file that all clients read.
const SHARED: &str = "/dev1/shared";
const SHARED_LEN: usize = 5000;

/// How a client uses its connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Habit {
    /// Request after request on one connection.
    Busy,
    /// The same with pauses of up to this.
    Dawdling(Duration),
    /// A new connection for each request; every second one says so.
    OneShot,
}

/// A request that was not answered as it should, or a connection that could not be had.
pub struct Failure {
    pub habit: Habit,
    pub what: String,
    /// The worker that had the connection, where that is known.
    pub owner: Option<i32>,
    /// The life of the connection.
    pub from: Instant,
    pub to: Instant,
    /// The first request on its connection.
    pub first: bool,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure {
            habit, what, owner, ..
        } = self;
        let nth = if self.first { "first" } else { "later" };
        let lived = self.to - self.from;
        write!(
            f,
            "{habit:?}, {nth} request, of worker {owner:?}, connected {lived:?} before: {what}"
        )
    }
}

/// What the clients have seen.
#[derive(Debug, Default)]
pub struct Tally {
    pub served: u64,
    /// Clean ends of connections on which nothing was asked.
    pub idle_ends: u64,
    /// Connects that failed after `expect_stop`.
    pub turned_away: u64,
    pub failures: Vec<Failure>,
}

struct Shared {
    addr: SocketAddr,
    above: i32,
    enough: AtomicBool,
    stopping: AtomicBool,
    served: AtomicU64,
    tally: Mutex<Tally>,
    shared_file: Vec<u8>,
}

/// The clients, at work.
pub struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts so many clients of each habit.
    pub fn start(server: &Server, habits: &[(Habit, usize)]) -> Traffic {
        Traffic::on(server.addr(), server.root(), server.pid(), habits)
    }

    /// The same with a server of another kind, whose processes are below `above`.
    pub fn on(addr: SocketAddr, root: &Path, above: i32, habits: &[(Habit, usize)]) -> Traffic {
        let shared_file = pattern(SHARED_LEN);
        let at = root.join(SHARED.trim_start_matches('/'));
        fs::create_dir_all(at.parent().expect("a parent")).expect("mkdir -p");
        fs::write(at, &shared_file).expect("write");
        let shared = Arc::new(Shared {
            addr,
            above,
            enough: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            served: AtomicU64::new(0),
            tally: Mutex::default(),
            shared_file,
        });
        let all = habits
            .iter()
            .flat_map(|(habit, count)| std::iter::repeat_n(*habit, *count));
        let clients = all.enumerate().map(|(nr, habit)| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || Client::new(nr, habit, &shared).work())
        });
        Traffic {
            clients: clients.collect(),
            shared,
        }
    }

    /// Waits until so many more requests were served.
    #[track_caller]
    pub fn flow(&self, requests: u64) {
        let goal = self.shared.served.load(Ordering::Relaxed) + requests;
        eventually("requests to be served", PATIENCE, || {
            self.shared.served.load(Ordering::Relaxed) >= goal
        });
    }

    /// From now on it is no failure when there is nobody to connect to; the client goes home.
    pub fn expect_stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
    }

    /// Waits for all clients: for the end of what they are at, or until there is nobody to connect to.
    #[track_caller]
    pub fn finish(self) -> Tally {
        self.shared.enough.store(true, Ordering::SeqCst);
        self.join()
    }

    /// Waits until the clients have gone home by themselves, after `expect_stop`.
    #[track_caller]
    pub fn join(self) -> Tally {
        eventually("the end of all clients", PATIENCE, || {
            self.clients.iter().all(JoinHandle::is_finished)
        });
        for client in self.clients {
            client
                .join()
                .expect("a client, which fails only by a reply of the wrong shape");
        }
        let mut tally = std::mem::take(&mut *self.shared.tally.lock().unwrap());
        tally.served = self.shared.served.load(Ordering::SeqCst);
        tally
    }
}

struct Client<'a> {
    nr: usize,
    habit: Habit,
    shared: &'a Shared,
    /// Requests so far.
    round: u64,
    /// What its own file has held since its last PUT was answered.
    stored: Option<Vec<u8>>,
    random: u64,
}

/// Other pauses for each client and each run: which moment of a stop they meet is left to chance.
fn seed(nr: usize) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.subsec_nanos());
    ((u64::from(nanos) << 8) | (nr as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A connection and what is known about it.
struct Line {
    conn: Conn,
    from: Instant,
    owner: Option<i32>,
    first: bool,
}

impl<'a> Client<'a> {
    fn new(nr: usize, habit: Habit, shared: &'a Shared) -> Client<'a> {
        Client {
            nr,
            habit,
            shared,
            round: 0,
            stored: None,
            random: seed(nr),
        }
    }

    fn work(mut self) {
        let mut line = None;
        while !self.shared.enough.load(Ordering::SeqCst) {
            let Some(mut at) = line.take().or_else(|| self.dial()) else {
                if self.shared.stopping.load(Ordering::SeqCst) {
                    return;
                }
                continue;
            };
            self.pause();
            if at.conn.has_ended() {
                self.shared.tally.lock().unwrap().idle_ends += 1;
                continue;
            }
            match self.exchange(&mut at) {
                Ok(true) => line = Some(at),
                Ok(false) => {}
                Err(what) => self.failed(at, what),
            }
        }
    }

    /// A pause that is this client's way of life; nothing is hoped to happen meanwhile.
    fn pause(&mut self) {
        let Habit::Dawdling(longest) = self.habit else {
            return;
        };
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = (self.random >> 40) as f64 / (1_u64 << 24) as f64;
        std::thread::sleep(longest.mul_f64(share));
    }

    fn dial(&mut self) -> Option<Line> {
        let from = Instant::now();
        match Conn::try_connect(self.shared.addr, DIAL) {
            Ok(conn) => Some(Line {
                conn,
                from,
                owner: None,
                first: true,
            }),
            Err(error) => {
                let mut tally = self.shared.tally.lock().unwrap();
                if self.shared.stopping.load(Ordering::SeqCst) {
                    tally.turned_away += 1;
                } else {
                    tally.failures.push(Failure {
                        habit: self.habit,
                        what: format!("connect: {error}"),
                        owner: None,
                        from,
                        to: Instant::now(),
                        first: true,
                    });
                }
                None
            }
        }
    }

    fn failed(&self, line: Line, what: String) {
        self.shared.tally.lock().unwrap().failures.push(Failure {
            habit: self.habit,
            what,
            owner: line.owner,
            from: line.from,
            to: Instant::now(),
            first: line.first,
        });
    }

    /// One request and its reply; whether the connection goes on.
    fn exchange(&mut self, line: &mut Line) -> Result<bool, String> {
        self.round += 1;
        let says_close = self.habit == Habit::OneShot && self.round.is_multiple_of(2);
        let own = format!("/dev1/own-{}", self.nr);
        let close = if says_close {
            "Connection: close\r\n"
        } else {
            ""
        };
        let body = pattern(200 + (self.round as usize * 37) % 9000);
        let (name, request, wanted) = match self.round % 4 {
            1 => {
                let len = body.len();
                let head = format!(
                    "PUT {own} HTTP/1.1\r\nHost: t\r\n{close}Content-Length: {len}\r\n\r\n"
                );
                // until it is answered, the file may be the old one or the new one
                self.stored = None;
                ("PUT", [head.as_bytes(), &body].concat(), None)
            }
            2 if self.stored.is_some() => {
                let head = format!("GET {own} HTTP/1.1\r\nHost: t\r\n{close}\r\n");
                ("GET own", head.into_bytes(), self.stored.as_deref())
            }
            _ => {
                let head = format!("GET {SHARED} HTTP/1.1\r\nHost: t\r\n{close}\r\n");
                (
                    "GET shared",
                    head.into_bytes(),
                    Some(&self.shared.shared_file[..]),
                )
            }
        };
        let response = self
            .ask(line, &request)
            .map_err(|what| format!("{name}: {what}"))?;
        let Some(response) = response else {
            return Ok(false);
        };
        check(&response, wanted).map_err(|what| format!("{name}: {what}"))?;
        if name == "PUT" {
            self.stored = Some(body);
        }
        self.shared.served.fetch_add(1, Ordering::SeqCst);
        self.after(line, &response, says_close)
    }

    /// Sends and receives. `None`: the server had ended the idle connection before it could see the request.
    fn ask(&self, line: &mut Line, request: &[u8]) -> Result<Option<Response>, String> {
        let asked = Instant::now();
        let sent = line.conn.try_send(request);
        // on loopback what was sent is in the server's socket by now: an end that is not here yet was sent
        // by somebody who could have seen the request
        let too_late = line.conn.has_ended();
        match line.conn.try_response() {
            Ok(response) => Ok(Some(response)),
            // whoever asks as soon as it is connected was never idle
            Err(Ended::Clean) if too_late && self.habit != Habit::OneShot => {
                self.shared.tally.lock().unwrap().idle_ends += 1;
                Ok(None)
            }
            Err(ended) => {
                let how = match ended {
                    Ended::Clean => "the end in place of a reply",
                    Ended::Broken(how) => &how.clone(),
                };
                let after = asked.elapsed();
                Err(format!("{how}, {after:?} after it was sent ({sent:?})"))
            }
        }
    }

    fn after(
        &self,
        line: &mut Line,
        response: &Response,
        says_close: bool,
    ) -> Result<bool, String> {
        if response.keeps_alive() {
            if says_close {
                return Err("keep-alive where close was asked for".to_owned());
            }
            if line.first {
                line.owner = facts::owner(self.shared.above, &line.conn);
            }
            line.first = false;
            return Ok(self.habit != Habit::OneShot);
        }
        match line.conn.drain() {
            Ok(rest) if rest.is_empty() => Ok(false),
            Ok(rest) => Err(format!("{} bytes behind the last reply", rest.len())),
            Err(error) => Err(format!("{error} behind the last reply")),
        }
    }
}

fn check(response: &Response, wanted: Option<&[u8]>) -> Result<(), String> {
    let status = if wanted.is_some() { 200 } else { 201 };
    if response.status != status {
        return Err(format!("{} instead of {status}", response.status));
    }
    match wanted {
        Some(bytes) if response.body != bytes => Err(format!(
            "another body, of {} bytes instead of {}",
            response.body.len(),
            bytes.len()
        )),
        _ => Ok(()),
    }
}
