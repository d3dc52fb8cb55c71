//! Disks that the kernel itself holds, fills or makes read-only: no library stands in between.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use super::dead_device::is_refused_at_once;
use super::{PROMPT, alone, facts};
use crate::harness::fuse::{CONTENT, Fuse};
use crate::harness::server::{Builder, is_root};
use crate::harness::{Conn, PATIENCE, Server, eventually, pattern};

/// Threads of a process that the kernel holds in this function (proc(5): wchan).
fn waiting_in(pid: i32, function: &str) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("wchan")).ok())
        .filter(|place| place.contains(function))
        .count()
}

fn healthy(server: &Server, count: usize) {
    let mut conn = server.conn();
    for _ in 0..count {
        let start = Instant::now();
        let reply = conn.get("/dev2/file");
        assert_eq!(reply.expect(200, true).body, b"healthy");
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }
}

/// open(2) that does not come back from the kernel.
#[test]
fn a_filesystem_that_gives_no_answer_holds_its_share() {
    let _alone = alone();
    let Some(fuse) = Fuse::open() else {
        return;
    };
    let builder = Server::builder()
        .threads(10)
        .mgmt("127.0.0.1:0")
        .arg("--device-wait=600")
        .arg("--probe-timeout=600");
    let server = fuse.mount(builder, "dev1").start();
    server.write("dev2/file", "healthy");
    let worker = server.worker_pids()[0];
    let mut conn = server.conn();
    assert_eq!(conn.get("/dev1/file").expect(200, true).body, CONTENT);
    // read-only from the start
    let put = server.conn().put("/dev1/new", b"new");
    assert_eq!(put.status, 503, "a read-only device");
    let hang = fuse.hang();
    let ask = |_| {
        let mut conn = server.conn();
        conn.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
        conn
    };
    let mut dead: Vec<Conn> = (0..100).map(ask).collect();
    eventually("half of the consumers to be held", PATIENCE, || {
        waiting_in(worker, "request_wait_answer") >= 5
    });
    let start = Instant::now();
    healthy(&server, 500);
    eprintln!("500 healthy GETs in {:?}", start.elapsed());
    // its prober may be one more
    let held = waiting_in(worker, "request_wait_answer");
    assert!((5..=7).contains(&held), "{held} threads");
    assert!(dead.iter().all(Conn::is_silent));
    eprintln!(
        "{held} threads of the worker, {} calls in the kernel",
        fuse.held()
    );
    drop(hang);
    for conn in &mut dead {
        assert_eq!(conn.response().expect(200, true).body, CONTENT);
    }
    assert_eq!(waiting_in(worker, "request_wait_answer"), 0);
    server.stop();
}

#[test]
fn a_filesystem_that_gives_no_answer_is_dead_until_it_does() {
    let _alone = alone();
    let Some(fuse) = Fuse::open() else {
        return;
    };
    let builder = Server::builder()
        .mgmt("127.0.0.1:0")
        .arg("--device-wait=600")
        .arg("--probe-timeout=0.5");
    let server = fuse.mount(builder, "dev1").start();
    server.write("dev2/file", "healthy");
    let hang = fuse.hang();
    let mut held = server.conn();
    held.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
    // no request can be refused for its age, so it is for the device's death
    eventually("the device to be known as dead", PATIENCE, || {
        is_refused_at_once(&server)
    });
    healthy(&server, 50);
    drop(hang);
    assert_eq!(held.response().expect(200, true).body, CONTENT);
    eventually("the device to come back", PATIENCE, || {
        server.conn().get("/dev1/file").status == 200
    });
    server.stop();
}

/// ext4 in a file, which fsfreeze(8) can stop: whoever writes to it sleeps in the kernel and cannot be killed.
struct Ext4 {
    _folder: tempfile::TempDir,
    device: String,
}

impl Ext4 {
    fn make() -> Option<Ext4> {
        if !is_root() {
            eprintln!("skipped: mounting a filesystem wants root");
            return None;
        }
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let image = folder.path().join("image");
        File::create(&image)
            .and_then(|file| file.set_len(32 << 20))
            .expect("an image");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let device = run(Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&image))?;
        Some(Ext4 {
            _folder: folder,
            device,
        })
    }

    fn mount(&self, builder: Builder, device: &str) -> Builder {
        builder.mount(device, &self.device, "ext4", "")
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        // the kernel does it when the last mount has gone
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// Its output; `None`, with a line that says why, where there is no such program or it fails.
fn run(command: &mut Command) -> Option<String> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            eprintln!("skipped: {command:?}: {error}");
            None
        }
        Err(error) => {
            eprintln!("skipped: {command:?}: {error}");
            None
        }
    }
}

