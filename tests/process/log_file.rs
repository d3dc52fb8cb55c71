//! `--log-file`, and USR1: the file is another one afterwards, and no line is in neither, or cut.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{facts, signal};
use crate::harness::server::own_docroot;
use crate::harness::{Conn, PATIENCE, Server, SetOnDrop, eventually};

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[track_caller]
fn wait_in(path: &Path, text: &str) {
    let what = format!("{text:?} in {}", path.display());
    eventually(&what, PATIENCE, || read(path).contains(text));
}

/// A line of a worker's: an upload that ends early.
#[track_caller]
fn half_a_put(server: &Server, name: &str) {
    let mut conn = server.conn();
    conn.send(format!(
        "PUT /dev1/{name} HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf"
    ));
    conn.finish_sending();
    conn.expect_eof();
}

#[test]
fn it_takes_the_place_of_stderr_when_the_service_is_ready() {
    let folder = own_docroot();
    let path = folder.path().join("log");
    let arg = format!("--log-file={}", path.display());
    let server = Server::builder().workers(2).umask(0o037).arg(&arg).start();
    wait_in(&path, "ready with 2 workers");
    let told = server.log();
    // who started it has heard the same until then
    eventually("the starter's stderr to be let go", PATIENCE, || {
        facts::children(server.pid())
            .iter()
            .chain([&server.pid()])
            .all(|pid| fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|file| file == path))
    });
    half_a_put(&server, "x");
    wait_in(&path, "PUT /dev1/x failed from");
    assert!(
        !server.log().iter().any(|line| line.contains("/dev1/x")),
        "the starter's stderr is the starter's again"
    );
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o640, "0640 less the umask");
    let text = read(&path);
    for line in &told {
        assert!(text.contains(line.as_str()), "{line:?} is not in {text}");
    }
    // nobody holds the old stderr, nor another descriptor of the log
    for pid in facts::children(server.pid()) {
        let log = path.to_str().unwrap();
        let of_log = facts::descriptors(pid);
        let of_log: Vec<_> = of_log.iter().filter(|(_, at)| at == log).collect();
        assert_eq!(of_log.len(), 1, "{of_log:?}");
    }
    server.stop();
    assert!(read(&path).contains("stopping: who has begun"));

    // a second run appends
    let server = Server::builder().arg(&arg).start();
    server.stop();
    assert!(read(&path).starts_with(&text));
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_start() {
    let folder = own_docroot();
    let path = folder.path().join("missing/log");
    let (status, said) = Server::builder()
        .arg(&format!("--log-file={}", path.display()))
        .run_to_exit();
    assert_eq!(status.code(), Some(1));
    let named = format!("log-file={}: No such file", path.display());
    assert!(said.contains(&named), "{said}");
}

/// What goes wrong later, before it is ready, is heard by who starts it, too.
#[test]
fn why_it_does_not_start_is_told_in_both_places() {
    let folder = own_docroot();
    let path = folder.path().join("log");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (status, said) = Server::builder()
        .arg(&format!("--log-file={}", path.display()))
        .http(&taken.local_addr().unwrap().to_string())
        .run_to_exit();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("cannot listen on"), "{said}");
    assert!(read(&path).contains("cannot listen on"));
}

#[test]
fn usr1_opens_it_anew_for_all() {
    let folder = own_docroot();
    let path = folder.path().join("log");
    let old = folder.path().join("log.1");
    let server = Server::builder()
        .workers(2)
        .arg(&format!("--log-file={}", path.display()))
        .start();
    wait_in(&path, "ready with 2 workers");

    // the path leads to the same file
    server.signal(libc::SIGUSR1);
    wait_in(&path, "log: the file is the same");
    wait_in(&path, "log: 2 of 2 workers write to it");

    fs::rename(&path, &old).unwrap();
    server.signal(libc::SIGUSR1);
    wait_in(&path, "log: opened anew");
    wait_in(&path, "log: 2 of 2 workers write to it");
    let before = read(&old);
    half_a_put(&server, "second");
    wait_in(&path, "PUT /dev1/second failed from");
    assert_eq!(read(&old), before);

    // a worker may be told as well: it asks its master, once for all
    fs::remove_file(&path).unwrap();
    signal(facts::children(server.pid())[0], libc::SIGUSR1);
    wait_in(&path, "log: opened anew");
    wait_in(&path, "log: 2 of 2 workers write to it");
    half_a_put(&server, "third");
    wait_in(&path, "PUT /dev1/third failed from");

    // one that is forked later writes there, too
    let first = facts::children(server.pid())[0];
    signal(first, libc::SIGKILL);
    eventually("another worker that is ready", PATIENCE, || {
        read(&path).contains("is ready, pid ")
    });
    for pid in facts::children(server.pid()) {
        let stderr = fs::read_link(format!("/proc/{pid}/fd/2")).unwrap();
        assert_eq!(stderr, path);
    }
    server.stop();
}

