//! What a request costs, in system calls: a figure that no noise touches. A tracer counts them while a client makes
//! 1000 requests of a kind; the table is here and, for people, in queues.txt 4.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{alone, facts};
use crate::harness::server::own_docroot;
use crate::harness::{Conn, PATIENCE, Server, eventually, pattern};
use crate::http::fresh::wait_until_old;

/// A kind of request, and how often each call is made for one, by consumers and acceptors.
type Row = (&'static str, &'static [(&'static str, f64)]);

/// Every line of it stands in queues.txt as well.
const CALLS: [Row; 13] = [
    (
        "GET 1 KiB",
        &[
            ("epoll_wait", 1.0),
            ("recvfrom", 1.0),
            ("newfstatat", 1.0),
            ("sendto", 1.0),
            ("epoll_ctl", 1.0),
        ],
    ),
    (
        "GET, first time",
        &[
            ("epoll_wait", 1.0),
            ("recvfrom", 1.0),
            ("openat2", 1.0),
            ("fstat", 1.0),
            ("preadv2", 1.0),
            ("close", 1.0),
            ("sendto", 1.0),
            ("epoll_ctl", 1.0),
        ],
    ),
    (
        "HEAD",
        &[
            ("epoll_wait", 1.0),
            ("recvfrom", 1.0),
            ("openat2", 1.0),
            ("fstat", 1.0),
            ("close", 1.0),
            ("sendto", 1.0),
            ("epoll_ctl", 1.0),
        ],
    ),
    (
        "GET, 304",
        &[
            ("epoll_wait", 1.0),
            ("recvfrom", 1.0),
            ("openat2", 1.0),
            ("fstat", 1.0),
            ("close", 1.0),
            ("sendto", 1.0),
            ("epoll_ctl", 1.0),
        ],
    ),
    (
        "GET, 404",
        &[
            ("epoll_wait", 1.0),
            ("recvfrom", 1.0),
            ("openat2", 1.0),
            ("sendto", 1.0),
            ("epoll_ctl", 1.0),
        ],
    ),
    (
        "GET 48 KiB",
        &[
            ("epoll_wait", 1.0),
            ("recvfrom", 1.0),
            ("newfstatat", 1.0),
            ("sendmsg", 1.0),
            ("epoll_ctl", 1.0),
        ],
    ),
    (
        "GET 100 KiB",
        &[
            ("epoll_wait", 1.0),
            ("recvfrom", 1.0),
            ("openat2", 1.0),
            ("fstat", 1.0),
            ("preadv2", 0.125),
            ("sendto", 1.0),
            ("sendfile", 1.0),
            ("close", 1.0),
            ("epoll_ctl", 1.0),
        ],
    ),
    (
        "16 GETs at once",
        &[
            ("epoll_wait", 1.0),
            ("recvfrom", 1.0),
            ("newfstatat", 16.0),
            ("sendto", 1.0),
            ("epoll_ctl", 1.0),
        ],
    ),
    (
        "GET, client closes",
        &[
            ("accept4", 1.0),
            ("recvfrom", 2.0),
            ("openat2", 1.0),
            ("statx", 1.0),
            ("close", 2.0),
            ("sendto", 1.0),
            ("epoll_ctl", 1.0),
            ("epoll_wait", 1.0),
        ],
    ),
    (
        "GET, server closes",
        &[
            ("accept4", 1.0),
            ("recvfrom", 1.0),
            ("openat2", 1.0),
            ("statx", 1.0),
            ("close", 2.0),
            ("sendto", 1.0),
        ],
    ),
    (
        "PUT 4 KiB",
        &[
            ("epoll_wait", 1.0),
            ("recvfrom", 1.0),
            ("openat2", 1.0),
            ("openat", 1.0),
            ("pwrite64", 1.0),
            ("linkat", 1.0),
            ("close", 2.0),
            ("sendto", 1.0),
            ("epoll_ctl", 1.0),
        ],
    ),
    (
        "PUT 4 KiB again",
        &[
            ("epoll_wait", 1.0),
            ("recvfrom", 1.0),
            ("openat2", 1.0),
            ("openat", 1.0),
            ("pwrite64", 1.0),
            ("linkat", 0.06),
            ("renameat", 1.0),
            ("close", 2.0),
            ("sendto", 1.0),
            ("epoll_ctl", 1.0),
        ],
    ),
    (
        "DELETE",
        &[
            ("epoll_wait", 1.0),
            ("recvfrom", 1.0),
            ("openat2", 1.0),
            ("unlinkat", 1.0),
            ("close", 1.0),
            ("sendto", 1.0),
            ("epoll_ctl", 1.0),
        ],
    ),
];

/// Requests of a kind, and pipelines.
const TIMES: usize = 1000;
const PIPELINES: usize = 150;

/// What there may be more or less of a call: a wait that ends early, a page of memory, a lock that was held. A part of
/// the requests, or of the calls if they are more; and at least so many.
const SLACK: f64 = 0.02;
const SLACK_MIN: f64 = 5.0;

/// What the tracer itself brings about, and how much of it a request may have: it makes turns long enough to yield,
/// and holds a consumer in epoll_ctl, under the slot's lock, while the next one wants the client.
const UNCOUNTED: [(&str, f64); 2] = [("sched_yield", 2.0), ("futex", 3.0)];

/// Then the question that is asked each eighth time is asked each time, too.
const NOW_AND_THEN: &str = "preadv2";

/// strace(1), attached to all threads of a worker.
struct Trace {
    strace: Child,
    worker: i32,
    folder: TempDir,
    /// The kinds that were begun.
    kinds: Vec<&'static str>,
    /// Of `con:*` and `acc:*`, as strace names them.
    threads: Vec<String>,
}

impl Trace {
    /// `None`: there is no strace here, or it may not trace.
    fn attach(worker: i32) -> Option<Trace> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let report = folder.path().join("report");
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-s", "48", "-p", &worker.to_string(), "-o"])
            .arg(&report)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut strace = match strace {
            Ok(strace) => strace,
            Err(error) => {
                eprintln!("skipped: strace: {error}");
                return None;
            }
        };
        let mut refused = false;
        eventually("strace to be attached", PATIENCE, || {
            refused = strace.try_wait().expect("waitpid").is_some();
            refused || facts::is_traced(worker)
        });
        if refused {
            eprintln!("skipped: strace may not trace");
            return None;
        }
        Some(Trace {
            strace,
            worker,
            folder,
            kinds: Vec::new(),
            threads: Vec::new(),
        })
    }

    /// What follows belongs to this kind: a request says so, in words that the report will have.
    fn begin(&mut self, kind: &'static str, conn: &mut Conn) {
        self.kinds.push(kind);
        conn.get(&format!("/mark/{}/", self.kinds.len()))
            .expect(404, true);
    }

    fn note_threads(&mut self) {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.worker)).expect("its threads");
        let serves = |task: fs::DirEntry| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let counts = name.starts_with("con:") || name.starts_with("acc:");
            counts.then(|| task.file_name().into_string().expect("a number"))
        };
        self.threads = tasks.flatten().filter_map(serves).collect();
    }

    /// How often each call was made while each kind was asked for.
    fn finish(mut self) -> BTreeMap<&'static str, BTreeMap<String, u32>> {
        self.note_threads();
        // SAFETY: no pointers; the pid is our child's, not yet reaped
        unsafe { libc::kill(self.strace.id() as i32, libc::SIGINT) };
        self.strace.wait().expect("waitpid");
        let report = fs::read(self.folder.path().join("report")).expect("the report");
        let report = String::from_utf8_lossy(&report);
        let mut counts: BTreeMap<_, BTreeMap<String, u32>> = BTreeMap::new();
        let mut begun = 0_usize;
        for line in report.lines() {
            while line.contains(&format!("/mark/{}/", begun + 1)) {
                begun += 1;
            }
            let Some((thread, text)) = line.split_once(' ') else {
                continue;
            };
            if let Some(kind) = self.kinds.get(begun.wrapping_sub(1))
                && self.threads.iter().any(|known| known == thread)
                && let Some(call) = call_of(text)
            {
                *counts.entry(*kind).or_default().entry(call).or_default() += 1;
            }
        }
        counts
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // it lets its worker go when it is killed, too
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// The call that begins in this line, by one name on all machines.
///
/// A wait counts when it ends, and if somebody came: turns that the tracer makes long seem to have waited for their
/// disk, and more consumers than usual wait for clients then, for 10 ms at a time.
fn call_of(line: &str) -> Option<String> {
    let line = line.trim_start();
    // epoll_pwait on newer machines
    let waits = ["epoll_wait", "epoll_pwait"];
    let call = line.strip_prefix("<... ").unwrap_or(line);
    if waits.iter().any(|wait| call.starts_with(wait)) {
        return line.ends_with(" = 1").then(|| waits[0].to_owned());
    }
    let (name, rest) = line.split_once('(')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    Some(match name {
        // of a descriptor, not of a path
        "newfstatat" if rest.contains(", \"\",") => "fstat".to_owned(),
        // std asks whether a descriptor is open before it closes it, in a debug build
        "fcntl" if rest.contains("F_GETFD") => return None,
        _ => name.to_owned(),
    })
}

