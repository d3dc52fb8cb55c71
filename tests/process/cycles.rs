//! The real binary, started and stopped fifty times. (`tests/cycles.rs` does it thousands of times inside one
//! process.)

use std::time::{Duration, Instant};

use super::{alone, complaints};
use crate::harness::Server;

const CYCLES: usize = 50;

#[test]
fn fifty_starts_and_stops() {
    let _alone = alone();
    let mut longest = Duration::ZERO;
    for cycle in 0..CYCLES {
        let start = Instant::now();
        let server = Server::builder().workers(1 + cycle as u32 % 3).start();
        let mut conn = server.conn();
        conn.put("/dev1/file", b"content").expect(201, true);
        for _ in 0..cycle % 4 {
            assert_eq!(
                server.conn().get("/dev1/file").expect(200, true).body,
                b"content"
            );
        }
        conn.delete("/dev1/file").expect(204, true);
        drop(conn);
        assert_eq!(server.names(), [""; 0]);
        let log = server.stop();
        assert_eq!(complaints(&log), [""; 0]);
        longest = longest.max(start.elapsed());
    }
    eprintln!("{CYCLES} cycles of start, requests and QUIT, the longest {longest:?}");
}
