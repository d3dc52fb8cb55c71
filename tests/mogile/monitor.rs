//! The monitor's round, which decides who takes files; and mogadm's check.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Instant, SystemTime};

use super::agent::Agent;
use super::{Host, TRACKER_PATIENCE, cluster};
use crate::harness::{PATIENCE, wait_for};

/// What the monitor keeps of a device.
#[derive(Debug, PartialEq)]
struct Observed {
    is_writeable: bool,
    rejects_bad_md5: bool,
    mb_used: u64,
    mb_total: u64,
}

/// `key: value`, as the tracker splits it: any blanks.
fn usage_of(body: &[u8]) -> BTreeMap<String, String> {
    let text = std::str::from_utf8(body).expect("ASCII");
    let pair = |line: &str| {
        let (key, value) = line.split_once(':').expect("key: value");
        (key.trim().to_owned(), value.trim().to_owned())
    };
    text.lines().map(pair).collect()
}

/// The digest of something else than `.`.
const WRONG_MD5: (&str, &str) = ("Content-MD5", "kDPg4wXyR8DDyA0MeEjIsw==");

struct Monitor {
    agent: Agent,
    /// A host's first refusal of MKCOL: it is not asked again.
    wants_mkcol: bool,
    round: u64,
}

impl Monitor {
    #[track_caller]
    fn look(&mut self, host: &Host, device: u32) -> Observed {
        let addr = host.server.addr();
        let agent = &mut self.agent;
        let start = Instant::now();
        let page = agent.ask(addr, "GET", &format!("/dev{device}/usage"), &[], b"");
        let usage = usage_of(&page.expect(200, true).body);
        let number = |key: &str| usage[key].parse::<u64>().expect("a number");
        let (mb_used, mb_total) = (number("used") / 1024, number("total") / 1024);
        assert!(number("used") > 0 && number("total") > 0, "{usage:?}");
        let folder = format!("/dev{device}/test-write");
        if self.wants_mkcol {
            let reply = agent.ask(addr, "MKCOL", &format!("{folder}/"), &[], b"");
            assert!(
                matches!(reply.status, 200..=299 | 400 | 501),
                "{}",
                reply.status
            );
            self.wants_mkcol = !matches!(reply.status, 400 | 501);
        }
        self.round += 1;
        let seconds = SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
        let content = format!("time={seconds} rand={}", self.round);
        let path = format!("{folder}/test-write-{}", self.round % 100);
        let put = agent.ask(addr, "PUT", &path, &[], content.as_bytes());
        let get = agent.ask(addr, "GET", &path, &[], b"");
        let is_writeable = put.status / 100 == 2 && get.status == 200;
        let is_same = get.body == content.as_bytes();
        let path = format!("{folder}/test-md5");
        let bad = agent.ask(addr, "PUT", &path, &[WRONG_MD5], b".");
        assert!(start.elapsed() < TRACKER_PATIENCE, "{:?}", start.elapsed());
        Observed {
            is_writeable: is_writeable && is_same,
            rejects_bad_md5: bad.status / 100 != 2,
            mb_used,
            mb_total,
        }
    }
}

#[test]
fn the_monitor_finds_four_writeable_devices_that_check_digests() {
    let hosts = cluster();
    let mut monitor = Monitor {
        agent: Agent::default(),
        wants_mkcol: true,
        round: 0,
    };
    for round in 0..5 {
        for host in &hosts {
            for device in host.devices {
                let seen = monitor.look(host, device);
                assert!(
                    seen.is_writeable && seen.rejects_bad_md5,
                    "{round}: {seen:?}"
                );
                assert!(seen.mb_used <= seen.mb_total, "{seen:?}");
                assert!(!monitor.wants_mkcol, "400 ends the MKCOLs");
            }
        }
    }
    // twenty rounds of four or five requests over one connection a host
    assert_eq!(monitor.agent.retries, 0);
    for host in &hosts {
        assert_eq!(monitor.agent.kept(host.server.addr()).len(), 1);
        for device in host.devices {
            let folder = host.file(&format!("dev{device}/test-write"));
            let mut names: Vec<_> = fs::read_dir(folder)
                .expect("readdir")
                .map(|entry| entry.expect("readdir").file_name())
                .collect();
            names.sort();
            assert_eq!(names.len(), 5, "{names:?}");
            assert!(names.iter().all(|name| name != "test-md5"), "{names:?}");
        }
    }
    for host in hosts {
        host.server.stop();
    }
}

/// A device that the operator has taken away is seen as such, and the other goes on.
#[test]
fn the_monitor_misses_a_device_and_finds_it_again() {
    let host = Host::start([1, 2], |builder| {
        builder.env("MOG_DISK_USAGE_INTERVAL", "1")
    });
    let mut monitor = Monitor {
        agent: Agent::default(),
        wants_mkcol: true,
        round: 0,
    };
    assert!(monitor.look(&host, 2).is_writeable);
    let (here, away) = (host.file("dev2"), host.file("away"));
    fs::rename(&here, &away).expect("rename");
    let addr = host.server.addr();
    let agent = &mut monitor.agent;
    agent
        .ask(addr, "GET", "/dev2/usage", &[], b"")
        .expect(404, true);
    let put = agent.ask(addr, "PUT", "/dev2/test-write/test-write-1", &[], b"x");
    put.expect(404, false);
    assert!(!here.exists(), "a missing device is never made");
    assert!(monitor.look(&host, 1).is_writeable);
    fs::rename(&away, &here).expect("rename");
    assert!(monitor.look(&host, 2).is_writeable);
    // a device that comes into being while the server runs
    fs::create_dir(host.file("dev77")).expect("mkdir");
    wait_for("the new device's usage", PATIENCE, || {
        let page = monitor.agent.ask(addr, "GET", "/dev77/usage", &[], b"");
        (page.status == 200).then_some(())
    });
    assert!(monitor.look(&host, 77).is_writeable);
    host.server.stop();
}

/// `mogadm check`: LWP, a connection per request, and a double slash.
#[test]
fn mogadm_check_gets_its_two_pages() {
    for host in cluster() {
        let headers = [
            ("TE", "deflate,gzip;q=0.3"),
            ("Connection", "TE, close"),
            ("User-Agent", "libwww-perl/6.67"),
        ];
        let mut conn = host.server.conn();
        let page = conn.get_with("/", &headers);
        assert!(page.expect(200, false).body.is_empty());
        conn.expect_eof();
        for device in host.devices {
            let mut conn = host.server.conn();
            let page = conn.get_with(&format!("//dev{device}/usage"), &headers);
            let usage = usage_of(&page.expect(200, false).body);
            conn.expect_eof();
            for key in ["available", "total", "used", "time"] {
                usage[key].parse::<u64>().expect("a number");
            }
            let time: u64 = usage["time"].parse().expect("a number");
            let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
            assert!(now.abs_diff(time) < 30, "{usage:?}");
            assert!(
                usage["disk"].ends_with(&format!("/dev{device}")),
                "{usage:?}"
            );
            assert!(!usage["device"].is_empty(), "{usage:?}");
            let percent = usage["use"].strip_suffix('%').expect("percent");
            assert!(
                percent.parse::<u32>().expect("a number") <= 100,
                "{usage:?}"
            );
        }
        host.server.stop();
    }
}
