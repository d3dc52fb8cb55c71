//! `--defer-accept`: the kernel keeps who is silent, for about a second.

use std::time::{Duration, Instant};

use super::{complaints, facts};
use crate::harness::tree::{Program, Tree};
use crate::harness::{Conn, PATIENCE, Server, eventually};

fn deferring() -> Server {
    let server = Server::builder()
        .mgmt("127.0.0.1:0")
        .arg("--defer-accept=1")
        .start();
    server.write("dev1/file", "content");
    server
}

fn is_accepted(server: &Server, conn: &Conn) -> bool {
    facts::owner(server.pid(), conn).is_some()
}

#[test]
fn who_talks_is_accepted_at_once_and_who_is_silent_after_a_second() {
    let server = deferring();
    let began = Instant::now();
    let mut silent = server.conn();
    // later, and served before: one listen queue, so the silent one is not in it
    let mut talks = server.conn();
    talks.get("/dev1/file").expect(200, true);
    let is_early = is_accepted(&server, &silent);
    // on a machine that stood still for so long nothing is shown
    if began.elapsed() < Duration::from_millis(900) {
        assert!(!is_early, "accepted after {:?}", began.elapsed());
    }
    eventually("the accept of a silent client", PATIENCE, || {
        is_accepted(&server, &silent)
    });
    let waited = began.elapsed();
    assert!(waited > Duration::from_millis(500), "{waited:?}");
    silent.get("/dev1/file").expect(200, true);
    // while it is kept back it may talk at any time
    let mut late = server.conn();
    late.get("/dev1/file").expect(200, true);
    assert_eq!(complaints(&server.log()), [""; 0]);
}

#[test]
fn the_sidechannel_and_a_server_that_was_not_told_accept_the_silent() {
    let server = deferring();
    let silent = Conn::connect(server.mgmt_addr());
    let plain = Server::start();
    let conn = plain.conn();
    let began = Instant::now();
    eventually("the accepts", PATIENCE, || {
        is_accepted(&server, &silent) && is_accepted(&plain, &conn)
    });
    let waited = began.elapsed();
    assert!(waited < Duration::from_millis(900), "{waited:?}");
}

#[test]
fn a_unix_socket_is_not_complained_about() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let server = Server::builder()
        .http(&format!("unix:{}", path.display()))
        .arg("--defer-accept=1")
        .start();
    Conn::unix(&path).get("/dev1/none").expect(404, true);
    assert_eq!(complaints(&server.log()), [""; 0]);
    server.stop();
}

/// A client that the kernel still keeps back has sent nothing, so nothing of it is lost; it is told by a reset.
#[test]
fn a_stop_waits_for_nobody_whom_the_kernel_keeps_back() {
    let mut server = deferring();
    let mut talks = server.conn();
    talks.get("/dev1/file").expect(200, true);
    let mut silent = server.conn();
    server.signal(libc::SIGQUIT);
    eventually("the drain", PATIENCE, || {
        server.worker_pids().into_iter().all(facts::is_draining)
    });
    talks.get("/dev1/file").expect(200, false);
    talks.expect_eof();
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    // it may not know yet that nobody is there
    let _ = silent.try_send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
    if let Some(response) = silent.response_unless_closed() {
        response.expect(200, false);
    }
    assert_eq!(complaints(&server.log()), [""; 0]);
}

/// How long a silent client of this tree waits to be accepted.
fn wait_of_the_silent(tree: &Tree) -> Duration {
    let began = Instant::now();
    let silent = tree.conn();
    eventually("the accept of a silent client", PATIENCE, || {
        facts::owner(tree.keeper(), &silent).is_some()
    });
    began.elapsed()
}

/// It belongs to the socket, which a successor that fails has shared: only who is in charge changes it.
#[test]
fn it_changes_with_who_is_in_charge() {
    let builder = Tree::builder()
        .set("upgrade", "auto")
        .set("probation", "20");
    let Some(tree) = builder.start(&Program::Ours) else {
        return;
    };
    let master = tree.first();
    let workers = tree.workers(master).len();
    let at_once = || wait_of_the_silent(&tree) < Duration::from_millis(500);
    assert!(at_once());
    tree.set("defer-accept", Some("1"));
    let skip = tree.mark();
    tree.signal(master, libc::SIGUSR2);
    let successor = tree.await_successor(skip);
    tree.wait_log(skip, "ready with", PATIENCE);
    tree.signal(successor, libc::SIGKILL);
    tree.await_gone(successor);
    tree.settle(&[(master, workers)]);
    assert!(at_once(), "the old one's word holds");
    assert_eq!(tree.verb(&["--reload"]).code, Some(0));
    assert!(!at_once(), "the new word holds");
    tree.stop();
}
