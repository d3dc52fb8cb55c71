//! What a service manager hears: this test is systemd, with a socket of datagrams.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use super::facts;
use crate::harness::server::own_docroot;
use crate::harness::{PATIENCE, Server, eventually};

fn hear(manager: &UnixDatagram) -> String {
    let mut text = [0; 1024];
    let len = manager.recv(&mut text).expect("a word of the server's");
    String::from_utf8_lossy(&text[..len]).into_owned()
}

/// The next word that is not the watchdog's, and how many of those came before it.
fn hear_other(manager: &UnixDatagram) -> (String, usize) {
    let mut beats = 0;
    loop {
        match hear(manager) {
            text if text == "WATCHDOG=1" => beats += 1,
            text => return (text, beats),
        }
    }
}

#[test]
fn it_hears_when_the_service_is_ready_alive_and_stopping() {
    let folder = own_docroot();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = Server::builder()
        .workers(2)
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "400000")
        .start();
    let (ready, _) = hear_other(&manager);
    assert_eq!(ready, "READY=1\nSTATUS=ready with 2 workers");
    // ten beats at half of the time that it may take
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(hear(&manager), "WATCHDOG=1");
    }
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1500), "{took:?}");
    assert!(took < Duration::from_millis(3900), "{took:?}");

    // a master that hangs is silent
    // SAFETY: no pointers; the pid is our child's
    unsafe { libc::kill(server.pid(), libc::SIGSTOP) };
    eventually("the master to stop", PATIENCE, || {
        facts::is_stopped(server.pid())
    });
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut [0; 64]).is_ok() {}
    std::thread::sleep(Duration::from_millis(600));
    assert!(manager.recv(&mut [0; 64]).is_err());
    manager.set_nonblocking(false).unwrap();
    // SAFETY: as above
    unsafe { libc::kill(server.pid(), libc::SIGCONT) };
    assert_eq!(hear(&manager), "WATCHDOG=1");

    // nobody else is the service: its workers say nothing, whatever becomes of them
    let master = server.pid();
    assert_eq!(facts::children(master).len(), 2);
    server.stop();
    let (stopping, _) = hear_other(&manager);
    assert!(
        stopping.starts_with("STOPPING=1\nSTATUS=stopping: "),
        "{stopping}"
    );
}

/// The watchdog waits for another process: whoever wraps us.
#[test]
fn a_watchdog_of_another_process_is_left_to_it() {
    let folder = own_docroot();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = Server::builder()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "100000")
        .env("WATCHDOG_PID", "1")
        .start();
    assert!(hear(&manager).starts_with("READY=1"));
    std::thread::sleep(Duration::from_millis(400));
    server.stop();
    assert!(hear(&manager).starts_with("STOPPING=1"));
}

/// A manager that does not read, and one that is not there, stop nobody.
#[test]
fn nobody_waits_for_a_manager() {
    let folder = own_docroot();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let server = Server::builder()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "2000")
        .start();
    // more than the kernel keeps of what nobody reads
    server.wait_log("the service manager cannot be told", PATIENCE);
    server.conn().put("/dev1/x", b"x").expect(201, true);
    drop(manager);
    server.conn().get("/dev1/x").expect(200, true);
    let log = server.stop();
    let told = |line: &&String| line.contains("cannot be told");
    assert_eq!(log.iter().filter(told).count(), 1, "{log:#?}");
}

/// The command that measures the disks is the operator's, and no part of the service.
#[test]
fn a_helper_does_not_know_of_the_manager() {
    let folder = own_docroot();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let seen = folder.path().join("environment");
    let command = format!("sh -c 'env > {}; sleep 60'", seen.display());
    let server = Server::builder()
        .mgmt("127.0.0.1:0")
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("MOG_IOSTAT_CMD", &command)
        .start();
    let text = || std::fs::read_to_string(&seen).unwrap_or_default();
    eventually("the helper", PATIENCE, || {
        text().contains("MOG_IOSTAT_CMD=")
    });
    assert!(!text().contains("NOTIFY_SOCKET="), "{}", text());
    server.stop();
}