/// A frozen filesystem. It is thawed when this is dropped, and also when the test is killed: a process of its
/// own waits for the end of a pipe, since what sleeps in a frozen filesystem would do so for ever.
struct Frozen {
    thawer: Child,
    word: Option<ChildStdin>,
}

impl Frozen {
    #[track_caller]
    fn freeze(path: &Path) -> Frozen {
        // a descriptor leads there from outside of the server's namespace
        let place = File::open(path).expect("the mount");
        let through = PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            place.as_raw_fd()
        ));
        let script = "exec 3<\"$0\"; echo; read -r _; exec fsfreeze -u /proc/self/fd/3";
        let mut thawer = Command::new("sh")
            .args(["-c", script])
            .arg(&through)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let mut ready = [0];
        let mut stdout = thawer.stdout.take().expect("stdout is piped");
        std::io::Read::read_exact(&mut stdout, &mut ready).expect("the thawer is ready");
        let frozen = Frozen {
            word: thawer.stdin.take(),
            thawer,
        };
        let status = Command::new("fsfreeze").arg("-f").arg(&through).status();
        assert!(status.expect("fsfreeze").success(), "fsfreeze -f");
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.word = None;
        let _ = self.thawer.wait();
    }
}

#[test]
fn a_frozen_filesystem_holds_its_share_of_the_writers() {
    let _alone = alone();
    let Some(ext4) = Ext4::make() else {
        return;
    };
    let builder = Server::builder()
        .threads(10)
        .arg("--device-wait=0.5")
        .arg("--probe-timeout=600");
    let server = ext4.mount(builder, "dev1").start();
    server.write("dev2/file", "healthy");
    let worker = server.worker_pids()[0];
    let bytes = pattern(20_000);
    server.conn().put("/dev1/old", &bytes).expect(201, true);
    let before = facts::threads(worker);
    let frozen = Frozen::freeze(&server.seen("dev1"));
    let upload = |nr: usize| {
        let mut conn = server.conn();
        let length = bytes.len();
        conn.send(format!(
            "PUT /dev1/{nr} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n"
        ));
        let _ = conn.try_send(&bytes);
        conn
    };
    let mut uploads: Vec<Conn> = (0..30).map(upload).collect();
    eventually("half of the consumers to be held", PATIENCE, || {
        waiting_in(worker, "percpu_rwsem_wait") == 5
    });
    healthy(&server, 500);
    eventually("the others to be refused", PATIENCE, || {
        uploads.iter().filter(|conn| conn.is_silent()).count() == 5
    });
    assert_eq!(waiting_in(worker, "percpu_rwsem_wait"), 5);
    drop(frozen);
    let mut stored = 0;
    for conn in &mut uploads {
        match conn.response().status {
            201 => stored += 1,
            503 => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(stored, 5);
    eventually("threads as before", PATIENCE, || {
        healthy(&server, 4);
        facts::threads(worker) <= before
    });
    server.conn().put("/dev1/after", &bytes).expect(201, true);
    server.stop();
}

/// A server one of whose workers is inside of a frozen disk ends with 1 after this signal, and does not wait for it.
#[track_caller]
fn is_given_up(option: &str, signal: i32) {
    let Some(ext4) = Ext4::make() else {
        return;
    };
    let builder = Server::builder().arg("--probe-timeout=600").arg(option);
    let mut server = ext4.mount(builder, "dev1").start();
    let worker = server.worker_pids()[0];
    let frozen = Frozen::freeze(&server.seen("dev1"));
    let mut upload = server.conn();
    upload.send("PUT /dev1/new HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nnew");
    eventually("the upload to hang", PATIENCE, || {
        waiting_in(worker, "percpu_rwsem_wait") == 1
    });
    let start = Instant::now();
    server.signal(signal);
    let status = server.wait_exit(PATIENCE);
    eprintln!(
        "signal {signal} beside an unkillable thread: {status} after {:?}",
        start.elapsed()
    );
    assert_eq!(status.code(), Some(1));
    server.wait_log("inside of a disk that hangs", PATIENCE);
    drop(frozen);
    eventually("the worker's end once the disk is back", PATIENCE, || {
        !server.is_ours(worker)
    });
}

#[test]
fn a_master_does_not_wait_for_ever_for_what_cannot_be_killed() {
    let _alone = alone();
    is_given_up("--graceful-timeout=60", libc::SIGINT);
}

/// Nor does a graceful stop, once nothing has moved for long.
#[test]
fn a_graceful_stop_gives_up_what_cannot_be_killed() {
    let _alone = alone();
    is_given_up("--graceful-timeout=1", libc::SIGTERM);
}

/// SIGKILL does not end a process one of whose threads is inside of such a disk; its place is filled all the same.
#[test]
fn a_worker_that_cannot_be_killed_is_replaced() {
    let _alone = alone();
    let Some(ext4) = Ext4::make() else {
        return;
    };
    let builder = Server::builder().arg("--probe-timeout=600");
    let server = ext4.mount(builder, "dev1").start();
    let worker = server.worker_pids()[0];
    let frozen = Frozen::freeze(&server.seen("dev1"));
    let mut upload = server.conn();
    upload.send("PUT /dev1/new HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nnew");
    eventually("the upload to hang", PATIENCE, || {
        waiting_in(worker, "percpu_rwsem_wait") == 1
    });
    let skip = server.log().len();
    let start = Instant::now();
    super::signal(worker, libc::SIGKILL);
    server.wait_log_after(skip, "does not end by SIGKILL", PATIENCE);
    server.wait_log_after(skip, "worker 0 is ready", PATIENCE);
    eprintln!("another serves after {:?}", start.elapsed());
    let is_there = || Path::new(&format!("/proc/{worker}")).exists();
    assert!(is_there(), "it is still inside of its disk");
    server.conn().get("/").expect(200, true);
    drop(frozen);
    eventually("its end once the disk is back", PATIENCE, || !is_there());
    server.stop();
}

/// Makes the server's view of a device read-only, or writable again.
fn remount(server: &Server, how: &str) {
    let path = server.path("dev1");
    let mut command = Command::new("nsenter");
    command
        .args(["-t", &server.pid().to_string(), "-m", "mount", "-o"])
        .arg(format!("remount,{how}"))
        .arg(path);
    run(&mut command).expect("mount");
}

#[test]
fn a_read_only_device_refuses_uploads_and_serves_on() {
    if !is_root() {
        eprintln!("skipped: mounting a filesystem wants root");
        return;
    }
    let server = Server::builder()
        .mgmt("127.0.0.1:0")
        .tmpfs("dev1", "4m")
        .env("MOG_DISK_USAGE_INTERVAL", "1")
        .start();
    server
        .conn()
        .put("/dev1/file", b"content")
        .expect(201, true);
    for _ in 0..2 {
        remount(&server, "ro");
        let refused = server.conn().put("/dev1/new", b"new");
        refused.expect(503, false);
        refused.must("Retry-After");
        // the same once the probe has seen it
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            server.conn().put("/dev1/new", b"new").expect(503, false);
            let mut conn = server.conn();
            assert_eq!(conn.get("/dev1/file").expect(200, true).body, b"content");
            assert_eq!(conn.delete("/dev1/file").status, 503);
            assert_eq!(server.conn().put("/dev2/new", b"new").status, 201);
            std::thread::sleep(Duration::from_millis(50));
        }
        remount(&server, "rw");
        eventually("uploads to be taken again", PATIENCE, || {
            server.conn().put("/dev1/new", b"new").status == 201
        });
        server.conn().delete("/dev1/new").expect(204, true);
    }
    server.stop();
}

#[test]
fn a_full_device_refuses_uploads_and_serves_on() {
    if !is_root() {
        eprintln!("skipped: mounting a filesystem wants root");
        return;
    }
    let server = Server::builder()
        .mgmt("127.0.0.1:0")
        .tmpfs("dev1", "1m")
        .env("MOG_DISK_USAGE_INTERVAL", "1")
        .start();
    server
        .conn()
        .put("/dev1/file", b"content")
        .expect(201, true);
    // to the last block, behind its back
    let filler = server.seen("dev1/filler");
    let mut file = File::create(&filler).expect("create");
    while std::io::Write::write(&mut file, &[0; 4096]).is_ok() {}
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        server
            .conn()
            .put("/dev1/new", &pattern(8192))
            .expect(507, false);
        let mut conn = server.conn();
        assert_eq!(conn.get("/dev1/file").expect(200, true).body, b"content");
        assert_eq!(server.conn().put("/dev2/new", b"new").status, 201);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.read("dev1/new"), None);
    std::fs::remove_file(filler).expect("unlink");
    drop(file);
    eventually("uploads to be taken again", PATIENCE, || {
        server.conn().put("/dev1/new", &pattern(8192)).status == 201
    });
    server.stop();
}