/// What is asked for: files that are old enough to be kept, and 1000 that are made and removed.
struct Client<'a> {
    server: &'a Server,
    conn: Conn,
    trace: Trace,
}

impl Client<'_> {
    /// One reply a request, on one connection.
    #[track_caller]
    fn ask(&mut self, kind: &'static str, status: u16, request: impl Fn(usize) -> Vec<u8>) {
        let is_head = request(0).starts_with(b"HEAD");
        self.trace.begin(kind, &mut self.conn);
        for nr in 0..TIMES {
            self.conn.send(request(nr));
            let reply = match is_head {
                true => self.conn.response_to_head(),
                false => self.conn.response(),
            };
            assert_eq!(reply.status, status, "{kind}");
        }
    }

    /// A connection for each.
    #[track_caller]
    fn connect(&mut self, kind: &'static str, line: &str) {
        self.trace.begin(kind, &mut self.conn);
        for _ in 0..TIMES {
            let mut conn = self.server.conn();
            conn.send(request("GET", "/dev1/file", line));
            let reply = conn.response();
            assert_eq!(reply.status, 200, "{kind}");
            if !reply.keeps_alive() {
                conn.expect_eof();
            }
        }
    }

    #[track_caller]
    fn pipeline(&mut self, kind: &'static str) {
        let batch = request("GET", "/dev1/file", "").repeat(16);
        self.trace.begin(kind, &mut self.conn);
        for _ in 0..PIPELINES {
            self.conn.send(&batch);
            for _ in 0..16 {
                assert_eq!(self.conn.response().status, 200, "{kind}");
            }
        }
    }
}

