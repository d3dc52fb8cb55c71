//! Listeners: several of each kind, IPv6, UNIX sockets, read-only ones; and starts that must fail, and say why.

use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;

use crate::harness::server::{Listener, own_docroot};
use crate::harness::{Conn, Server};

/// Both ways through a full listener.
#[track_caller]
fn check_serves(conn: &mut Conn) {
    conn.put("/dev1/file", b"hello").expect(201, true);
    assert_eq!(conn.get("/dev1/file").expect(200, true).body, b"hello");
    conn.delete("/dev1/file").expect(204, true);
    conn.expect_open();
}

#[test]
fn several_listeners_of_each_kind_serve_the_same_files() {
    let server = Server::builder()
        .http("127.0.0.1:0")
        .http_get("127.0.0.1:0")
        .http_get("127.0.0.1:0")
        .start();
    let listeners = server.listeners();
    assert_eq!(listeners.len(), 4, "{listeners:?}");
    server.write("dev1/shared", "shared");
    let mut ports = Vec::new();
    for listener in listeners {
        let (addr, writes) = match listener {
            Listener::Http(addr) => (addr, true),
            Listener::HttpGet(addr) => (addr, false),
            other => panic!("{other:?}"),
        };
        ports.push(addr.port());
        let mut conn = Conn::connect(addr);
        assert_eq!(conn.get("/dev1/shared").expect(200, true).body, b"shared");
        if writes {
            check_serves(&mut conn);
        } else {
            conn.put("/dev1/x", b"x").expect(405, false);
        }
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 4, "each has a port of its own");
}

#[test]
fn ipv6_is_served_and_named_in_the_log() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let server = Server::builder()
        .without_default_listener()
        .http("[::1]:0")
        .start();
    assert!(server.addr().is_ipv6());
    let mut conn = Conn::connect(server.addr());
    check_serves(&mut conn);
    conn.send("PUT /dev1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf");
    let peer = conn.local_addr();
    conn.finish_sending();
    conn.expect_eof();
    server.wait_log(
        &format!("PUT /dev1/x failed from {peer} after 4 bytes"),
        crate::harness::PATIENCE,
    );
}

#[test]
fn a_unix_socket_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let server = Server::builder()
        .without_default_listener()
        .http(&format!("unix:{}", path.display()))
        .start();
    assert_eq!(server.unix_path(), path);
    assert!(std::fs::metadata(&path).unwrap().file_type().is_socket());
    let mut conn = Conn::unix(&path);
    check_serves(&mut conn);
    let big = crate::harness::pattern(3 << 20);
    conn.put("/dev1/big", &big).expect(201, true);
    crate::harness::assert_same(&conn.get("/dev1/big").body, &big, "through the UNIX socket");
    conn.request("GET", "/dev1/big", &[("Connection", "close")], b"")
        .expect(200, false);
    conn.expect_eof();
}

#[test]
fn a_read_only_unix_socket_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("get.sock");
    let server = Server::builder()
        .http_get(&format!("unix:{}", path.display()))
        .start();
    server.write("dev1/file", "hello");
    assert!(
        server
            .listeners()
            .contains(&Listener::HttpGetUnix(path.clone()))
    );
    let mut conn = Conn::unix(&path);
    assert_eq!(conn.get("/dev1/file").expect(200, true).body, b"hello");
    conn.delete("/dev1/file").expect(405, true);
    conn.expect_open();
}

/// 405 comes before any look at the path; only a PUT, whose body nobody wants, closes.
#[test]
fn a_read_only_listener_reads_only() {
    let server = Server::builder().http_get("127.0.0.1:0").start();
    server.write("dev1/file", "hello");
    let mut conn = Conn::connect(server.get_addr());
    assert_eq!(conn.get("/dev1/file").expect(200, true).body, b"hello");
    assert_eq!(
        conn.get_with("/dev1/file", &[("Range", "bytes=1-2")])
            .expect(206, true)
            .body,
        b"el"
    );
    conn.head("/dev1/file").expect(200, true);
    conn.get("/dev1/missing").expect(404, true);
    for target in [
        "/dev1/file",
        "/dev1/missing",
        "/dev1/../x",
        "/",
        "/dev1",
        "/dev777/x",
        "/dev1/x/",
    ] {
        conn.delete(target).expect(405, true);
        conn.request("MKCOL", target, &[], b"").expect(405, true);
        let mut other = Conn::connect(server.get_addr());
        other.put(target, b"x").expect(405, false);
        other.expect_closed();
    }
    let mut waiting = Conn::connect(server.get_addr());
    waiting.send(
        "PUT /dev1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    );
    waiting.response().expect(405, false);
    waiting.expect_closed();
    conn.expect_open();
    assert_eq!(server.names(), ["dev1/file"]);
}

#[test]
fn a_bad_listener_is_a_usage_error_that_names_the_option() {
    for listen in [
        "nonsense",
        "1.2.3.4:99999",
        "127.0.0.1:",
        "99999",
        "1.2.3:7500",
        "[::1]",
        "unix:",
        "",
        "localhost:x",
    ] {
        for option in ["--httplisten", "--httpgetlisten"] {
            let arg = format!("{option}={listen}");
            let (status, said) = Server::builder()
                .without_default_listener()
                .arg(&arg)
                .run_to_exit();
            assert_eq!(status.code(), Some(2), "{arg}: {said}");
            assert!(said.contains(option), "{arg}: {said}");
        }
    }
}

#[test]
fn a_usage_error_names_the_option_and_exits_2() {
    for (arg, named) in [
        ("--no-such-option", "--no-such-option"),
        ("--durability=sometimes", "--durability"),
        ("--idle-timeout=soon", "--idle-timeout"),
        ("--idle-timeout=-1", "--idle-timeout"),
        ("--maxconns=many", "--maxconns"),
        ("--maxconns=0", "--maxconns"),
        ("stray", "stray"),
    ] {
        let (status, said) = Server::builder().arg(arg).run_to_exit();
        assert_eq!(status.code(), Some(2), "{arg}: {said}");
        assert!(said.contains(named), "{arg}: {said}");
    }
}

#[test]
fn a_port_in_use_is_exit_1_and_names_address_and_errno() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (status, said) = Server::builder().http(&addr).run_to_exit();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&addr), "{said}");
    assert!(
        said.contains("in use") || said.contains("EADDRINUSE"),
        "{said}"
    );
}

#[test]
fn a_docroot_that_is_none_is_exit_1_and_is_named() {
    let folder = own_docroot();
    let missing = folder.path().join("missing");
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for docroot in [missing, file] {
        let (status, said) = Server::builder().docroot(&docroot).run_to_exit();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(docroot.to_str().unwrap()), "{said}");
    }
}

/// One word with `=`, or two words.
#[test]
fn options_are_taken_in_both_spellings() {
    let server = Server::builder()
        .without_default_listener()
        .arg("--httplisten")
        .arg("127.0.0.1:0")
        .arg("--idle-timeout")
        .arg("30")
        .durability("full")
        .start();
    check_serves(&mut server.conn());
    server.stop();
}
