//! Older kernels and poorer filesystems: the same answers by other calls.

use std::os::unix::fs::symlink;

use super::{facts, signal};
use crate::harness::sandbox::Missing;
use crate::harness::server::own_docroot;
use crate::harness::{PATIENCE, Server, eventually, pattern};

/// A server that finds all of these missing, with a symlinked device and symlinks that lead out.
fn server_without(missing: &[Missing]) -> (Server, tempfile::TempDir) {
    let elsewhere = own_docroot();
    std::fs::write(elsewhere.path().join("secret"), "secret").unwrap();
    let mut builder = Server::builder();
    for missing in missing {
        builder = builder.without(*missing);
    }
    let server = builder.start();
    symlink(elsewhere.path().join("dev1"), server.path("dev9")).unwrap();
    symlink(elsewhere.path(), server.path("dev1/out")).unwrap();
    symlink("../../secret", server.path("dev1/up")).unwrap();
    symlink(
        elsewhere.path().join("secret"),
        elsewhere.path().join("dev1/leak"),
    )
    .unwrap();
    (server, elsewhere)
}

fn everything_is_stored_and_deleted(server: &Server, device: &str) {
    let mut conn = server.conn();
    let (one, two) = (pattern(100_000), pattern(70_000));
    let target = format!("/{device}/a/b/file");
    conn.get(&target).expect(404, true);
    conn.put(&target, &one).expect(201, true);
    assert_eq!(conn.get(&target).expect(200, true).body, one);
    conn.put(&target, &two).expect(201, true);
    assert_eq!(conn.get(&target).expect(200, true).body, two);
    let piece = [("Content-Range", "bytes 4-6/*")];
    conn.request("PUT", &target, &piece, b"xyz")
        .expect(201, true);
    let ranged = conn.get_with(&target, &[("Range", "bytes=3-7")]);
    assert_eq!(&ranged.expect(206, true).body[1..4], b"xyz");
    conn.delete(&target).expect(204, true);
    conn.get(&target).expect(404, true);
    conn.get(&format!("/{device}/a/b")).expect(403, true);
}

fn nothing_leads_out(server: &Server) {
    let mut conn = server.conn();
    for target in ["/dev1/out/secret", "/dev1/up", "/dev9/leak"] {
        conn.get(target).expect(403, true);
    }
    for target in ["/dev1/out/new", "/dev1/out/dev1/new"] {
        let mut conn = server.conn();
        conn.put(target, b"x").expect(403, false);
        server.conn().delete("/dev1/out/secret").expect(403, true);
    }
}

#[test]
fn without_openat2_paths_are_walked() {
    let (server, elsewhere) = server_without(&[Missing::Openat2]);
    everything_is_stored_and_deleted(&server, "dev1");
    everything_is_stored_and_deleted(&server, "dev9");
    nothing_leads_out(&server);
    assert_eq!(
        std::fs::read(elsewhere.path().join("secret")).unwrap(),
        b"secret"
    );
    assert!(!elsewhere.path().join("new").exists());
    let said = server
        .log()
        .iter()
        .filter(|line| line.contains("openat2"))
        .count();
    assert_eq!(said, 1, "said once: {:#?}", server.log());
}

#[test]
fn without_unnamed_files_uploads_are_as_invisible() {
    let (server, _elsewhere) = server_without(&[Missing::UnnamedFiles]);
    everything_is_stored_and_deleted(&server, "dev1");
    everything_is_stored_and_deleted(&server, "dev9");
    nothing_leads_out(&server);
    server.write("dev2/old", "old");
    let mut half = server.conn();
    half.send("PUT /dev2/old HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhalf");
    eventually("the temporary name", PATIENCE, || {
        server
            .names()
            .iter()
            .any(|name| name.starts_with("dev2/.rmogstored-tmp/"))
    });
    let mut conn = server.conn();
    assert_eq!(conn.get("/dev2/old").expect(200, true).body, b"old");
    half.reset();
    eventually("the temporary name to go", PATIENCE, || {
        server
            .names()
            .iter()
            .all(|name| !name.contains(".rmogstored-tmp/"))
    });
    assert_eq!(conn.get("/dev2/old").expect(200, true).body, b"old");
}

/// Here a kill leaves names behind, and the next start removes them: those of the dead alone.
#[test]
fn without_unnamed_files_the_next_worker_sweeps() {
    let server = Server::builder()
        .workers(2)
        .without(Missing::UnnamedFiles)
        .start();
    server.write("dev1/old", "old");
    let [victim, other] = server.worker_pids()[..] else {
        panic!("two workers");
    };
    // half uploads, at both workers
    let mut halves: Vec<_> = (0..12)
        .map(|nr| {
            let mut conn = server.conn();
            // neither of the two owns every upload of the old file
            let target = if nr % 3 == 0 {
                "old".to_owned()
            } else {
                format!("new-{nr}")
            };
            conn.send(format!(
                "PUT /dev1/{target} HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhalf"
            ));
            conn.settle();
            let owner = facts::owner(server.pid(), &conn).expect("a worker");
            (conn, owner)
        })
        .collect();
    let temporary = || -> Vec<String> {
        let all = server.names().into_iter();
        all.filter(|name| name.contains(".rmogstored-tmp/"))
            .collect()
    };
    // what a worker has read it has not written yet, for a moment
    eventually("a name for each", PATIENCE, || {
        temporary().len() == halves.len()
    });
    let skip = server.log().len();
    signal(victim, libc::SIGKILL);
    server.wait_log_after(skip, "worker 0 is ready", PATIENCE);
    let survivors = halves.iter().filter(|(_, owner)| *owner == other).count();
    assert!(survivors > 0 && survivors < halves.len());
    // the sweep follows the start, in a thread of its own
    eventually("the dead one's names to go", PATIENCE, || {
        temporary().len() == survivors
    });
    for (conn, _) in halves.iter_mut().filter(|(_, owner)| *owner == other) {
        conn.send("-done!");
        conn.response().expect(201, true);
    }
    assert_eq!(temporary(), [""; 0]);
    assert_eq!(server.read("dev1/old").unwrap(), b"half-done!");
    let half = server.names().iter().all(|name| {
        let bytes = server.read(name).expect("a file");
        bytes == b"half-done!"
    });
    assert!(half, "{:?}", server.names());
}

#[test]
fn without_fallocate_and_close_range_it_serves() {
    let (server, _elsewhere) = server_without(&[Missing::Fallocate, Missing::CloseRange]);
    everything_is_stored_and_deleted(&server, "dev1");
    let mut conn = server.conn();
    conn.send(
        "PUT /dev1/x HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    );
    conn.expect_continue();
    conn.send("hello");
    conn.response().expect(201, true);
    let worker = server.worker_pids()[0];
    // its twelve and this client: what the master had open besides was closed without close_range too
    eventually("the worker to hold its own alone", PATIENCE, || {
        facts::descriptors(worker).len() <= 13
    });
}

#[test]
fn without_any_of_them_it_serves_a_symlinked_device() {
    let all = [
        Missing::Openat2,
        Missing::UnnamedFiles,
        Missing::Fallocate,
        Missing::CloseRange,
    ];
    let (server, _elsewhere) = server_without(&all);
    everything_is_stored_and_deleted(&server, "dev9");
    nothing_leads_out(&server);
}
