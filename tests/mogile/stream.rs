//! What the tracker's monitor does with `watch`: one stream a host, from which it learns how busy each disk is.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Host, cluster};
use crate::harness::Conn;

/// The tracker's end of a stream: it splits what comes at `^.\n`.
struct Stream {
    conn: Conn,
}

impl Stream {
    #[track_caller]
    fn open(host: &Host) -> Stream {
        let mut conn = Conn::connect(host.server.mgmt_addr());
        conn.send("watch\n");
        Stream { conn }
    }

    /// The next report: `DEVID blanks UTIL`.
    #[track_caller]
    fn report(&mut self) -> BTreeMap<u32, String> {
        let mut report = BTreeMap::new();
        loop {
            let line = self.conn.try_line().expect("a report");
            if line == ".\n" {
                return report;
            }
            assert!(!line.contains('\r'), "reports end in LF alone: {line:?}");
            let mut words = line.split_whitespace();
            let id = words.next().expect("a device").parse().expect("a number");
            let util = words.next().expect("a utilization").to_owned();
            assert_eq!(words.next(), None, "{line:?}");
            assert_eq!(line, format!("{id}\t{util}\n"));
            assert!(util.len() <= 7, "{line:?}");
            assert_eq!(report.insert(id, util), None, "{line:?}");
        }
    }
}

#[track_caller]
fn expect_report(host: &Host, report: &BTreeMap<u32, String>) {
    assert!(report.keys().eq(&host.devices), "{report:?}");
    for util in report.values().filter(|util| *util != "-") {
        let busy: f64 = util.parse().expect("a number");
        assert!((0.0..=110.0).contains(&busy), "{report:?}");
    }
}

#[test]
fn each_host_reports_its_own_devices_every_second() {
    let hosts = cluster();
    std::thread::scope(|scope| {
        for host in &hosts {
            scope.spawn(move || {
                let mut stream = Stream::open(host);
                stream.report();
                let began = Instant::now();
                for _ in 0..3 {
                    expect_report(host, &stream.report());
                }
                let took = began.elapsed().as_secs_f64();
                assert!((1.0..6.0).contains(&took), "three reports in {took} s");
            });
        }
    });
    for host in hosts {
        host.server.stop();
    }
}

#[test]
fn a_stopping_host_ends_its_streams() {
    let host = Host::start([1, 2], |builder| builder);
    let mut streams: Vec<Stream> = (0..5).map(|_| Stream::open(&host)).collect();
    for stream in &mut streams {
        stream.report();
    }
    let server = host.server;
    server.stop();
    for mut stream in streams {
        stream.conn.drain().expect("the end");
    }
}
