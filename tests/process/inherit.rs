//! Listeners that the server is started with: by systemd, by cmogstored, by another one of ours. Who connects to a
//! socket before anybody serves it waits in its queue, and is served by who inherits it.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{complaints, facts};
use crate::harness::server::{Builder, Listener};
use crate::harness::{Conn, PATIENCE, Server, eventually};

fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("its address");
    (listener, addr)
}

fn builder() -> Builder {
    Server::builder().without_default_listener()
}

/// What systemd does and a parent cannot: LISTEN_PID is the number of the process that becomes the server.
struct Systemd {
    _folder: TempDir,
    script: PathBuf,
}

impl Systemd {
    fn new(pid: &str) -> Systemd {
        let folder = tempfile::tempdir().expect("a folder");
        let script = folder.path().join("start");
        let exe = env!("CARGO_BIN_EXE_rmogstored");
        let text = format!("#!/bin/sh\nexport LISTEN_PID={pid}\nexec '{exe}' \"$@\"\n");
        std::fs::write(&script, text).expect("write");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let _folder = folder;
        Systemd { _folder, script }
    }

    /// Listeners under the numbers that systemd gives.
    fn builder(&self, sockets: &[&dyn AsRawFd]) -> Builder {
        let builder = builder()
            .called(&self.script)
            .env("LISTEN_FDS", &sockets.len().to_string());
        (3..)
            .zip(sockets)
            .fold(builder, |builder, (number, socket)| {
                builder.inherit(&socket.as_raw_fd(), number)
            })
    }
}

fn environment(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).expect("environ");
    String::from_utf8_lossy(&bytes).replace('\0', "\n")
}

/// The descriptors of a process that are this socket.
fn holds(pid: i32, socket: &impl AsRawFd) -> usize {
    let ours = format!("/proc/self/fd/{}", socket.as_raw_fd());
    let place = std::fs::read_link(ours).expect("a descriptor");
    let place = place.to_string_lossy().into_owned();
    let all = facts::descriptors(pid);
    all.iter().filter(|(_, other)| *other == place).count()
}

fn is_nonblocking(socket: &impl AsRawFd) -> bool {
    // SAFETY: no pointers
    let flags = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_GETFL) };
    flags & libc::O_NONBLOCK != 0
}

#[test]
fn systemd_gives_several_sockets() {
    let (http, http_addr) = bound();
    let (mgmt, mgmt_addr) = bound();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("get.sock");
    let unix = UnixListener::bind(&path).unwrap();
    // systemd's sockets do not block where the unit says NonBlocking=true
    http.set_nonblocking(true).unwrap();
    let mut early = Conn::connect(http_addr);
    early.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
    let systemd = Systemd::new("$$");
    let server = systemd
        .builder(&[&mgmt, &unix, &http])
        .env("LISTEN_FDNAMES", "a:b:http")
        .http(&http_addr.to_string())
        .http_get(&format!("unix:{}", path.display()))
        .mgmt(&mgmt_addr.to_string())
        .workers(2)
        .start();
    let expected = [
        Listener::Http(http_addr),
        Listener::HttpGetUnix(path.clone()),
        Listener::Mgmt(mgmt_addr),
    ];
    assert_eq!(server.listeners(), expected);
    early.response().expect(404, true);
    server.write("dev1/file", "hello");
    assert_eq!(
        Conn::unix(&path).get("/dev1/file").expect(200, true).body,
        b"hello"
    );
    server.conn().put("/dev1/x", b"x").expect(201, true);
    assert!(
        !is_nonblocking(&http),
        "it is ours alone (--listen-exclusive)"
    );
    for pid in server.worker_pids() {
        for socket in [&http.as_raw_fd(), &mgmt.as_raw_fd(), &unix.as_raw_fd()] {
            assert_eq!(holds(pid, socket), 1);
        }
    }
    early.finish_sending();
    let log = server.stop();
    assert_eq!(complaints(&log), [""; 0]);
    // systemd goes on with them: nothing has happened to the sockets, whoever comes now waits for the next server
    assert!(path.exists());
    let mut waiting = Conn::connect(http_addr);
    waiting.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
    let _unix = UnixStream::connect(&path).expect("the path is still there");
    let next = systemd
        .builder(&[&http])
        .http(&http_addr.to_string())
        .start();
    waiting.response().expect(404, true);
    next.stop();
}

