//! Each row of the table of commands, and each spelling that is none of them.

use super::{ask, builder, dial, expect_open, sum};
use crate::harness::{Server, pattern};

#[test]
fn size() {
    let server = builder().start();
    server.write("dev1/a", "hello");
    server.write("dev1/empty", "");
    let mut conn = dial(&server);
    for end in ["\r\n", "\n"] {
        for (path, size) in [
            ("/dev1/a", 5),
            ("/dev1/empty", 0),
            ("/dev1/none", -1),
            ("/dev9/none", -1),
            // below a file there is nothing
            ("/dev1/a/b", -1),
            ("/dev1/a/", -1),
        ] {
            ask(
                &mut conn,
                format!("size {path}{end}"),
                format!("{path} {size}\r\n"),
            );
        }
    }
    for directory in ["dev1", ""] {
        let len = std::fs::metadata(server.path(directory))
            .expect("stat")
            .len();
        ask(
            &mut conn,
            format!("size /{directory}\r\n"),
            format!("/{directory} {len}\r\n"),
        );
    }
}

/// A file that nobody may open has a size.
#[test]
fn size_needs_no_permission_on_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let root = crate::harness::server::own_docroot();
    let path = root.path().join("dev1/a");
    std::fs::write(&path, "hello").expect("write");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).expect("chmod");
    let server = builder().unprivileged().docroot(root.path()).start();
    let mut conn = dial(&server);
    ask(&mut conn, "size /dev1/a\r\n", "/dev1/a 5\r\n");
    ask(&mut conn, "MD5 /dev1/a\r\n", "/dev1/a MD5=-1\r\n");
    ask(&mut conn, "SHA-1 /dev1/a fsck\r\n", "/dev1/a SHA-1=-1\r\n");
}

#[test]
fn digests() {
    let server = builder().start();
    let mut conn = dial(&server);
    for (name, len) in [
        ("empty", 0),
        ("a", 5),
        ("block", 128 * 1024),
        ("slice", 8 * 1024 * 1024),
        ("big", 20_000_001),
    ] {
        let path = server.write(&format!("dev1/{name}"), pattern(len));
        for (command, tool) in [("MD5", "md5sum"), ("SHA-1", "sha1sum")] {
            let reply = format!("/dev1/{name} {command}={}\r\n", sum(tool, &path));
            for reason in ["", " fsck", " create_close", " _9", " FSCK"] {
                for end in ["\r\n", "\n"] {
                    ask(
                        &mut conn,
                        format!("{command} /dev1/{name}{reason}{end}"),
                        &reply,
                    );
                }
            }
        }
    }
}

#[test]
fn digests_of_what_cannot_be_opened_or_read() {
    let server = builder().start();
    let mut conn = dial(&server);
    for reason in ["", " fsck"] {
        for command in ["MD5", "SHA-1"] {
            ask(
                &mut conn,
                format!("{command} /dev1/none{reason}\r\n"),
                format!("/dev1/none {command}=-1\r\n"),
            );
            // a directory can be opened, but not read
            for directory in ["/dev1", "/"] {
                ask(
                    &mut conn,
                    format!("{command} {directory}{reason}\r\n"),
                    format!("ERR read {directory} at 0 failed\r\n"),
                );
            }
        }
    }
    expect_open(&mut conn);
}

#[test]
fn blank_lines() {
    let server = builder().start();
    let mut conn = dial(&server);
    for line in ["\r\n", "\n", " \r\n", "   \n", "\t \r\n"] {
        ask(&mut conn, line, "\r\n");
    }
    expect_open(&mut conn);
}

