//! Utilization, beside what iostat says.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{builder, leader, report, watch};
use crate::harness::{PATIENCE, SetOnDrop, eventually, wait_for};
use crate::process::{alone, facts};

/// Seconds that are compared.
const SECONDS: usize = 8;

/// Points between the two, at most.
const APART: f64 = 2.0;

/// The source of the mount that a path is on, as df sees it: `/dev/vda`.
fn source(path: &Path) -> PathBuf {
    let output = Command::new("df")
        .arg("--output=source")
        .arg(path)
        .output()
        .expect("df");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    PathBuf::from(text.lines().nth(1).expect("df").trim())
}

/// Keeps a disk busy about half of the time, always alike, until it is told to stop.
fn load(file: &Path, enough: &AtomicBool) {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open(file)
        .expect("a file");
    let block = vec![7; 64 << 10];
    for nr in 0.. {
        if enough.load(Ordering::Relaxed) {
            return;
        }
        let begun = Instant::now();
        file.write_all_at(&block, (nr % 64) << 16).expect("write");
        std::thread::sleep(begun.elapsed());
    }
}

/// The mean of `%util` of one disk over so many seconds; the first report, since the machine's start, is left out.
fn iostat(disk: &str, seconds: usize) -> f64 {
    let mut child = Command::new("iostat")
        .args(["-dx", "1", &(seconds + 1).to_string()])
        .env("LC_ALL", "C")
        .stdout(Stdio::piped())
        .spawn()
        .expect("iostat");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let utils: Vec<f64> = output
        .lines()
        .map_while(Result::ok)
        .filter(|line| line.split_whitespace().next() == Some(disk))
        .map(|line| {
            line.split_whitespace()
                .next_back()
                .expect("a column")
                .parse()
                .expect("%util")
        })
        .collect();
    child.wait().expect("iostat");
    assert_eq!(utils.len(), seconds + 1);
    utils[1..].iter().sum::<f64>() / seconds as f64
}

#[test]
fn as_iostat_says_it() {
    let _alone = alone();
    // where the build is, there is a disk
    let root = tempfile::Builder::new()
        .prefix("docroot-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a folder");
    fs::create_dir(root.path().join("dev1")).unwrap();
    let source = source(root.path());
    let disk = source.file_name().expect("a name").to_str().expect("ASCII");
    let is_whole = Path::new("/sys/block").join(disk).exists();
    if !source.starts_with("/dev")
        || !is_whole
        || Command::new("iostat").arg("-V").output().is_err()
    {
        eprintln!(
            "skipped: {} is no whole disk, or there is no iostat",
            source.display()
        );
        return;
    }
    let server = builder().docroot(root.path()).start();
    let mut conn = watch(&server);
    let enough = AtomicBool::new(false);
    let (ours, theirs) = std::thread::scope(|scope| {
        let _stop = SetOnDrop(&enough);
        scope.spawn(|| load(&root.path().join("dev1/load"), &enough));
        // until it is running evenly
        report(&mut conn);
        report(&mut conn);
        let theirs = scope.spawn(|| iostat(disk, SECONDS));
        let mut sum = 0.0;
        for _ in 0..SECONDS {
            let lines = report(&mut conn);
            let [(device, util)] = &lines[..] else {
                panic!("one device: {lines:?}");
            };
            assert_eq!(device, "1");
            let (_, decimals) = util.split_once('.').expect(util);
            assert_eq!(decimals.len(), 2, "{util}");
            sum += util.parse::<f64>().expect(util);
        }
        (sum / SECONDS as f64, theirs.join().expect("iostat"))
    });
    eprintln!("{disk}: we say {ours:.2}, iostat says {theirs:.2}");
    assert!(theirs > 1.0, "the disk was idle: {theirs}");
    assert!((ours - theirs).abs() <= APART, "{ours} and {theirs}");
}

