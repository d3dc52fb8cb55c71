//! The tracker's digests: one kept connection per host, one question at a time, and its parser.

use std::net::SocketAddr;

use super::agent::Agent;
use super::{Host, fid_path};
use crate::harness::conn::Ended;
use crate::harness::{Conn, PATIENCE, eventually, hex_md5};

/// What the tracker makes of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Digest {
    Is(String),
    /// `ALG=-1`: it asks once more by HTTP GET.
    Missing,
    /// `ERROR ` with a blank: this host has no such command; it digests what HTTP GET gives.
    Unsupported,
    /// Logged, then by HTTP too.
    Strange(String),
}

/// `^PATH ALG=([a-f0-9]{32,128})\r\n`, and so on.
pub fn parse(line: &str, path: &str, algorithm: &str) -> Digest {
    if line.starts_with("ERROR ") {
        return Digest::Unsupported;
    }
    let strange = || Digest::Strange(line.to_owned());
    let Some(value) = line
        .strip_prefix(path)
        .and_then(|rest| rest.strip_prefix(' '))
        .and_then(|rest| rest.strip_prefix(algorithm))
        .and_then(|rest| rest.strip_prefix('='))
        .and_then(|rest| rest.strip_suffix("\r\n"))
    else {
        return strange();
    };
    let is_hex = |digit: u8| matches!(digit, b'a'..=b'f' | b'0'..=b'9');
    match value {
        "-1" => Digest::Missing,
        hex if (32..=128).contains(&hex.len()) && hex.bytes().all(is_hex) => {
            Digest::Is(hex.to_owned())
        }
        _ => strange(),
    }
}

/// A tracker process's connection to one host.
pub struct Side {
    host: SocketAddr,
    kept: Option<Conn>,
    pub connects: usize,
}

impl Side {
    pub fn new(host: &Host) -> Side {
        Side {
            host: host.server.mgmt_addr(),
            kept: None,
            connects: 0,
        }
    }

    /// `reason`: `fsck`, or nothing.
    #[track_caller]
    pub fn digest(&mut self, algorithm: &str, path: &str, reason: &str) -> Digest {
        let blank = if reason.is_empty() { "" } else { " " };
        let question = format!("{algorithm} {path}{blank}{reason}\r\n");
        let line = self.ask(&question);
        parse(&line, path, algorithm)
    }

    #[track_caller]
    fn ask(&mut self, question: &str) -> String {
        if let Some(mut conn) = self.kept.take()
            && let Ok(line) = attempt(&mut conn, question)
        {
            self.kept = Some(conn);
            return line;
        }
        let mut conn = Conn::connect(self.host);
        self.connects += 1;
        let line = attempt(&mut conn, question)
            .unwrap_or_else(|ended| panic!("{ended:?} on a new connection, asked {question}"));
        self.kept = Some(conn);
        line
    }
}

fn attempt(conn: &mut Conn, question: &str) -> Result<String, Ended> {
    conn.try_send(question)
        .map_err(|error| Ended::Broken(error.to_string()))?;
    conn.try_line()
}

#[test]
fn the_tracker_s_parser_knows_five_kinds_of_answers() {
    let hex = "0123456789abcdef0123456789abcdef";
    let is = Digest::Is(hex.to_owned());
    assert_eq!(parse(&format!("/d/f MD5={hex}\r\n"), "/d/f", "MD5"), is);
    assert_eq!(parse("/d/f MD5=-1\r\n", "/d/f", "MD5"), Digest::Missing);
    assert_eq!(
        parse("ERROR unknown\r\n", "/d/f", "MD5"),
        Digest::Unsupported
    );
    for strange in [
        format!("/d/f MD5={hex}\n"),
        format!("/d/other MD5={hex}\r\n"),
        format!("/d/f SHA-1={hex}\r\n"),
        format!("/d/f MD5={}\r\n", hex.to_uppercase()),
        "ERROR: uri invalid (contains ..)\r\n".to_owned(),
        "ERR read /d/f at 0 failed\r\n".to_owned(),
    ] {
        let got = parse(&strange, "/d/f", "MD5");
        assert_eq!(got, Digest::Strange(strange));
    }
}