/// The queue of a lent socket is not emptied by a stop, nor lost: the next server serves it.
#[test]
fn a_server_of_systemd_is_replaced_under_clients() {
    let (http, addr) = bound();
    let systemd = Systemd::new("$$");
    let start = || {
        systemd
            .builder(&[&http])
            .http(&addr.to_string())
            .arg("--drain-grace=0.05")
    };
    let mut server = start().start();
    for round in 0..5 {
        let client = std::thread::spawn(move || {
            for _ in 0..30 {
                assert_eq!(Conn::connect(addr).get("/dev1/missing").status, 404);
            }
        });
        server.conn().get("/dev1/missing").expect(404, true);
        assert_eq!(complaints(&server.stop()), [""; 0], "round {round}");
        server = start().start();
        client.join().expect("every client is served");
    }
    server.stop();
}

#[test]
fn what_was_meant_for_another_process_is_left_alone() {
    let (socket, addr) = bound();
    for pid in ["1", "x"] {
        let systemd = Systemd::new(pid);
        let taken = systemd.builder(&[&socket]).http(&addr.to_string());
        let (status, said) = taken.run_to_exit();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(&addr.to_string()), "{said}");
        let server = systemd.builder(&[&socket]).http("127.0.0.1:0").start();
        assert_ne!(server.addr(), addr);
        assert!(!server.log().join("\n").contains("LISTEN_FDS"));
        server.stop();
    }
}

#[test]
fn port_0_takes_the_socket_that_systemd_calls_so() {
    let (http, http_addr) = bound();
    let (mgmt, mgmt_addr) = bound();
    let (other, other_addr) = bound();
    let server = Systemd::new("$$")
        .builder(&[&other, &mgmt, &http])
        .env("LISTEN_FDNAMES", "unknown:mgmt:http")
        .http("127.0.0.1:0")
        .mgmt("127.0.0.1:0")
        .start();
    let expected = [Listener::Http(http_addr), Listener::Mgmt(mgmt_addr)];
    assert_eq!(server.listeners(), expected);
    server.wait_log(&format!("({other_addr}) is closed"), PATIENCE);
    server.stop();
}

/// `ListenStream=7500` means both IPs, `httplisten = 7500` IPv4: it is the same socket.
#[test]
fn one_socket_for_both_ips_is_taken_for_ipv4() {
    let Ok(both) = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None) else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    both.set_only_v6(false).unwrap();
    let any: SocketAddr = "[::]:0".parse().unwrap();
    if both.bind(&any.into()).is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    both.listen(10).unwrap();
    let port = both.local_addr().unwrap().as_socket().unwrap().port();
    let server = Systemd::new("$$")
        .builder(&[&both])
        .http(&port.to_string())
        .start();
    for host in ["127.0.0.1", "[::1]"] {
        let addr: SocketAddr = format!("{host}:{port}").parse().unwrap();
        Conn::connect(addr).get("/dev1/missing").expect(404, true);
    }
    server.stop();
}

/// Its queue would swallow clients for ever.
#[test]
fn a_socket_that_nobody_claims_is_closed() {
    let (claimed, addr) = bound();
    let (unclaimed, nowhere) = bound();
    let server = Systemd::new("$$")
        .builder(&[&unclaimed, &claimed])
        .http(&addr.to_string())
        .start();
    server.wait_log(
        &format!("({nowhere}) is closed: no listener of the configuration is there"),
        PATIENCE,
    );
    assert_eq!(holds(server.pid(), &unclaimed), 0);
    assert_eq!(holds(server.worker_pids()[0], &unclaimed), 0);
    drop(unclaimed);
    // a child that another test has just forked has it until it executes its program
    eventually("nobody to have it", PATIENCE, || {
        let kind = TcpStream::connect(nowhere).map_err(|e| e.kind());
        matches!(kind, Err(ErrorKind::ConnectionRefused))
    });
    server.conn().get("/dev1/missing").expect(404, true);
    server.stop();
}

