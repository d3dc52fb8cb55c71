//! Paths: what they may contain, how they are echoed, and what no path leads to.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::{ask, builder, dial, expect_open, sum};

const REFUSED: &str = "ERROR: uri invalid (contains ..)\r\n";

#[test]
fn dot_dot() {
    let server = builder().start();
    server.write("dev1/a", "hello");
    let mut conn = dial(&server);
    for path in [
        "/..",
        "/../etc/passwd",
        "/dev1/../a",
        "/dev1/..",
        "/dev1/%2e%2e/a",
        "/dev1/.%2E",
        "/%2e%2e%2fetc",
        "//../a",
    ] {
        ask(&mut conn, format!("size {path}\r\n"), REFUSED);
        ask(&mut conn, format!("MD5 {path}\n"), REFUSED);
        ask(&mut conn, format!("SHA-1 {path} fsck\r\n"), REFUSED);
    }
    // a segment that is longer than any name
    let long = format!("size /dev1/{}\r\n", "a".repeat(256));
    ask(&mut conn, long, REFUSED);
    // only segments count
    server.write("dev1/a..b", "four");
    ask(&mut conn, "size /dev1/a..b\r\n", "/dev1/a..b 4\r\n");
    ask(&mut conn, "size /dev1/...\r\n", "/dev1/... -1\r\n");
}

#[test]
fn any_bytes_but_blanks_and_controls() {
    let server = builder().start();
    let mut conn = dial(&server);
    for (spelled, name) in [
        (&b"/dev1/a_b~c"[..], &b"a_b~c"[..]),
        (b"/dev1/%61%20b", b"a b"),
        (b"/dev1/a?b=c&d", b"a?b=c&d"),
        (b"/dev1/\xc3\xa9\xff", b"\xc3\xa9\xff"),
        (b"/dev1/%C3%a9", b"\xc3\xa9"),
        (b"/dev1/%25", b"%"),
        (b"/dev1/'\"\\*", b"'\"\\*"),
        (b"//dev1///./x", b"x"),
        (b"/%64ev1%2fy", b"y"),
    ] {
        let path = server.path("dev1").join(std::ffi::OsStr::from_bytes(name));
        std::fs::write(&path, name).expect("write");
        let size = name.len().to_string();
        ask(
            &mut conn,
            [b"size ", spelled, b"\r\n"].concat(),
            [spelled, b" ", size.as_bytes(), b"\r\n"].concat(),
        );
        let md5 = sum("md5sum", &path);
        ask(
            &mut conn,
            [b"MD5 ", spelled, b" fsck\r\n"].concat(),
            [spelled, b" MD5=", md5.as_bytes(), b"\r\n"].concat(),
        );
    }
    // a name as long as file systems have them, in a line as long as it can be
    let long = format!("/dev1/{}/{}", "d".repeat(255), "f".repeat(200));
    server.write(&long, "12");
    ask(
        &mut conn,
        format!("size {long}\r\n"),
        format!("{long} 2\r\n"),
    );
}

#[test]
fn nothing_outside_of_the_docroot() {
    let server = builder().start();
    let outside = tempfile::tempdir().expect("a folder");
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "secret").expect("write");
    std::fs::create_dir(outside.path().join("disk")).expect("mkdir");
    std::fs::write(outside.path().join("disk/file"), "on a disk").expect("write");
    server.write("dev1/inside", "hello");
    symlink(&secret, server.path("dev1/absolute")).expect("symlink");
    symlink("../../../../../../../../etc/passwd", server.path("dev1/up")).expect("symlink");
    symlink(&secret, server.path("top")).expect("symlink");
    symlink("inside", server.path("dev1/beside")).expect("symlink");
    symlink("nowhere", server.path("dev1/dangling")).expect("symlink");
    symlink(outside.path().join("disk"), server.path("dev7")).expect("symlink");
    let mut conn = dial(&server);
    for path in [
        "//etc/hostname",
        "///etc/passwd",
        "/dev1/absolute",
        "/dev1/up",
        "/top",
        "/dev1/dangling",
    ] {
        ask(
            &mut conn,
            format!("size {path}\r\n"),
            format!("{path} -1\r\n"),
        );
        for reason in ["", " fsck"] {
            ask(
                &mut conn,
                format!("MD5 {path}{reason}\r\n"),
                format!("{path} MD5=-1\r\n"),
            );
        }
    }
    // inside of a device symlinks are followed, and a device may be one
    ask(&mut conn, "size /dev1/beside\r\n", "/dev1/beside 5\r\n");
    ask(&mut conn, "size /dev7/file\r\n", "/dev7/file 9\r\n");
    let len = std::fs::metadata(server.path("dev7")).expect("stat").len();
    ask(&mut conn, "size /dev7\r\n", format!("/dev7 {len}\r\n"));
    expect_open(&mut conn);
}

/// A kernel without openat2: paths are walked, and symlinks inside of devices refused, not looked at.
#[cfg(target_os = "linux")]
#[test]
fn without_openat2() {
    use crate::harness::sandbox::Missing;
    let server = builder().without(Missing::Openat2).start();
    server.write("dev1/inside", "hello");
    symlink("inside", server.path("dev1/beside")).expect("symlink");
    let mut conn = dial(&server);
    ask(&mut conn, "size /dev1/inside\r\n", "/dev1/inside 5\r\n");
    ask(&mut conn, "size /dev1/beside\r\n", "/dev1/beside -1\r\n");
    ask(&mut conn, "MD5 /dev1/beside\r\n", "/dev1/beside MD5=-1\r\n");
    server.wait_log("openat2", crate::harness::PATIENCE);
}

/// Neither a FIFO without a writer nor a socket holds anybody up.
#[cfg(target_os = "linux")]
#[test]
fn special_files() {
    let server = builder().start();
    let fifo = server.path("dev1/fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo").success());
    let _socket = std::os::unix::net::UnixListener::bind(server.path("dev1/s")).expect("bind");
    let mut conn = dial(&server);
    ask(&mut conn, "size /dev1/fifo\r\n", "/dev1/fifo 0\r\n");
    ask(
        &mut conn,
        "MD5 /dev1/fifo\r\n",
        "ERR read /dev1/fifo at 0 failed\r\n",
    );
    ask(&mut conn, "size /dev1/s\r\n", "/dev1/s 0\r\n");
    ask(&mut conn, "MD5 /dev1/s fsck\r\n", "/dev1/s MD5=-1\r\n");
}
