//! DELETE.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::harness::Server;
use crate::harness::server::is_root;

#[test]
fn a_file_is_gone_after_its_204() {
    let server = Server::start();
    server.write("dev1/file", "x");
    let mut conn = server.conn();
    let response = conn.delete("/dev1/file");
    let date = response.must("Date").to_owned();
    let want = format!(
        "HTTP/1.1 204 No Content\r\nStatus: 204 No Content\r\nDate: {date}\r\nContent-Length: 0\r\n\
         Content-Type: text/plain\r\nConnection: keep-alive\r\n\r\n"
    );
    assert_eq!(String::from_utf8_lossy(&response.head), want);
    assert!(!server.path("dev1/file").exists());
    conn.delete("/dev1/file").expect(404, true);
    conn.get("/dev1/file").expect(404, true);
}

#[test]
fn what_is_no_file_has_its_status_and_keeps_the_connection() {
    let server = Server::start();
    server.write("dev1/file", "x");
    server.write("dev1/folder/inner", "x");
    fs::create_dir(server.path("dev1/hollow")).unwrap();
    let before = server.names();
    let mut conn = server.conn();
    for (target, status) in [
        ("/", 403),
        ("/dev1", 403),
        ("/dev2", 403),
        ("/dev1/", 403),
        ("/dev1/folder", 403),
        ("/dev1/folder/", 403),
        ("/dev1/hollow", 403),
        ("/dev1/missing", 404),
        ("/dev777/x", 404),
        ("/missing", 404),
        ("/dev1/file/", 500),
        ("/dev1/file/x", 500),
        ("/dev1/../dev1/file", 403),
        ("/..", 403),
    ] {
        let response = conn.delete(target);
        assert_eq!(response.status, status, "DELETE {target}");
        response.expect(status, true);
        assert_eq!(server.names(), before, "DELETE {target}");
    }
    assert!(server.path("dev2").is_dir() && server.path("dev1/hollow").is_dir());
    conn.expect_open();
}

#[test]
fn files_of_the_top_level_and_links_themselves_go() {
    let server = Server::start();
    server.write("top", "x");
    server.write("dev1/usage", "x");
    server.write("dev1/real", "x");
    symlink("real", server.path("dev1/link")).unwrap();
    symlink("nowhere", server.path("dev1/dangling")).unwrap();
    let mut conn = server.conn();
    for target in ["/top", "/dev1/usage", "//dev1//link", "/dev1/dangling"] {
        conn.delete(target).expect(204, true);
    }
    assert_eq!(server.names(), ["dev1/real"]);
}

#[test]
fn a_folder_without_permission_is_403() {
    let server = Server::builder().unprivileged().start();
    server.write("dev1/shut/file", "x");
    let folder = server.path("dev1/shut");
    if is_root() {
        std::os::unix::fs::chown(&folder, Some(0), Some(0)).unwrap();
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let mut conn = server.conn();
    conn.delete("/dev1/shut/file").expect(403, true);
    assert_eq!(server.names(), ["dev1/shut/file"]);
    conn.expect_open();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_file_that_is_being_sent_can_be_deleted() {
    let server = Server::start();
    let bytes = crate::harness::pattern(4 << 20);
    server.write("dev1/file", &bytes);
    let mut reader = crate::harness::Conn::connect_narrow(server.addr(), 16 * 1024);
    reader.send("GET /dev1/file HTTP/1.1\r\nHost: h\r\n\r\n");
    reader.head_of_response().expect(200, true);
    let mut conn = server.conn();
    conn.delete("/dev1/file").expect(204, true);
    conn.get("/dev1/file").expect(404, true);
    crate::harness::assert_same(
        &reader.read_exactly(bytes.len()),
        &bytes,
        "the deleted file",
    );
    reader.expect_open();
}
