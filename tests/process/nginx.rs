//! Debian's nginx in front, with keep-alive upstreams: how this server is meant to be met.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::{alone, facts};
use crate::harness::server::own_docroot;
use crate::harness::{Conn, PATIENCE, Server, assert_same, eventually, pattern};

pub struct Nginx {
    child: Child,
    buffered: SocketAddr,
    streamed: SocketAddr,
    dir: TempDir,
}

/// A port that was free a moment ago: nginx cannot be asked for one.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number")
}

fn config(dir: &Path, upstream: SocketAddr, buffered: SocketAddr, streamed: SocketAddr) -> String {
    let dir = dir.display();
    let server = |listen: SocketAddr, buffering: &str| {
        format!(
            "server {{ listen {listen}; location / {{
               proxy_pass http://ours; proxy_http_version 1.1; proxy_set_header Connection \"\";
               proxy_request_buffering {buffering}; proxy_next_upstream off; }} }}\n"
        )
    };
    format!(
        "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log info;
         events {{ worker_connections 512; }}
         http {{ access_log off; client_max_body_size 0; keepalive_requests 100000;
           client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
           fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
           upstream ours {{ server {upstream} max_fails=0; keepalive 16; }}
           {}{} }}",
        server(buffered, "on"),
        server(streamed, "off")
    )
}

impl Nginx {
    /// In front of `upstream`, on two ports: with and without buffering of request bodies.
    pub fn start(upstream: SocketAddr) -> Option<Nginx> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (buffered, streamed) = (free_port(), free_port());
        let conf = dir.path().join("nginx.conf");
        std::fs::write(&conf, config(dir.path(), upstream, buffered, streamed)).expect("write");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("nginx");
        command
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .arg("-p")
            .arg(dir.path())
            .arg("-e")
            .arg(dir.path().join("error.log"))
            .arg("-c")
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: one system call; a test run that is killed takes its nginx along
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: nginx: {error}");
                return None;
            }
        };
        let mut nginx = Nginx {
            child,
            buffered,
            streamed,
            dir,
        };
        eventually("nginx to listen", PATIENCE, || {
            let ended = nginx.child.try_wait().expect("waitpid");
            assert!(ended.is_none(), "nginx ended: {}", nginx.errors());
            [buffered, streamed]
                .iter()
                .all(|addr| Conn::try_connect(*addr, PATIENCE).is_ok())
        });
        Some(nginx)
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    /// What it says of our server, except that nobody listened while it was down.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.errors();
        let about_us = |line: &&str| {
            line.contains("upstream") && !line.contains("buffered to a temporary file")
        };
        let down =
            |line: &&str| line.contains("Connection refused") || line.contains("connect() failed");
        log.lines()
            .filter(|line| about_us(line) && !down(line))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A reply as nginx passes it on: it writes its own `Server`, `Date` and `Connection`.
fn ask(conn: &mut Conn, request: &str, body: &[u8]) -> (u16, Vec<u8>) {
    conn.send([request.as_bytes(), body].concat());
    let head = conn.head_of_response();
    let len = head
        .header("Content-Length")
        .map_or(0, |len| len.parse().expect("a length"));
    let body = match head.status {
        204 | 304 => Vec::new(),
        _ => conn.read_exactly(len),
    };
    (head.status, body)
}

fn get(conn: &mut Conn, target: &str, headers: &str) -> (u16, Vec<u8>) {
    ask(
        conn,
        &format!("GET {target} HTTP/1.1\r\nHost: t\r\n{headers}\r\n"),
        b"",
    )
}

fn put(conn: &mut Conn, target: &str, body: &[u8]) -> u16 {
    let len = body.len();
    let head = format!("PUT {target} HTTP/1.1\r\nHost: t\r\nContent-Length: {len}\r\n\r\n");
    ask(conn, &head, body).0
}