#[test]
fn digests_come_as_the_tracker_parses_them() {
    let host = Host::start([1, 2], |builder| builder);
    let path = fid_path(1, 42);
    host.server.write(&path, "forty-two");
    let mut side = Side::new(&host);
    let right = Digest::Is(hex_md5(b"forty-two"));
    for reason in ["", "fsck", "create_close", "replicate"] {
        assert_eq!(side.digest("MD5", &path, reason), right, "{reason}");
    }
    let sha = Digest::Is("1866a538f0ed9254606e5dec32adacb921f3724b".to_owned());
    assert_eq!(side.digest("SHA-1", &path, "fsck"), sha);
    let missing = fid_path(2, 42);
    for algorithm in ["MD5", "SHA-1"] {
        for reason in ["", "fsck"] {
            assert_eq!(side.digest(algorithm, &missing, reason), Digest::Missing);
        }
    }
    // the tracker asks once more by HTTP
    let mut agent = Agent::default();
    agent
        .ask(host.server.addr(), "GET", &missing, &[], b"")
        .expect(404, true);
    let outside = side.digest("MD5", "/dev1/../secret", "");
    let wanted = "ERROR: uri invalid (contains ..)\r\n";
    assert_eq!(outside, Digest::Strange(wanted.to_owned()));
    assert_eq!(side.connects, 1);
    host.server.stop();
}

/// A tracker's process may have nothing to ask for days.
#[test]
fn the_sidechannel_s_connection_is_kept_where_http_s_is_not() {
    let host = Host::start([1, 2], |builder| builder.timeout("idle", 0.3));
    let path = fid_path(1, 7);
    host.server.write(&path, "seven");
    let right = Digest::Is(hex_md5(b"seven"));
    let (mut side, mut agent) = (Side::new(&host), Agent::default());
    assert_eq!(side.digest("MD5", &path, ""), right);
    let addr = host.server.addr();
    for round in 1..=3 {
        agent.ask(addr, "HEAD", &path, &[], b"").expect(200, true);
        eventually("the idle connection to be closed", PATIENCE, || {
            agent.kept(addr).iter().all(Conn::has_ended)
        });
        agent.ask(addr, "HEAD", &path, &[], b"").expect(200, true);
        assert_eq!(agent.retries, 2 * round - 1);
        eventually("and the next one", PATIENCE, || {
            agent.kept(addr).iter().all(Conn::has_ended)
        });
    }
    assert_eq!(side.digest("MD5", &path, "fsck"), right);
    assert_eq!(side.connects, 1);
    host.server.stop();
}

/// The worker at the other end dies: both kinds of connections are made anew.
#[test]
fn a_worker_s_death_costs_a_tracker_one_retry() {
    let host = Host::start([1, 2], |builder| builder.workers(1));
    let path = fid_path(1, 8);
    host.server.write(&path, "eight");
    let right = Digest::Is(hex_md5(b"eight"));
    let (mut side, mut agent) = (Side::new(&host), Agent::default());
    let addr = host.server.addr();
    agent.ask(addr, "HEAD", &path, &[], b"").expect(200, true);
    assert_eq!(side.digest("MD5", &path, "fsck"), right);
    let worker = host.server.worker_pids()[0];
    let skip = host.server.log().len();
    // SAFETY: no pointers; the pid is a worker of this test's server
    assert_eq!(unsafe { libc::kill(worker, libc::SIGKILL) }, 0);
    host.server
        .wait_log_after(skip, "worker 0 is ready", PATIENCE);
    agent.ask(addr, "HEAD", &path, &[], b"").expect(200, true);
    assert_eq!(side.digest("MD5", &path, "fsck"), right);
    assert_eq!((agent.retries, side.connects), (1, 2));
    host.server.stop();
}
