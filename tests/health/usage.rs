//! The usage file, byte by byte.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::{builder, watch};
use crate::harness::sandbox::Missing;
use crate::harness::{PATIENCE, Server, eventually};

/// A docroot on a filesystem on which nobody else writes: its numbers stand still.
fn quiet_docroot() -> TempDir {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() {
        tempfile::Builder::new()
            .prefix("rmogstored-test-")
            .tempdir_in(shm)
    } else {
        tempfile::tempdir()
    };
    let dir = dir.expect("a temporary folder");
    for device in ["dev1", "dev2"] {
        fs::create_dir(dir.path().join(device)).expect("mkdir");
    }
    dir
}

/// The lines of a usage file: all keys, in order, each once.
#[track_caller]
fn parse(text: &str) -> BTreeMap<&str, &str> {
    assert!(text.ends_with('\n'), "{text:?}");
    let lines: Vec<_> = text
        .strip_suffix('\n')
        .expect("an end")
        .split('\n')
        .map(|line| line.split_once(": ").expect(line))
        .collect();
    let keys: Vec<_> = lines.iter().map(|(key, _)| *key).collect();
    let wanted = [
        "available",
        "device",
        "disk",
        "time",
        "total",
        "use",
        "used",
    ];
    assert_eq!(keys, wanted, "{text:?}");
    lines.into_iter().collect()
}

fn usage(server: &Server, device: &str) -> Option<String> {
    let text = server.read(&format!("{device}/usage"))?;
    Some(String::from_utf8(text).expect("ASCII"))
}

/// source, used, available and percent, as `df -k` says them.
fn df(path: &Path) -> [String; 4] {
    let output = Command::new("df")
        .args(["-k", "--output=source,used,avail,pcent"])
        .arg(path)
        .output()
        .expect("df");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().nth(1).unwrap_or_else(|| panic!("df: {text}"));
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    words
        .try_into()
        .unwrap_or_else(|words| panic!("df: {words:?}"))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// It is there before the server says that it is ready, with df's numbers.
#[test]
fn its_form_and_its_numbers() {
    let root = quiet_docroot();
    fs::write(root.path().join("dev1/file"), vec![1; 5 << 20]).unwrap();
    let link = root.path().with_extension("link");
    symlink(root.path(), &link).unwrap();
    let started = now();
    let server = builder().docroot(&link).umask(0o027).workers(2).start();
    for device in ["dev1", "dev2"] {
        let path = root.path().join(device);
        let text = fs::read_to_string(path.join("usage")).expect("a usage file at start");
        let lines = parse(&text);
        // canonical, whatever the docroot was called
        assert_eq!(Path::new(lines["disk"]), path.canonicalize().unwrap());
        let time: u64 = lines["time"].parse().unwrap();
        assert!((started..=now()).contains(&time), "{text}");
        let number = |key: &str| lines[key].parse::<u64>().expect(key);
        assert_eq!(
            number("total"),
            number("used") + number("available"),
            "{text}"
        );
        assert!(number("used") >= 5 << 10, "{text}");
        let mode = fs::metadata(path.join("usage"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o640);
    }
    server.stop();
    fs::remove_file(&link).unwrap();
}

#[test]
fn it_says_what_df_says() {
    let root = quiet_docroot();
    let server = builder()
        .docroot(root.path())
        .env("MOG_DISK_USAGE_INTERVAL", "0.1")
        .start();
    for size in [1 << 20, 9 << 20] {
        server.write("dev1/file", vec![1; size]);
        // between two runs of df that say the same
        let mut seen = String::new();
        eventually("df's numbers", PATIENCE, || {
            let before = df(&server.path("dev1"));
            seen = usage(&server, "dev1").expect("a usage file");
            let lines = parse(&seen);
            let said = ["device", "used", "available", "use"].map(|key| lines[key].to_owned());
            said == before && before == df(&server.path("dev1"))
        });
        let used: u64 = parse(&seen)["used"].parse().unwrap();
        assert!(used >= size as u64 / 1024, "{seen}");
    }
    let left: Vec<String> = server.names();
    assert_eq!(
        left.iter().filter(|name| name.contains("usage.")).count(),
        0,
        "{left:?}"
    );
}

/// Every interval, and at once when somebody begins to watch: then new devices get one too, and old ones lose
/// their line.
#[test]
fn it_is_refreshed() {
    let server = builder().env("MOG_DISK_USAGE_INTERVAL", "1").start();
    for _ in 0..2 {
        fs::remove_file(server.path("dev1/usage")).unwrap();
        eventually("a new usage file", PATIENCE, || {
            usage(&server, "dev1").is_some()
        });
    }
    let server = builder().env("MOG_DISK_USAGE_INTERVAL", "3600").start();
    fs::remove_file(server.path("dev2/usage")).unwrap();
    fs::remove_dir_all(server.path("dev1")).unwrap();
    for name in ["dev7", "dev16777216", "disk"] {
        fs::create_dir(server.path(name)).unwrap();
    }
    let mut conn = watch(&server);
    eventually("the usage file of an old device", PATIENCE, || {
        usage(&server, "dev2").is_some()
    });
    eventually("the usage file of a new device", PATIENCE, || {
        usage(&server, "dev7").is_some()
    });
    eventually("a report of the new devices", PATIENCE, || {
        let devices: Vec<_> = super::report(&mut conn)
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        devices == ["2", "7"]
    });
    // those are no devices of MogileFS
    assert_eq!(usage(&server, "dev16777216"), None);
    assert_eq!(usage(&server, "disk"), None);
}

#[test]
fn only_trackers_want_it() {
    // without these a probe leaves its folder: where that is, a round has been
    let server = Server::builder()
        .without(Missing::UnnamedFiles)
        .env("MOG_DISK_USAGE_INTERVAL", "0.1")
        .start();
    let probed = server.path("dev1/.rmogstored-tmp");
    let changed = || {
        fs::metadata(&probed)
            .and_then(|facts| facts.modified())
            .ok()
    };
    for _ in 0..3 {
        let before = changed();
        eventually("a probe", PATIENCE, || changed() > before);
    }
    let names = server.names();
    assert!(
        !names.iter().any(|name| name.contains("usage")),
        "{names:?}"
    );
    // and nothing is wrong with its device
    let log = server.stop();
    assert!(!log.iter().any(|line| line.contains("device ")), "{log:#?}");
}

/// What a dead process of the same number left is in nobody's way.
#[test]
fn stale_ones_do_not_matter() {
    let server = builder().env("MOG_DISK_USAGE_INTERVAL", "0.1").start();
    let stale = format!("dev1/usage.{:x}", server.worker_pids()[0]);
    server.write("dev1/usage.1", "stale");
    for _ in 0..3 {
        server.write(&stale, "stale");
        fs::remove_file(server.path("dev1/usage")).unwrap();
        eventually("a new usage file", PATIENCE, || {
            usage(&server, "dev1").is_some()
        });
    }
    let text = usage(&server, "dev1").unwrap();
    parse(&text);
    assert_eq!(server.read("dev1/usage.1").unwrap(), b"stale");
}
