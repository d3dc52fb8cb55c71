//! kill -9 in the middle of many uploads: what is visible is whole, and nothing else is left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{alone, signal};
use crate::harness::sandbox::Missing;
use crate::harness::server::Builder;
use crate::harness::{Conn, PATIENCE, Server, eventually, pattern};

const CLIENTS: usize = 8;

/// Files that are replaced all the time; others are new each time.
const OLD: usize = 4;

const KILLS: usize = 6;

const DIAL: Duration = Duration::from_secs(2);

/// A body that tells by itself whether it is whole: its length, and bytes that follow from it.
fn body(version: u64) -> Vec<u8> {
    let len = 20_000 + (version as usize * 7919) % 400_000;
    let mut bytes = (len as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&pattern(len - 8));
    bytes
}

fn is_whole(bytes: &[u8]) -> bool {
    let Some((len, rest)) = bytes.split_at_checked(8) else {
        return false;
    };
    let len = u64::from_le_bytes(len.try_into().unwrap()) as usize;
    bytes.len() == len && rest == pattern(len - 8)
}

/// Uploads in three pieces until told to stop; ends of connections are the point of the test.
fn upload(server: &Server, nr: usize, enough: &AtomicBool) -> u64 {
    let mut stored = 0;
    let mut kept: Option<Conn> = None;
    for round in 0_u64.. {
        if enough.load(Ordering::SeqCst) {
            break;
        }
        let version = round * CLIENTS as u64 + nr as u64;
        let bytes = body(version);
        let target = match round % 2 {
            0 => format!("/dev1/old-{}", version as usize % OLD),
            _ => format!("/dev1/new/{nr}-{round}"),
        };
        let fresh = || Conn::try_connect(server.addr(), DIAL).ok();
        let Some(mut conn) = kept.take().or_else(fresh) else {
            continue;
        };
        let len = bytes.len();
        let head = format!("PUT {target} HTTP/1.1\r\nHost: t\r\nContent-Length: {len}\r\n\r\n");
        let (first, last) = bytes.split_at(len / 2);
        let sent = [head.as_bytes(), first, last]
            .iter()
            .all(|piece| conn.try_send(piece).is_ok());
        if let (true, Ok(response)) = (sent, conn.try_response()) {
            response.expect(201, true);
            stored += 1;
            kept = Some(conn);
        }
    }
    stored
}

fn everything_visible_is_whole(server: &Server) {
    let names = server.names();
    for name in &names {
        let bytes = server.read(name).expect("a file");
        assert!(is_whole(&bytes), "{name} has {} bytes", bytes.len());
    }
    for old in 0..OLD {
        assert!(names.contains(&format!("dev1/old-{old}")), "{names:?}");
    }
}

fn uploads_survive_kills(builder: Builder) {
    let server = builder.start();
    for old in 0..OLD {
        server.write(&format!("dev1/old-{old}"), body(old as u64));
    }
    let enough = AtomicBool::new(false);
    let stored: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|nr| {
                scope.spawn({
                    let (server, enough) = (&server, &enough);
                    move || upload(server, nr, enough)
                })
            })
            .collect();
        for kill in 0..KILLS {
            kill_in_the_middle(&server, kill);
        }
        enough.store(true, Ordering::SeqCst);
        clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .sum()
    });
    eprintln!("{stored} uploads were stored beside {KILLS} kills");
    assert!(stored > 20, "{stored}");
    // the clients have gone, and with the last of them what they had begun
    eventually("the last upload's end", PATIENCE, || {
        server
            .names()
            .iter()
            .all(|name| !name.contains(".rmogstored-tmp/"))
    });
    everything_visible_is_whole(&server);
    server.stop();
}

/// Uploads flow; then a worker dies, and another comes.
fn kill_in_the_middle(server: &Server, kill: usize) {
    let flowing = Instant::now();
    let names = server.names().len();
    eventually("new files", PATIENCE, || {
        server.names().len() > names + 8
            && flowing.elapsed() > Duration::from_millis(kill as u64 * 13)
    });
    let slot = kill % 2;
    let skip = server.log().len();
    signal(server.worker_pids()[slot], libc::SIGKILL);
    server.wait_log_after(skip, &format!("worker {slot} is ready"), PATIENCE);
}

#[test]
fn a_killed_worker_leaves_whole_files_and_nothing_else() {
    let _alone = alone();
    uploads_survive_kills(Server::builder().workers(2));
}

#[test]
fn nor_does_it_without_unnamed_files() {
    let _alone = alone();
    uploads_survive_kills(Server::builder().workers(2).without(Missing::UnnamedFiles));
}

#[test]
fn with_one_worker_dead_nothing_of_its_uploads_can_be_seen() {
    let server = Server::start();
    server.write("dev1/old", body(1));
    let mut halves: Vec<Conn> = (0..40)
        .map(|nr| {
            let mut conn = server.conn();
            let target = if nr % 2 == 0 {
                "old".to_owned()
            } else {
                format!("new-{nr}")
            };
            let half = pattern(50_000);
            conn.send(format!(
                "PUT /dev1/{target} HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n"
            ));
            conn.send(half);
            conn.settle();
            conn
        })
        .collect();
    assert_eq!(
        server.names(),
        ["dev1/old"],
        "nothing shows before it is whole"
    );
    let skip = server.log().len();
    signal(server.worker_pids()[0], libc::SIGKILL);
    for conn in &mut halves {
        conn.expect_closed();
    }
    assert_eq!(
        server.names(),
        ["dev1/old"],
        "nor after the kill, hidden names included"
    );
    assert_eq!(server.read("dev1/old").unwrap(), body(1));
    server.wait_log_after(skip, "worker 0 is ready", PATIENCE);
    server.conn().put("/dev1/new-1", &body(2)).expect(201, true);
    assert_eq!(server.names(), ["dev1/new-1", "dev1/old"]);
}
