//! Files that a service runs by.

use super::Folder;
use crate::harness::server::Listener;
use crate::harness::{Conn, PATIENCE, Server};

/// As it is found on a storage node that ran another daemon until now.
#[test]
fn a_file_of_an_older_daemon_is_served() {
    let folder = Folder::new();
    let root = folder.docroot("root");
    let text = format!(
        "# where we listen\nhttplisten=127.0.0.1:0\nmgmtlisten = 127.0.0.1:0 # trackers\n\
         httpgetlisten = 127.0.0.1:0\n\ndocroot\t= {root}/\nmaxconns = 100\n\
         server = none\nserverbin = /usr/sbin/perlbal\nserver = none\niostat = 0\nworker-processes = 1"
    );
    let server = Server::builder()
        .bare()
        .arg(&folder.config("x.conf", &text))
        .start();
    let mut conn = server.conn();
    conn.put("/dev1/file", b"hello").expect(201, true);
    assert_eq!(
        std::fs::read(folder.path("root/dev1/file")).unwrap(),
        b"hello"
    );
    let mut get = Conn::connect(server.get_addr());
    assert_eq!(get.get("/dev1/file").expect(200, true).body, b"hello");
    get.put("/dev1/file", b"x").expect(405, false);
    assert_eq!(server.worker_pids().len(), 1);
    let warnings: Vec<_> = server
        .log()
        .into_iter()
        .filter(|line| line.contains(" warn: "))
        .collect();
    assert_eq!(warnings.len(), 2, "one a key: {warnings:?}");
    assert!(warnings[0].ends_with("serverbin = /usr/sbin/perlbal ignored"));
    assert!(warnings[1].contains("server = none ignored"));
    server.stop();
}

#[test]
fn argv_wins_over_the_file() {
    let folder = Folder::new();
    let root = folder.docroot("root");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "docroot = {root}\nhttplisten = {}\nmgmtlisten = 127.0.0.1:0\nworker-processes = 3\n",
        taken.local_addr().unwrap()
    );
    let server = Server::builder()
        .bare()
        .arg(&folder.config("x.conf", &text))
        .arg("--httplisten=127.0.0.1:0")
        .arg("--worker-processes=1")
        .start();
    assert_eq!(server.worker_pids().len(), 1);
    let listeners = server.listeners();
    assert!(
        matches!(listeners[..], [Listener::Http(_), Listener::Mgmt(_)]),
        "{listeners:?}"
    );
}

#[test]
fn two_sites_are_served_by_one_tree() {
    let folder = Folder::new();
    let (one, two) = (folder.docroot("one"), folder.docroot("two"));
    let socket = folder.at("two.sock");
    let a = folder.config(
        "a.conf",
        &format!(
            "docroot = {one}\nhttplisten = 127.0.0.1:0\nmaxconns = 50\nworker-processes = 1\n"
        ),
    );
    let b = folder.config(
        "b.conf",
        &format!(
            "docroot = {two}\nhttplisten = unix:{socket}\nhttpgetlisten = 127.0.0.1:0\nmaxconns = 50\n"
        ),
    );
    let server = Server::builder()
        .bare()
        .arg("--multi")
        .arg(&a)
        .arg(&b)
        .start();
    let mut first = server.conn();
    let mut second = Conn::unix(&server.unix_path());
    first.put("/dev1/file", b"first").expect(201, true);
    second.put("/dev1/file", b"second").expect(201, true);
    assert_eq!(first.get("/dev1/file").expect(200, true).body, b"first");
    assert_eq!(second.get("/dev1/file").expect(200, true).body, b"second");
    let mut get = Conn::connect(server.get_addr());
    assert_eq!(get.get("/dev1/file").expect(200, true).body, b"second");
    let read = |path: &str| std::fs::read(folder.path(path)).unwrap();
    assert_eq!(read("one/dev1/file"), b"first");
    assert_eq!(read("two/dev1/file"), b"second");
    first.delete("/dev1/file").expect(204, true);
    first.get("/dev1/file").expect(404, true);
    second.get("/dev1/file").expect(200, true);
    drop((first, second, get));
    server.stop();
    assert!(!folder.path("two.sock").exists());
}

/// The file's listeners replace the defaults, so that a second service on this machine can run beside the first.
#[test]
fn a_site_may_have_a_sidechannel_alone() {
    let folder = Folder::new();
    let root = folder.docroot("root");
    let text = format!("docroot = {root}\nmgmtlisten = 127.0.0.1:0\nworker-processes = 1");
    let server = Server::builder()
        .bare()
        .arg(&folder.config("x.conf", &text))
        .start();
    let listeners = server.listeners();
    assert!(
        matches!(listeners[..], [Listener::Mgmt(_)]),
        "{listeners:?}"
    );
}

#[test]
fn by_another_name_it_serves_the_same() {
    let folder = Folder::new();
    let root = folder.docroot("root");
    let link = folder.path("cmogstored");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_rmogstored"), &link).unwrap();
    let text = format!("docroot = {root}\nhttplisten = 127.0.0.1:0\nworker-processes = 1");
    let server = Server::builder()
        .bare()
        .called(&link)
        .arg(&folder.config("x.conf", &text))
        .arg("--skipconfig")
        .arg("--server=perlbal")
        .start();
    server.conn().put("/dev1/x", b"x").expect(201, true);
    let line = server.wait_log("ready with ", PATIENCE);
    assert!(line.starts_with("rmogstored["), "{line}");
    server.stop();
}