fn everything_works(addr: SocketAddr, folder: &str) {
    let mut conn = Conn::connect(addr);
    let (small, large) = (pattern(3000), pattern(20 << 20));
    assert_eq!(put(&mut conn, &format!("{folder}/small"), &small), 201);
    assert_eq!(
        put(&mut conn, &format!("{folder}/small"), &small),
        201,
        "again"
    );
    assert_eq!(put(&mut conn, &format!("{folder}/empty"), b""), 201);
    assert_eq!(put(&mut conn, &format!("{folder}/large"), &large), 201);
    let (status, body) = get(&mut conn, &format!("{folder}/small"), "");
    assert_eq!((status, body), (200, small));
    assert_eq!(get(&mut conn, &format!("{folder}/empty"), "").1, b"");
    let (status, body) = get(&mut conn, &format!("{folder}/large"), "");
    assert_eq!(status, 200);
    assert_same(&body, &large, "the large file");
    let (status, body) = get(
        &mut conn,
        &format!("{folder}/large"),
        "Range: bytes=1000000-1000099\r\n",
    );
    assert_eq!((status, &body[..]), (206, &large[1_000_000..1_000_100]));
    assert_eq!(
        get(
            &mut conn,
            &format!("{folder}/large"),
            "Range: bytes=99999999-\r\n"
        )
        .0,
        416
    );
    assert_eq!(get(&mut conn, &format!("{folder}/missing"), "").0, 404);
    assert_eq!(get(&mut conn, folder, "").0, 403);
    let head =
        format!("PUT {folder}/chunked HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunked = [b"bb8\r\n", &pattern(3000)[..], b"\r\n0\r\n\r\n"].concat();
    assert_eq!(ask(&mut conn, &head, &chunked).0, 201);
    assert_eq!(
        get(&mut conn, &format!("{folder}/chunked"), "").1,
        pattern(3000)
    );
    let delete = format!("DELETE {folder}/small HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(ask(&mut conn, &delete, b"").0, 204);
    assert_eq!(get(&mut conn, &format!("{folder}/small"), "").0, 404);
}

/// Clients of nginx, until told to stop: every status but 200 and 201, counted.
pub fn clients(nginx: &Nginx, enough: &AtomicBool, nr: usize) -> (u64, Vec<u16>) {
    let addr = if nr.is_multiple_of(2) {
        nginx.buffered
    } else {
        nginx.streamed
    };
    let mut conn = Conn::connect(addr);
    let (mut good, mut bad) = (0, Vec::new());
    let body = pattern(6000);
    while !enough.load(Ordering::SeqCst) {
        let target = format!("/dev1/client-{nr}");
        let (status, wanted) = match good % 3 {
            0 => (put(&mut conn, &target, &body), 201),
            _ => {
                let (status, got) = get(&mut conn, &target, "");
                assert!(status != 200 || got == body);
                (status, 200)
            }
        };
        match status == wanted {
            true => good += 1,
            false => bad.push(status),
        }
    }
    (good, bad)
}

#[test]
fn nginx_in_front_with_keep_alive_upstreams() {
    let _alone = alone();
    let server = Server::builder().workers(2).start();
    let Some(nginx) = Nginx::start(server.addr()) else {
        return;
    };
    everything_works(nginx.buffered, "/dev1/buffered");
    everything_works(nginx.streamed, "/dev1/streamed");
    // the upstream connections were kept
    let held: usize = server
        .worker_pids()
        .iter()
        .map(|pid| facts::sockets(*pid))
        .sum();
    assert!(held > 2 * 2, "no upstream connection is kept alive");
    assert_eq!(nginx.complaints(), [""; 0]);
    server.stop();
}

/// QUIT and a new start on the same port, twice, while clients of nginx work.
#[test]
fn a_restart_behind_nginx_fails_no_request_but_those_that_find_nobody() {
    let _alone = alone();
    let docroot = own_docroot();
    let mut server = Server::builder().workers(2).docroot(docroot.path()).start();
    let addr = server.addr();
    let Some(nginx) = Nginx::start(server.addr()) else {
        return;
    };
    let enough = AtomicBool::new(false);
    let server = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|nr| {
                let (nginx, enough) = (&nginx, &enough);
                scope.spawn(move || clients(nginx, enough, nr))
            })
            .collect();
        for _ in 0..2 {
            work_flows(&server);
            server.stop();
            server = Server::builder()
                .workers(2)
                .docroot(docroot.path())
                .without_default_listener()
                .http(&addr.to_string())
                .start();
        }
        work_flows(&server);
        enough.store(true, Ordering::SeqCst);
        let mut total = (0, 0);
        for client in all {
            let (good, bad) = client.join().expect("a client of nginx");
            assert!(bad.iter().all(|status| *status == 502), "{bad:?}");
            total = (total.0 + good, total.1 + bad.len());
        }
        eprintln!(
            "two restarts behind nginx: {} requests served, {} found nobody",
            total.0, total.1
        );
        server
    });
    assert_eq!(nginx.complaints(), [""; 0]);
    server.stop();
}

/// The clients are being served: the workers use CPU time.
fn work_flows(server: &Server) {
    let before: Duration = server
        .worker_pids()
        .iter()
        .map(|pid| facts::cpu(*pid))
        .sum();
    eventually("work", PATIENCE, || {
        let now: Duration = server
            .worker_pids()
            .iter()
            .map(|pid| facts::cpu(*pid))
            .sum();
        now - before > Duration::from_millis(150)
    });
}