/// A script in place of iostat: its words are prefixes of the disks' names, the longest counts, and its last
/// column is told verbatim.
#[test]
fn the_operators_own_command() {
    let folder = tempfile::tempdir().unwrap();
    let docroot = crate::harness::server::own_docroot();
    let source = source(docroot.path());
    let Some(disk) = source
        .to_str()
        .and_then(|source| source.strip_prefix("/dev/"))
    else {
        eprintln!("skipped: {} is no disk", source.display());
        return;
    };
    let (short, script) = (&disk[..1], folder.path().join("my iostat"));
    let text = format!(
        "#!/bin/sh\nread x && exit 9\nwhile echo 'Device r/s %util'; do\n\
         printf '{short} 1.00 99.00\\n{disk} 1 7.125\\nnonesuch 1.00 50.00\\n\\n'; sleep 0.1\ndone\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let command = format!("'{}'", script.display());
    let server = builder()
        .docroot(docroot.path())
        .env("MOG_IOSTAT_CMD", &command)
        .workers(2)
        .start();
    let mut conn = watch(&server);
    let wanted = ["1", "2"].map(|id| (id.to_owned(), "7.125".to_owned()));
    for _ in 0..5 {
        assert_eq!(report(&mut conn), wanted);
    }
    // the command goes when the office does
    let led = leader(&server, PATIENCE);
    let child = wait_for("the command", PATIENCE, || facts_of_command(led));
    let slot = server
        .worker_pids()
        .iter()
        .position(|pid| *pid == led)
        .unwrap();
    crate::process::signal(led, libc::SIGQUIT);
    eventually("the command's end", PATIENCE, || {
        !Path::new(&format!("/proc/{child}")).exists()
    });
    drop(conn);
    let next = wait_for("another leader", PATIENCE, || {
        Some(leader(&server, PATIENCE)).filter(|pid| *pid != led)
    });
    assert_ne!(
        server.worker_pids().iter().position(|pid| *pid == next),
        Some(slot)
    );
    assert_eq!(report(&mut watch(&server)), wanted);
}

/// The process that this worker's iostat thread has started.
fn facts_of_command(worker: i32) -> Option<i32> {
    let tasks = fs::read_dir(format!("/proc/{worker}/task")).ok()?;
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .find_map(|list| list.split_whitespace().next()?.parse().ok())
}

/// A command that fails is told of, and asked again; without one there is nothing to watch.
#[test]
fn no_utilization() {
    let server = builder().env("MOG_IOSTAT_CMD", "sh -c 'exit 3'").start();
    let line = server.wait_log("MOG_IOSTAT_CMD", PATIENCE);
    assert!(
        line.contains("exit status: 3") && line.contains("10s"),
        "{line}"
    );
    assert!(facts::children(server.pid()).len() == 1);
    let server = builder().arg("--iostat=0").start();
    let mut conn = crate::harness::Conn::connect(server.mgmt_addr());
    conn.send("watch\n");
    let wanted = b"ERR iostat unavailable\r\n";
    assert_eq!(conn.read_exactly(wanted.len()), wanted);
    let _ = std::io::stderr().flush();
}

/// Reports come once a second, also when another has been elected.
#[test]
fn once_a_second() {
    let server = builder().workers(3).start();
    let survivor = |led| server.worker_pids().into_iter().find(|pid| *pid != led);
    let led = leader(&server, PATIENCE);
    let mut conn = wait_for("a connection of another worker's", PATIENCE, || {
        let conn = crate::harness::Conn::connect(server.mgmt_addr());
        (facts::owner(server.pid(), &conn)? != led).then_some(conn)
    });
    assert!(survivor(led).is_some());
    conn.send("watch\n");
    report(&mut conn);
    let begun = Instant::now();
    (0..3).for_each(|_| drop(report(&mut conn)));
    let three = begun.elapsed();
    let around = Duration::from_millis(2500)..Duration::from_millis(4500);
    assert!(around.contains(&three), "{three:?}");
    crate::process::signal(led, libc::SIGKILL);
    for _ in 0..2 {
        report(&mut conn);
    }
}