/// The old file is kept, and says why.
#[test]
fn a_file_that_cannot_be_opened_anew_is_no_loss() {
    let folder = own_docroot();
    let logs = folder.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let path = logs.join("log");
    let server = Server::builder()
        .arg(&format!("--log-file={}", path.display()))
        .start();
    wait_in(&path, "ready with 1 workers");
    let moved = folder.path().join("moved");
    fs::rename(&logs, &moved).unwrap();
    server.signal(libc::SIGUSR1);
    wait_in(&moved.join("log"), "the old one is kept: log-file=");
    half_a_put(&server, "x");
    wait_in(&moved.join("log"), "PUT /dev1/x failed from");
    fs::create_dir(&logs).unwrap();
    server.signal(libc::SIGUSR1);
    wait_in(&path, "log: 1 of 1 workers write to it");
    server.stop();
}

#[test]
fn without_a_log_file_usr1_does_nothing() {
    let server = Server::start();
    server.signal(libc::SIGUSR1);
    server.wait_log("--log-file was not given", PATIENCE);
    server.conn().put("/dev1/x", b"x").expect(201, true);
    server.stop();
}

/// A line that was counted as left out (clients cause 20 a second and worker at most) is not lost.
fn left_out(line: &str) -> u64 {
    line.strip_suffix(" lines about clients were left out")
        .and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn fifty_rotations_under_load_lose_no_line_and_cut_none() {
    const ROTATIONS: usize = 50;
    let _alone = super::alone();
    let folder = own_docroot();
    let path = folder.path().join("log");
    let server = Server::builder()
        .workers(4)
        .arg(&format!("--log-file={}", path.display()))
        .start();
    wait_in(&path, "ready with 4 workers");
    let old = |nr: usize| folder.path().join(format!("log.{nr}"));
    let (sent, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let provoke = || {
        let nr = sent.fetch_add(1, Ordering::Relaxed);
        half_a_put(&server, &format!("line-{nr}"));
    };
    std::thread::scope(|scope| {
        let (stop, provoke) = (&stop, &provoke);
        // about as many as the four may log, so that there are lines at all times; and not in step with each
        // other, or all of them would sleep while the file changes
        for nr in 0..8 {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    provoke();
                    std::thread::sleep(Duration::from_millis(61 + 7 * nr));
                }
            });
        }
        let _stop = SetOnDrop(stop);
        for nr in 0..ROTATIONS {
            fs::rename(&path, old(nr)).unwrap();
            server.signal(libc::SIGUSR1);
            wait_in(&path, "log: 4 of 4 workers write to it");
            wait_in(&path, "PUT /dev1/line-");
        }
    });
    let all = || {
        (0..ROTATIONS)
            .map(old)
            .chain([path.clone()])
            .map(|path| read(&path))
            .collect::<Vec<_>>()
    };
    // a worker tells what it left out with its next line, in another second
    eventually("each line, or its number", Duration::from_secs(10), || {
        provoke();
        std::thread::sleep(Duration::from_millis(50));
        let texts = all();
        let lines = texts.iter().flat_map(|text| text.lines());
        let told: u64 = lines
            .map(|line| u64::from(line.contains("PUT /dev1/line-")) + left_out(line))
            .sum();
        told == sent.load(Ordering::Relaxed)
    });
    let mut counted = 0;
    for text in all() {
        assert!(text.ends_with('\n'), "a line is cut: {text:?}");
        for line in text.lines() {
            let (_, said) = line.split_once("] ").unwrap_or_else(|| panic!("{line:?}"));
            assert!(line.starts_with("rmogstored["), "{line:?}");
            assert_eq!(line.matches("rmogstored[").count(), 1, "{line:?}");
            assert!(said.contains(": "), "{line:?}");
            if said.contains("PUT /dev1/line-") {
                assert!(
                    said.contains(" after 4 bytes: ") && said.ends_with("ms)"),
                    "{line:?}"
                );
                counted += 1;
            }
        }
    }
    assert!(counted >= ROTATIONS, "{counted}");
    server.stop();
}

#[test]
fn a_fifo_that_nobody_reads_stops_nobody() {
    let folder = own_docroot();
    let path = folder.path().join("log");
    let server = Server::builder()
        .arg(&format!("--log-file={}", path.display()))
        .start();
    wait_in(&path, "ready with 1 workers");
    fs::rename(&path, folder.path().join("log.1")).unwrap();
    let fifo = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a NUL-terminated path
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    server.signal(libc::SIGUSR1);
    wait_in(
        &folder.path().join("log.1"),
        "the old one is kept: log-file=",
    );
    Conn::connect(server.addr())
        .put("/dev1/x", b"x")
        .expect(201, true);
    server.stop();
}