#[test]
fn what_is_no_listening_stream_socket_is_refused() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (listener, addr) = bound();
    let client = TcpStream::connect(addr).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let cases: [(&dyn AsRawFd, &str); 3] = [
        (&udp, "descriptor 4 is a datagram socket"),
        (&client, "descriptor 4 is a socket that does not listen"),
        (
            &file,
            "getsockname(fd=4) failed: Socket operation on non-socket",
        ),
    ];
    for (socket, words) in cases {
        let (status, said) = Systemd::new("$$")
            .builder(&[&listener, socket])
            .http(&addr.to_string())
            .run_to_exit();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(
            said.contains("LISTEN_FDS") && said.contains(words),
            "{said}"
        );
    }
}

#[test]
fn nobody_finds_the_variables_behind_us() {
    let (http, addr) = bound();
    let command = tempfile::tempdir().unwrap();
    let seen = command.path().join("seen");
    let (status, said) = Systemd::new("$$")
        .builder(&[&http])
        .http(&addr.to_string())
        .env("CMOGSTORED_FD", "")
        .run_to_exit();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("failed to parse CMOGSTORED_FD"), "{said}");

    let server = Systemd::new("$$")
        .builder(&[&http])
        .http(&addr.to_string())
        .mgmt("127.0.0.1:0")
        .env(
            "MOG_IOSTAT_CMD",
            &format!("env >{}; sleep 9", seen.display()),
        )
        .start();
    // what the process was born with stays in sight of the kernel, not of its children
    assert!(environment(server.pid()).contains("LISTEN_FDS=1"));
    let text = || std::fs::read_to_string(&seen).unwrap_or_default();
    eventually("the command's environment", PATIENCE, || {
        text().contains("PATH=")
    });
    assert!(!text().contains("LISTEN_"), "{}", text());
}

fn from_cmogstored(sockets: &[(&dyn AsRawFd, i32)]) -> Builder {
    let numbers: Vec<String> = sockets.iter().map(|(_, nr)| nr.to_string()).collect();
    let builder = builder().env("CMOGSTORED_FD", &numbers.join(","));
    sockets.iter().fold(builder, |builder, (socket, number)| {
        builder.inherit(&socket.as_raw_fd(), *number)
    })
}

/// By their addresses, whatever their order; and whether they block or not is not ours to decide.
#[test]
fn cmogstored_gives_its_sockets() {
    for nonblocking in [false, true] {
        let (http, http_addr) = bound();
        let (mgmt, mgmt_addr) = bound();
        http.set_nonblocking(nonblocking).unwrap();
        let mut early = Conn::connect(http_addr);
        early.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
        let server = from_cmogstored(&[(&mgmt, 57), (&http, 41)])
            .http(&http_addr.to_string())
            .mgmt(&mgmt_addr.to_string())
            .http_get("127.0.0.1:0")
            .workers(2)
            .start();
        early.response().expect(404, true);
        for _ in 0..20 {
            let mut conn = server.conn();
            conn.put("/dev1/file", b"hello").expect(201, true);
            assert_eq!(conn.get("/dev1/file").expect(200, true).body, b"hello");
        }
        assert_eq!(server.addr(), http_addr);
        assert_eq!(server.mgmt_addr(), mgmt_addr);
        assert_eq!(is_nonblocking(&http), nonblocking);
        assert!(!is_nonblocking(&mgmt));
        drop(early);
        server.stop();
    }
}