#[test]
fn what_is_unknown() {
    let server = builder().start();
    server.write("dev1/a", "hello");
    let mut conn = dial(&server);
    for (line, word) in [
        ("size", "size"),
        ("size ", "size"),
        ("size bad", "size"),
        ("size /a b", "size"),
        ("size  /dev1/a", "size"),
        (" size /dev1/a", "size"),
        ("size /dev1/a ", "size"),
        ("size\t/dev1/a", "size"),
        ("size /dev1/a\tb", "size"),
        ("size /dev1/a\u{7f}", "size"),
        ("size /dev1/%zz", "size"),
        ("size /dev1/%00", "size"),
        ("size /dev1/%0a", "size"),
        ("size dev1/a", "size"),
        ("size /.rmogstored-run/health.lock", "size"),
        ("size /dev1/.rmogstored-tmp/a", "size"),
        ("SIZE /dev1/a", "SIZE"),
        ("md5 /dev1/a", "md5"),
        ("MD5", "MD5"),
        ("MD5 /dev1/a ", "MD5"),
        ("MD5 /dev1/a  fsck", "MD5"),
        ("MD5 /dev1/a fsck ", "MD5"),
        ("MD5 /dev1/a fsck now", "MD5"),
        ("MD5 /dev1/a fs-ck", "MD5"),
        ("MD5  /dev1/a", "MD5"),
        ("SHA1 /dev1/a", "SHA1"),
        ("sha-1 /dev1/a", "sha-1"),
        ("SHA-256 /dev1/a", "SHA-256"),
        ("WATCH", "WATCH"),
        ("watch ", "watch"),
        ("watch now", "watch"),
        (" watch", "watch"),
        ("Shutdown", "Shutdown"),
        ("shutdown ", "shutdown"),
        ("shutdown now", "shutdown"),
        ("server", "server"),
        ("server aio_threads", "server"),
        ("server aio_threads 5", "server"),
        ("server aio = 5", "server"),
        ("GET / HTTP/1.0", "GET"),
        ("é ü", "é"),
    ] {
        for end in ["\r\n", "\n"] {
            ask(
                &mut conn,
                format!("{line}{end}"),
                format!("ERROR: unknown command: {word}\r\n"),
            );
        }
    }
    expect_open(&mut conn);
}

/// How many consumers each worker has.
#[cfg(target_os = "linux")]
fn consumers(server: &Server) -> Vec<usize> {
    let count = |pid: i32| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
        tasks
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
            .filter(|name| name.starts_with("con:"))
            .count()
    };
    server.worker_pids().into_iter().map(count).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn aio_threads() {
    use crate::harness::{PATIENCE, eventually};
    let server = builder().workers(2).threads(20).start();
    let mut conn = dial(&server);
    // a thread gives itself its name, after it was made
    eventually("ten consumers each", PATIENCE, || {
        consumers(&server) == [10, 10]
    });
    let becomes = |each: usize| {
        eventually("another number of consumers", PATIENCE, || {
            // who is one too many leaves when it has served somebody
            expect_open(&mut dial(&server));
            consumers(&server) == [each, each]
        });
    };
    for (spelling, each) in [
        ("server aio_threads = 30", 15),
        ("server aio_threads=14", 7),
        ("SERVER Aio_Threads =100", 50),
        ("server aio_threads = 4", 2),
    ] {
        ask(&mut conn, format!("{spelling}\r\n"), "\r\n");
        becomes(each);
    }
    for ignored in [
        "0",
        "101",
        "-1",
        "+8",
        "8x",
        "x",
        "",
        "99999999999999999999",
    ] {
        ask(
            &mut conn,
            format!("server aio_threads = {ignored}\nserver aio_threads={ignored}\r\n"),
            "\r\n\r\n",
        );
    }
    // what the numbers before it have done can be seen in the log
    ask(&mut conn, "server aio_threads = 6\n", "\r\n");
    becomes(3);
    let changes = || {
        let log = server.log();
        let tells = |line: &&String| line.contains(" consumers instead of ");
        log.iter().filter(tells).count()
    };
    eventually("five changes a worker", PATIENCE, || changes() >= 2 * 5);
    assert_eq!(changes(), 2 * 5, "{:#?}", server.log());
}