fn request(verb: &str, target: &str, line: &str) -> Vec<u8> {
    format!("{verb} {target} HTTP/1.1\r\nHost: t\r\n{line}\r\n").into_bytes()
}

fn upload(target: &str) -> Vec<u8> {
    let head = request("PUT", target, "Content-Length: 4096\r\n");
    [head, pattern(4096)].concat()
}

#[test]
fn each_kind_of_request_makes_the_calls_of_the_table() {
    let _alone = alone();
    let root = own_docroot();
    let device = root.path().join("dev1");
    fs::create_dir(device.join("many")).unwrap();
    for nr in 0..TIMES {
        fs::write(device.join(format!("many/{nr}")), pattern(1024)).unwrap();
    }
    fs::write(device.join("long"), pattern(100 * 1024)).unwrap();
    fs::write(device.join("medium"), pattern(48 * 1024)).unwrap();
    fs::write(device.join("file"), pattern(1024)).unwrap();
    // who is accepted has sent its request: otherwise the kernel decides which comes first
    let server = Server::builder()
        .docroot(root.path())
        .arg("--defer-accept=1")
        .start();
    let Some(trace) = Trace::attach(server.worker_pids()[0]) else {
        return;
    };
    let mut client = Client {
        conn: server.conn(),
        server: &server,
        trace,
    };
    let new = |nr: usize| format!("/dev1/new.{nr}");
    client.ask("PUT 4 KiB", 201, |nr| upload(&new(nr)));
    client.ask("PUT 4 KiB again", 201, |nr| upload(&new(nr)));
    client.ask("DELETE", 204, |nr| request("DELETE", &new(nr), ""));
    client.ask("GET, 404", 404, |_| request("GET", "/dev1/none", ""));

    wait_until_old(&device.join("file"));
    let many = |nr: usize| request("GET", &format!("/dev1/many/{nr}"), "");
    // read once they are not kept yet
    client.ask("GET, first time", 200, many);
    let file = |_| request("GET", "/dev1/file", "");
    client.trace.begin("warming up", &mut client.conn);
    for _ in 0..20 {
        client.conn.get("/dev1/file").expect(200, true);
        client.conn.get("/dev1/medium").expect(200, true);
    }
    client.ask("GET 1 KiB", 200, file);
    client.ask("HEAD", 200, |_| request("HEAD", "/dev1/file", ""));
    let tag = client.conn.get("/dev1/file").etag();
    let unless = format!("If-None-Match: {tag}\r\n");
    client.ask("GET, 304", 304, |_| request("GET", "/dev1/file", &unless));
    client.ask("GET 48 KiB", 200, |_| request("GET", "/dev1/medium", ""));
    client.ask("GET 100 KiB", 200, |_| request("GET", "/dev1/long", ""));
    client.pipeline("16 GETs at once");
    client.connect("GET, client closes", "");
    client.connect("GET, server closes", "Connection: close\r\n");
    client.trace.begin("the end", &mut client.conn);
    let counted = client.trace.finish();
    drop(client.conn);
    compare(&counted);
    server.stop();
}