/// Not ours alone: systemd's socket stays as it is.
#[test]
fn what_others_share_stays_as_it_is() {
    let (http, addr) = bound();
    http.set_nonblocking(true).unwrap();
    let server = Systemd::new("$$")
        .builder(&[&http])
        .arg("--listen-exclusive=0")
        .http(&addr.to_string())
        .start();
    server.wait_log("is O_NONBLOCK, and stays so", PATIENCE);
    for _ in 0..20 {
        server.conn().get("/dev1/missing").expect(404, true);
    }
    assert!(is_nonblocking(&http));
    server.stop();
}

#[test]
fn numbers_that_are_wrong_are_refused() {
    let (http, addr) = bound();
    let copy = http.try_clone().unwrap();
    for (list, words) in [
        ("60", "getsockname(fd=60) failed: Bad file descriptor"),
        ("2", "getsockname(fd=2) failed: Bad file descriptor"),
        ("41,41", "duplicate listener"),
        ("41,42", "duplicate listener"),
        ("x", "failed to parse CMOGSTORED_FD"),
        ("41;42", "CMOGSTORED_FD contained invalid byte: 59"),
        ("9999999999", "too large"),
    ] {
        let (status, said) = builder()
            .http(&addr.to_string())
            .env("CMOGSTORED_FD", list)
            .inherit(&http, 41)
            .inherit(&copy, 42)
            .run_to_exit();
        assert_eq!(status.code(), Some(1), "{list}: {said}");
        assert!(said.contains(words), "{list}: {said}");
    }
}

fn from_ours(socket: &dyn AsRawFd, notes: &str) -> Builder {
    builder()
        .inherit(&socket.as_raw_fd(), 41)
        .env("RMOGSTORED_FD", "41")
        .env("CMOGSTORED_FD", "41")
        .env("RMOGSTORED_FD_NOTES", notes)
}

/// The successor of a server on port 0 serves its port.
#[test]
fn port_0_goes_on_with_its_port() {
    let (http, addr) = bound();
    http.set_nonblocking(true).unwrap();
    let server = from_ours(&http, "41=http").http("127.0.0.1:0").start();
    assert_eq!(server.addr(), addr);
    assert!(!is_nonblocking(&http));
    server.stop();
    let other = from_ours(&http, "41=mgmt").http("127.0.0.1:0").start();
    assert_ne!(other.addr(), addr);
    other.stop();
}

fn identity(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::symlink_metadata(path).expect("a file");
    format!("{}:{}", file.dev(), file.ino())
}

/// A UNIX socket was bound under another name, and its file is the heir's to remove.
#[test]
fn the_file_of_a_unix_socket_goes_over_to_the_heir() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let temporary = folder.path().join("http.sock.4711.tmp");
    let unix = UnixListener::bind(&temporary).unwrap();
    std::fs::rename(&temporary, &path).unwrap();
    let before = identity(&path);
    let listen = format!("unix:{}", path.display());
    let server = from_ours(&unix, &format!("41=http;file={before}"))
        .http(&listen)
        .start();
    assert_eq!(identity(&path), before);
    Conn::unix(&path).get("/dev1/missing").expect(404, true);
    server.stop();
    assert!(!path.exists());

    // where another file has taken its place, the socket is of no use
    let stranger = UnixListener::bind(&path).unwrap();
    drop(stranger);
    let server = from_ours(&unix, &format!("41=http;file={before}"))
        .http(&listen)
        .start();
    server.wait_log("leads elsewhere now", PATIENCE);
    Conn::unix(&path).get("/dev1/missing").expect(404, true);
    server.stop();
}

/// A start that fails leaves no file behind, and takes none away that it was lent.
#[test]
fn a_start_that_fails_leaves_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let (_taken, addr) = bound();
    let (status, said) = builder()
        .http(&format!("unix:{}", path.display()))
        .http(&addr.to_string())
        .run_to_exit();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on {addr}")), "{said}");
    assert!(!path.exists());
}
