//! A device whose calls do not come back, beside healthy ones.
//!
//! The disk is the preloaded library's (`harness::hang`): exact, and a test sees which threads it holds.
//! `real_disk` does the same with disks that the kernel itself holds.

use std::time::{Duration, Instant};

use super::{PROMPT, alone, facts};
use crate::harness::hang::{self, Calls, Disk, held_threads};
use crate::harness::{Conn, PATIENCE, Response, Server, assert_same, eventually, hex_md5, pattern};

/// Places in a device's line, a worker: queues.txt, "Limits".
const LINE: usize = 128;

/// Consumers of one worker that one busy device may hold: those of n are shared with all others by halves.
fn share(consumers: usize) -> usize {
    consumers.div_ceil(2)
}

/// A request that is not waited for.
fn ask(server: &Server, target: &str) -> Conn {
    let mut conn = server.conn();
    conn.send(format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n"));
    conn
}

/// So many requests for the device that hangs.
fn crowd(server: &Server, count: usize) -> Vec<Conn> {
    (0..count).map(|_| ask(server, "/dev1/file")).collect()
}

/// Not now: a reply that says when to come again.
#[track_caller]
fn expect_refusal(response: &Response, keeps_alive: bool) {
    response.expect(503, keeps_alive);
    let seconds: u32 = response.must("Retry-After").parse().expect("seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
}

/// Whether a device is known as dead: no request waits for it. (Where --device-wait is long and its line not
/// full, there is no other reason for a refusal.)
pub fn is_refused_at_once(server: &Server) -> bool {
    let mut conn = ask(server, "/dev1/file");
    let end = Instant::now() + Duration::from_millis(300);
    while conn.is_silent() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    !conn.is_silent() && conn.response().status == 503
}

/// GETs of a healthy device, one after the other: the median and the slowest.
fn healthy(server: &Server, count: usize) -> (Duration, Duration) {
    let mut kept = server.conn();
    let mut took = Vec::with_capacity(count);
    for nr in 0..count {
        let start = Instant::now();
        let reply = if nr % 4 == 0 {
            server.conn().get("/dev2/file")
        } else {
            kept.get("/dev2/file")
        };
        assert_eq!(reply.expect(200, true).body, b"healthy");
        took.push(start.elapsed());
    }
    took.sort();
    (took[count / 2], took[count - 1])
}

/// The threads of all workers that are held.
fn held(server: &Server) -> Vec<String> {
    let pids = server.worker_pids();
    pids.into_iter().flat_map(held_threads).collect()
}

/// How many of them are consumers.
fn held_consumers(server: &Server) -> usize {
    let pids = server.worker_pids();
    pids.into_iter().map(hang::held_consumers).sum()
}

fn fill(server: &Server) {
    server.write("dev1/file", "back again");
    server.write("dev2/file", "healthy");
}

#[test]
fn healthy_devices_are_served_while_hundreds_wait_for_a_dead_one() {
    let _alone = alone();
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk
        .builder()
        .threads(10)
        .arg("--device-wait=600")
        .arg("--probe-timeout=600")
        .start();
    fill(&server);
    let worker = server.worker_pids()[0];
    let (threads, sockets) = (facts::threads(worker), facts::sockets(worker));
    let files = facts::descriptors(worker).len() - sockets;
    healthy(&server, 8);
    let hang = disk.hang(Calls::Opens);
    let mut dead = crowd(&server, 300);
    eventually("its share of consumers to be held", PATIENCE, || {
        held_consumers(&server) == share(10)
    });
    // who finds the line full is told so at once
    let inside = share(10) + LINE;
    eventually("the others to be refused", PATIENCE, || {
        dead.iter().filter(|conn| conn.is_silent()).count() == inside
    });
    let (median, slowest) = healthy(&server, 500);
    eprintln!("beside 300 requests for a dead device: median {median:?}, slowest {slowest:?}");
    assert!(slowest < PROMPT, "{slowest:?}");
    for nr in 0..20 {
        let target = format!("/dev2/a/{nr}");
        server.conn().put(&target, b"new").expect(201, true);
        server.conn().delete(&target).expect(204, true);
    }
    // all of it while they waited, and no thread more was taken
    assert_eq!(dead.iter().filter(|conn| conn.is_silent()).count(), inside);
    assert_eq!(held_consumers(&server), share(10), "{:?}", held(&server));
    let (waiting, mut refused): (Vec<_>, Vec<_>) = std::mem::take(&mut dead)
        .into_iter()
        .partition(Conn::is_silent);
    for conn in &mut refused {
        expect_refusal(&conn.response(), true);
        // it is of use for other devices
        conn.get("/dev2/file").expect(200, true);
    }
    drop(hang);
    for mut conn in waiting {
        assert_eq!(conn.response().expect(200, true).body, b"back again");
    }
    drop(refused);
    assert_eq!(disk.held(), 0);
    eventually("descriptors and threads as before", PATIENCE, || {
        // a consumer that is one too many leaves after its next turn
        healthy(&server, 8);
        let now = facts::sockets(worker);
        now <= sockets + 1
            && facts::descriptors(worker).len() - now <= files
            && facts::threads(worker) <= threads
    });
    server.stop();
}

#[test]
fn who_waits_too_long_is_told_when_to_come_again() {
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk
        .builder()
        .arg("--device-wait=0.7")
        .arg("--probe-timeout=600")
        .start();
    fill(&server);
    let hang = disk.hang(Calls::Opens);
    let inside = crowd(&server, share(10));
    eventually("its share of consumers to be held", PATIENCE, || {
        held_consumers(&server) == share(10)
    });
    let began = Instant::now();
    let mut late = crowd(&server, 40);
    let mut upload = server.conn();
    upload.send("PUT /dev1/new HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nnew");
    for conn in &mut late {
        expect_refusal(&conn.response(), true);
        assert!(began.elapsed() >= Duration::from_millis(650));
    }
    expect_refusal(&upload.response(), false);
    upload.expect_closed();
    eprintln!("41 requests refused after {:?}", began.elapsed());
    assert!(began.elapsed() < PROMPT + Duration::from_millis(700));
    // a body that is still on its way is not swallowed by a refusal
    let mut slow = server.conn();
    slow.send("PUT /dev1/new HTTP/1.1\r\nHost: t\r\nContent-Length: 300000\r\n\r\nnew");
    expect_refusal(&slow.response(), false);
    let mut polite = server.conn();
    polite.send(
        "PUT /dev1/new HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
    );
    expect_refusal(&polite.response(), false);
    let mut delete = server.conn();
    expect_refusal(&delete.delete("/dev1/file"), true);
    assert!(inside.iter().all(Conn::is_silent));
    drop(hang);
    for mut conn in inside {
        assert_eq!(conn.response().expect(200, true).body, b"back again");
    }
    assert_eq!(server.read("dev1/new"), None);
    server.conn().put("/dev1/new", b"new").expect(201, true);
    server.stop();
}

/// Pipelined requests: what goes to the healthy device before is answered, and the order is kept.
#[test]
fn a_pipeline_keeps_its_order_across_a_device_that_hangs() {
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk
        .builder()
        .arg("--device-wait=0.3")
        .arg("--probe-timeout=600")
        .start();
    fill(&server);
    let hang = disk.hang(Calls::Opens);
    let inside = crowd(&server, share(10));
    eventually("its share of consumers to be held", PATIENCE, || {
        held_consumers(&server) == share(10)
    });
    let mut conn = server.conn();
    let get = |target| format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n");
    let healthy = get("/dev2/file");
    conn.send(format!("{healthy}{}{healthy}", get("/dev1/file")));
    assert_eq!(conn.response().expect(200, true).body, b"healthy");
    expect_refusal(&conn.response(), true);
    assert_eq!(conn.response().expect(200, true).body, b"healthy");
    conn.expect_open();
    drop(hang);
    drop(inside);
    server.stop();
}

/// A line has a bound where nothing moves, not where many come at once.
#[test]
fn a_crowd_is_no_reason_to_refuse_anybody() {
    let _alone = alone();
    let server = Server::builder().mgmt("127.0.0.1:0").start();
    fill(&server);
    let worker = server.worker_pids()[0];
    // few places, so that who is inside is easily passed by many
    let mut side = Conn::connect(server.mgmt_addr());
    side.send("server aio_threads = 2\r\n");
    assert_eq!(side.read_exactly(2), b"\r\n");
    server.wait_log("2 consumers instead of 10", PATIENCE);
    let mut conns: Vec<Conn> = (0..900).map(|_| server.conn()).collect();
    for _ in 0..6 {
        super::signal(worker, libc::SIGSTOP);
        eventually("the worker to stand still", PATIENCE, || {
            facts::is_stopped(worker)
        });
        for conn in &mut conns {
            conn.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
        }
        super::signal(worker, libc::SIGCONT);
        for conn in &mut conns {
            assert_eq!(conn.response().expect(200, true).body, b"back again");
        }
    }
    server.stop();
}

#[test]
fn each_worker_keeps_its_own_share_free() {
    let _alone = alone();
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk
        .builder()
        .workers(3)
        .threads(12)
        .arg("--device-wait=600")
        .arg("--probe-timeout=600")
        .start();
    fill(&server);
    let hang = disk.hang(Calls::Opens);
    // A burst may go to one worker alone, above all when that is warm and the machine is busy: one at a time until
    // each has had its part.
    let mut dead = Vec::new();
    eventually("their share of consumers to be held", PATIENCE, || {
        let pids = server.worker_pids();
        if dead.len() < 60 {
            dead.push(ask(&server, "/dev1/file"));
        }
        pids.into_iter().all(|pid| held_threads(pid).len() >= 2)
    });
    dead.extend(crowd(&server, 90 - dead.len()));
    // a connection each time, so that every worker is met
    for _ in 0..200 {
        let start = Instant::now();
        assert_eq!(
            server.conn().get("/dev2/file").expect(200, true).body,
            b"healthy"
        );
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }
    assert_eq!(held_consumers(&server), 3 * share(4), "{:?}", held(&server));
    assert!(dead.iter().all(Conn::is_silent));
    drop(hang);
    for conn in &mut dead {
        conn.response().expect(200, true);
    }
    server.stop();
}

#[test]
fn a_device_whose_probe_hangs_is_refused_at_once_and_comes_back() {
    let _alone = alone();
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk
        .builder()
        .mgmt("127.0.0.1:0")
        .arg("--device-wait=600")
        .arg("--probe-timeout=0.5")
        .start();
    fill(&server);
    let worker = server.worker_pids()[0];
    server.conn().get("/dev1/file").expect(200, true);
    let before = disk.ever();
    let hang = disk.hang(Calls::All);
    let mut waiting = crowd(&server, 60);
    // nobody could be refused by --device-wait for ten minutes
    eventually("those in line to be refused", PATIENCE, || {
        waiting.iter().filter(|conn| conn.is_silent()).count() <= share(10)
    });
    let (mut inside, refused): (Vec<_>, Vec<_>) = std::mem::take(&mut waiting)
        .into_iter()
        .partition(Conn::is_silent);
    for mut conn in refused {
        expect_refusal(&conn.response(), true);
    }
    let most = disk.held();
    for _ in 0..100 {
        let start = Instant::now();
        expect_refusal(&server.conn().get("/dev1/file"), true);
        expect_refusal(&server.conn().put("/dev1/new", b"new"), false);
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }
    let (median, slowest) = healthy(&server, 100);
    eprintln!("beside a dead device: median {median:?}, slowest {slowest:?}");
    // those that were inside stay, and nobody joins them; a prober is not doubled
    assert!(disk.held() <= most, "{:?}", held(&server));
    assert!(held_consumers(&server) <= share(10), "{:?}", held(&server));
    assert!(inside.iter().all(Conn::is_silent));
    eprintln!(
        "a dead device: {} threads held ({} calls ever)",
        disk.held(),
        disk.ever() - before
    );
    drop(hang);
    for conn in &mut inside {
        assert_eq!(conn.response().expect(200, true).body, b"back again");
    }
    eventually("the device to come back by itself", PATIENCE, || {
        server.conn().get("/dev1/file").status == 200
    });
    server.conn().put("/dev1/new", b"new").expect(201, true);
    eventually("every thread to be free", PATIENCE, || {
        held_threads(worker).is_empty()
    });
    // a second time, since a recovery that works once may leave something behind
    let hang = disk.hang(Calls::All);
    let lost = crowd(&server, share(10));
    eventually("all places to be taken", PATIENCE, || {
        held_consumers(&server) == share(10)
    });
    let mut later = crowd(&server, 1);
    expect_refusal(&later[0].response(), true);
    drop(hang);
    eventually("the device to come back again", PATIENCE, || {
        server.conn().get("/dev1/file").status == 200
    });
    drop(lost);
    server.stop();
}

/// The body's next bytes are written to a disk that has begun to hang.
#[test]
fn uploads_under_way_end_whole_or_not_at_all() {
    let _alone = alone();
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk
        .builder()
        .arg("--device-wait=0.5")
        .arg("--probe-timeout=600")
        .start();
    fill(&server);
    let bytes = pattern(50_000);
    let half = bytes.len() / 2;
    let begin = |nr: usize| {
        let mut conn = server.conn();
        let length = bytes.len();
        conn.send(format!(
            "PUT /dev1/up/{nr} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n"
        ));
        conn.send(&bytes[..half]);
        conn.settle();
        conn
    };
    let mut uploads: Vec<Conn> = (0..20).map(begin).collect();
    let hang = disk.hang(Calls::Writes);
    for conn in &mut uploads {
        // a refusal may come first, and close
        let _ = conn.try_send(&bytes[half..]);
    }
    eventually("its share of consumers to be held", PATIENCE, || {
        held_consumers(&server) == share(10)
    });
    eventually("the others to be refused", PATIENCE, || {
        uploads.iter().filter(|conn| conn.is_silent()).count() <= share(10)
    });
    let (_, slowest) = healthy(&server, 100);
    assert!(slowest < PROMPT, "{slowest:?}");
    server.conn().put("/dev2/new", &bytes).expect(201, true);
    // reads of a disk that hangs in its writes: each finds no place
    expect_refusal(&server.conn().get("/dev1/file"), true);
    drop(hang);
    let mut stored = 0;
    for (nr, conn) in uploads.iter_mut().enumerate() {
        let name = format!("dev1/up/{nr}");
        let reply = conn.response();
        if reply.status == 201 {
            stored += 1;
            assert_same(&server.read(&name).expect("stored"), &bytes, &name);
        } else {
            expect_refusal(&reply, false);
            conn.expect_closed();
            assert_eq!(server.read(&name), None);
        }
    }
    eprintln!("20 uploads to a disk that hung: {stored} stored, the others refused");
    assert_eq!(stored, share(10));
    // nothing is left of the others, and it works as before
    server
        .conn()
        .put("/dev1/up/after", &bytes)
        .expect(201, true);
    let left = server
        .names()
        .into_iter()
        .filter(|name| name.starts_with("dev1/"));
    assert_eq!(left.count(), stored + 2);
    server.stop();
}

/// A reply whose file cannot be read on: the reader waits, and gets all of it when the disk comes back.
#[test]
fn downloads_under_way_go_on_when_the_disk_comes_back() {
    let _alone = alone();
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk
        .builder()
        .arg("--device-wait=600")
        .arg("--probe-timeout=600")
        .start();
    fill(&server);
    let bytes = pattern(4 << 20);
    server.write("dev1/big", &bytes);
    let open = |_| {
        let mut conn = Conn::connect_narrow(server.addr(), 16 * 1024);
        conn.send("GET /dev1/big HTTP/1.1\r\nHost: t\r\n\r\n");
        conn.head_of_response().expect(200, true);
        conn
    };
    let mut readers: Vec<Conn> = (0..12).map(open).collect();
    let hang = disk.hang(Calls::Reads);
    std::thread::scope(|scope| {
        let bytes = &bytes;
        let readers: Vec<_> = readers
            .iter_mut()
            .map(|conn| scope.spawn(move || conn.read_exactly(bytes.len()) == *bytes))
            .collect();
        eventually("its share of consumers to be held", PATIENCE, || {
            held_consumers(&server) == share(10)
        });
        let (_, slowest) = healthy(&server, 100);
        assert!(slowest < PROMPT, "{slowest:?}");
        drop(hang);
        for reader in readers {
            assert!(reader.join().expect("a reader"), "its bytes");
        }
    });
    server.stop();
}

#[test]
fn with_every_device_hanging_the_rest_is_served() {
    let _alone = alone();
    let Some(disk) = Disk::new("") else {
        return;
    };
    let server = disk
        .builder()
        .mgmt("127.0.0.1:0")
        .arg("--device-wait=600")
        .arg("--probe-timeout=600")
        .start();
    fill(&server);
    let hang = disk.hang(Calls::Opens);
    let mut dead = crowd(&server, 40);
    dead.extend((0..40).map(|_| ask(&server, "/dev2/file")));
    eventually("both shares of consumers to be held", PATIENCE, || {
        // of ten: two busy devices, and as many stay free
        held_consumers(&server) >= 6
    });
    for _ in 0..100 {
        let start = Instant::now();
        server.conn().get("/").expect(200, true);
        server.conn().get("/../x").expect(403, true);
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }
    assert!(held_consumers(&server) < 10, "{:?}", held(&server));
    let mut side = Conn::connect(server.mgmt_addr());
    side.send("\r\nnonsense\r\nsize /dev1/../x\r\n");
    let wanted = b"\r\nERROR: unknown command: nonsense\r\nERROR: uri invalid (contains ..)\r\n";
    assert_eq!(side.read_exactly(wanted.len()), wanted);
    // asked of a disk that hangs it waits, alone
    side.send("size /dev1/file\r\n");
    let mut other = Conn::connect(server.mgmt_addr());
    other.send("\r\n");
    assert_eq!(other.read_exactly(2), b"\r\n");
    assert!(side.is_silent());
    assert!(dead.iter().all(Conn::is_silent));
    drop(hang);
    let wanted = b"/dev1/file 10\r\n";
    assert_eq!(side.read_exactly(wanted.len()), wanted);
    for conn in &mut dead {
        conn.response().expect(200, true);
    }
    server.stop();
}

/// Sizes and digests on a device that hangs hold up nobody else's.
#[test]
fn the_sidechannel_answers_others_while_a_device_hangs() {
    let _alone = alone();
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk
        .builder()
        .mgmt("127.0.0.1:0")
        .arg("--device-wait=600")
        .arg("--probe-timeout=600")
        .start();
    fill(&server);
    let (dead, fine) = (hex_md5(b"back again"), hex_md5(b"healthy"));
    let question = |line: &str| {
        let mut conn = Conn::connect(server.mgmt_addr());
        conn.send(format!("{line}\r\n"));
        conn
    };
    let hang = disk.hang(Calls::Opens);
    let mut stuck = Vec::new();
    for _ in 0..10 {
        let digest = format!("/dev1/file MD5={dead}\r\n");
        stuck.push((question("size /dev1/file"), "/dev1/file 10\r\n".to_owned()));
        stuck.push((question("MD5 /dev1/file"), digest.clone()));
        stuck.push((question("MD5 /dev1/file fsck"), digest));
    }
    eventually("its share of consumers to be held", PATIENCE, || {
        held_consumers(&server) == share(10)
    });
    let wanted = format!("/dev2/file 7\r\n/dev2/file MD5={fine}\r\n\r\n");
    let mut kept = Conn::connect(server.mgmt_addr());
    for _ in 0..100 {
        let start = Instant::now();
        kept.send("size /dev2/file\r\nMD5 /dev2/file\r\n\r\n");
        let reply = kept.read_exactly(wanted.len());
        assert_eq!(String::from_utf8_lossy(&reply), wanted);
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }
    assert!(stuck.iter().all(|(conn, _)| conn.is_silent()));
    assert_eq!(held_consumers(&server), share(10), "{:?}", held(&server));
    drop(hang);
    for (conn, wanted) in &mut stuck {
        let reply = conn.read_exactly(wanted.len());
        assert_eq!(String::from_utf8_lossy(&reply), *wanted);
    }
    server.stop();
}