/// All differences at once: who changed something wants the new table.
#[track_caller]
fn compare(counted: &BTreeMap<&str, BTreeMap<String, u32>>) {
    let mut wrong = Vec::new();
    for (kind, calls) in CALLS {
        let counts = counted.get(kind).unwrap_or_else(|| panic!("no {kind}"));
        let asked = match kind {
            "16 GETs at once" => PIPELINES as f64,
            _ => TIMES as f64,
        };
        let names = counts.keys().map(String::as_str);
        let names = names.chain(calls.iter().map(|(name, _)| *name));
        for name in names.collect::<std::collections::BTreeSet<_>>() {
            let got = f64::from(counts.get(name).copied().unwrap_or_default());
            let wanted = calls.iter().find(|(call, _)| *call == name);
            let wanted = wanted.map_or(0.0, |(_, times)| times * asked);
            let slack = SLACK_MIN.max(SLACK * wanted.max(asked));
            let uncounted = UNCOUNTED.iter().find(|(call, _)| *call == name);
            let uncounted = uncounted.map_or(0.0, |(_, times)| times * asked);
            let now_and_then = name == NOW_AND_THEN && 0.0 < wanted && wanted < asked;
            let uncounted = if now_and_then {
                asked - wanted
            } else {
                uncounted
            };
            if got < wanted - slack || got > wanted + slack + uncounted {
                wrong.push(format!("{kind}: {got} {name}, not {wanted}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "of {TIMES} requests, or {PIPELINES} pipelines:\n{}",
        wrong.join("\n")
    );
}

/// The table of queues.txt: a kind, two blanks or more, its calls, those made `*n` times with their number; more of
/// them in the next lines, further in.
fn published() -> Vec<(String, Vec<(String, f64)>)> {
    let text = include_str!("../../queues.txt");
    let (_, text) = text.split_once("in system calls:\n\n").expect("the table");
    let (table, _) = text.split_once("\n\n").expect("its end");
    let mut rows: Vec<(String, Vec<_>)> = Vec::new();
    for line in table.lines() {
        let line = line.strip_prefix("    ").expect("a line of the table");
        let calls = match line.split_once("  ") {
            Some(("", more)) => more,
            Some((kind, calls)) => {
                rows.push((kind.to_owned(), Vec::new()));
                calls
            }
            None => panic!("{line}"),
        };
        let call = |word: &str| match word.split_once('*') {
            Some((name, times)) => (name.to_owned(), times.parse().expect("a number")),
            None => (word.to_owned(), 1.0),
        };
        let row = rows.last_mut().expect("a kind");
        row.1.extend(calls.split_whitespace().map(call));
    }
    rows
}

#[test]
fn the_design_has_the_same_table() {
    let ours = CALLS.map(|(kind, calls)| {
        let own = |(name, times): &(&str, f64)| ((*name).to_owned(), *times);
        (kind.to_owned(), calls.iter().map(own).collect::<Vec<_>>())
    });
    for (ours, theirs) in ours.iter().zip(published()) {
        assert_eq!(*ours, theirs, "this table, and that of queues.txt");
    }
    assert_eq!(ours.len(), published().len(), "kinds in both tables");
}
