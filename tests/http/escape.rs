//! No path leaves the docroot: not by `..` in any spelling, not by `//`, not by a symlink, not in a race.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::harness::{Server, SetOnDrop};

/// A server, and beside its docroot a folder with a secret that no request may reach.
struct World {
    server: Server,
    outside: TempDir,
}

impl World {
    fn new() -> World {
        let world = World {
            server: Server::start(),
            outside: tempfile::tempdir().unwrap(),
        };
        fs::write(world.secret(), "secret").unwrap();
        world.server.write("dev1/inside", "inside");
        world
    }

    fn secret(&self) -> PathBuf {
        self.outside.path().join("secret")
    }

    #[track_caller]
    fn check_untouched(&self, what: &str) {
        assert_eq!(
            fs::read(self.secret()).ok().as_deref(),
            Some(&b"secret"[..]),
            "{what}"
        );
        assert_eq!(
            fs::read_dir(self.outside.path()).unwrap().count(),
            1,
            "{what}: something new outside"
        );
    }

    /// Every method on a target that leads outside.
    #[track_caller]
    fn check_refused(&self, target: &str, status: Option<u16>) {
        for method in ["GET", "HEAD", "DELETE", "MKCOL", "PUT"] {
            let mut conn = self.server.conn();
            let body: &[u8] = if method == "PUT" { b"overwritten" } else { b"" };
            let response = conn.request(method, target, &[], body);
            assert!(
                response.status >= 400,
                "{method} {target}: {}",
                response.status
            );
            if let Some(status) = status {
                assert_eq!(response.status, status, "{method} {target}");
                response.expect(status, method != "PUT");
            }
            self.check_untouched(&format!("{method} {target}"));
        }
    }
}

#[test]
fn dot_dot_as_a_segment_is_403_on_every_method() {
    let world = World::new();
    let outside = world.outside.path().file_name().unwrap().to_str().unwrap();
    for target in [
        "/..",
        "/../",
        "/../etc/passwd",
        "/dev1/..",
        "/dev1/../",
        "/dev1/../dev1/inside",
        "/dev1/../../etc/passwd",
        "/dev1/a/../inside",
        "/dev1/inside/..",
        "//../etc/passwd",
        "/dev1//..//..//etc/passwd",
        "/./../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/%2E%2E/etc/passwd",
        "/%2e./etc/passwd",
        "/.%2e/etc/passwd",
        "/..%2fetc%2fpasswd",
        "/..%2Fetc/passwd",
        "/dev1%2f..%2f..%2fetc%2fpasswd",
        "/dev1/%2e%2e%2f%2e%2e/etc/passwd",
        "http://host/../etc/passwd",
        "http://host/dev1/%2e%2e/x",
        "/..?query",
        &format!("/../{outside}/secret"),
        &format!("/dev1/../../{outside}/secret"),
    ] {
        world.check_refused(target, Some(403));
    }
    assert_eq!(world.server.read("dev1/inside").unwrap(), b"inside");
}

/// Decoding happens once: `%252e` is the three characters `%2e`, and other dots are names.
#[test]
fn what_only_looks_like_dot_dot_is_a_name() {
    let world = World::new();
    let mut conn = world.server.conn();
    for (target, name) in [
        ("/dev1/a..b", "a..b"),
        ("/dev1/..a", "..a"),
        ("/dev1/a..", "a.."),
        ("/dev1/...", "..."),
        ("/dev1/%252e%252e", "%2e%2e"),
        ("/dev1/..%5cx", "..\\x"),
        ("/dev1/x?/../y", "x"),
    ] {
        assert_eq!(
            conn.put(target, name.as_bytes()).status,
            201,
            "PUT {target}"
        );
        assert_eq!(
            world.server.read(&format!("dev1/{name}")).unwrap(),
            name.as_bytes(),
            "PUT {target}"
        );
        assert_eq!(conn.get(target).body, name.as_bytes(), "GET {target}");
        conn.delete(target).expect(204, true);
    }
    assert_eq!(world.server.names(), ["dev1/inside"]);
}

/// A leading `//` must not make the path absolute.
#[test]
fn double_slashes_stay_inside() {
    let world = World::new();
    let secret = world.secret();
    let mut conn = world.server.conn();
    for target in [
        "//etc/passwd",
        "///etc/passwd",
        "/%2fetc/passwd",
        "//%2f/etc%2fpasswd",
    ] {
        conn.get(target).expect(404, true);
        conn.head(target).expect(404, true);
    }
    for target in [
        format!("/{}", secret.display()),
        format!("//{}", secret.display()),
    ] {
        conn.get(&target).expect(404, true);
        conn.delete(&target).expect(404, true);
        let mut other = world.server.conn();
        assert!(other.put(&target, b"overwritten").status >= 400);
        world.check_untouched(&target);
    }
    assert_eq!(conn.get("//dev1//inside").expect(200, true).body, b"inside");
}

#[test]
fn a_symlink_to_the_outside_leads_nowhere() {
    let world = World::new();
    let secret = world.secret();
    let depth = world.server.root().components().count();
    // from dev1 up to `/` and down again
    let relative = PathBuf::from("../".repeat(depth)).join(secret.strip_prefix("/").unwrap());
    let links: [(&str, PathBuf); 3] = [
        ("absolute", world.outside.path().to_owned()),
        ("relative", relative.parent().unwrap().to_owned()),
        ("over", PathBuf::from("inner/../absolute")),
    ];
    fs::create_dir(world.server.path("dev1/inner")).unwrap();
    for (name, to) in &links {
        symlink(to, world.server.path(&format!("dev1/{name}"))).unwrap();
        // the links do lead to the secret for whoever follows them
        assert_eq!(
            fs::read(world.server.path(&format!("dev1/{name}/secret"))).unwrap(),
            b"secret"
        );
        world.check_refused(&format!("/dev1/{name}/secret"), None);
        world.check_refused(&format!("/dev1/{name}/new"), None);
        world.check_refused(&format!("/dev1/{name}/new/deeper"), None);
    }
}

/// The last component: reading follows it, so it must not lead outside; DELETE and PUT are about the link.
#[test]
fn a_symlink_to_an_outside_file_is_not_read_and_not_written_through() {
    let world = World::new();
    let depth = world.server.root().components().count();
    let relative =
        PathBuf::from("../".repeat(depth)).join(world.secret().strip_prefix("/").unwrap());
    for (name, to) in [("absolute", world.secret()), ("relative", relative)] {
        let link = world.server.path(&format!("dev1/{name}"));
        let target = format!("/dev1/{name}");
        symlink(&to, &link).unwrap();
        assert_eq!(
            fs::read(&link).unwrap(),
            b"secret",
            "the link does lead there"
        );
        let mut conn = world.server.conn();
        for method in ["GET", "HEAD"] {
            let response = conn.request(method, &target, &[], b"");
            assert!(
                response.status >= 400,
                "{method} {target}: {}",
                response.status
            );
        }
        let ranged = conn.get_with(&target, &[("Range", "bytes=0-0")]);
        assert!(
            ranged.status >= 400,
            "GET {target} with a range: {}",
            ranged.status
        );
        // a second name for the check that DELETE takes the link alone
        symlink(&to, world.server.path(&format!("dev1/{name}-2"))).unwrap();
        conn.delete(&format!("{target}-2")).expect(204, true);
        world.check_untouched("DELETE");
        let response = world.server.conn().put(&target, b"overwritten");
        assert!(
            matches!(response.status, 201 | 403 | 404 | 500),
            "PUT {target}: {}",
            response.status
        );
        world.check_untouched("PUT");
    }
}

/// A chain that goes out and comes back in is out.
#[test]
fn a_symlink_inside_the_device_is_followed() {
    let world = World::new();
    symlink("inside", world.server.path("dev1/link")).unwrap();
    world.server.write("dev1/folder/file", "file");
    symlink("folder", world.server.path("dev1/door")).unwrap();
    symlink("../inside", world.server.path("dev1/folder/up")).unwrap();
    let mut conn = world.server.conn();
    assert_eq!(conn.get("/dev1/link").expect(200, true).body, b"inside");
    assert_eq!(conn.get("/dev1/door/file").expect(200, true).body, b"file");
    assert_eq!(
        conn.get("/dev1/folder/up").expect(200, true).body,
        b"inside"
    );
    conn.put("/dev1/door/new", b"new").expect(201, true);
    assert_eq!(world.server.read("dev1/folder/new").unwrap(), b"new");
    conn.delete("/dev1/door/new").expect(204, true);
    conn.expect_open();
}

/// The operator puts devices where the disks are.
#[test]
fn a_device_that_is_itself_a_symlink_works() {
    let elsewhere = tempfile::tempdir().unwrap();
    let server = Server::start();
    symlink(elsewhere.path(), server.path("dev9")).unwrap();
    let mut conn = server.conn();
    conn.put("/dev9/a/file", b"hello").expect(201, true);
    assert_eq!(fs::read(elsewhere.path().join("a/file")).unwrap(), b"hello");
    assert_eq!(conn.get("/dev9/a/file").expect(200, true).body, b"hello");
    conn.head("/dev9/a/file").expect(200, true);
    conn.get("/dev9").expect(403, true);
    conn.request(
        "PUT",
        "/dev9/a/file",
        &[("Content-Range", "bytes 5-5/*")],
        b"!",
    )
    .expect(201, true);
    assert_eq!(conn.get("/dev9/a/file").body, b"hello!");
    conn.delete("/dev9/a/file").expect(204, true);
    conn.get("/dev9/a/file").expect(404, true);
    // and it is a boundary like any other
    symlink("..", elsewhere.path().join("up")).unwrap();
    assert!(
        conn.get(&format!(
            "/dev9/up/{}/a",
            elsewhere.path().file_name().unwrap().to_str().unwrap()
        ))
        .status
            >= 400
    );
    conn.expect_open();
}

/// The device is exchanged while the server runs: what it finds under the name then counts.
#[test]
fn a_device_that_is_replaced_is_seen() {
    let server = Server::start();
    server.write("dev1/file", "old");
    let mut conn = server.conn();
    assert_eq!(conn.get("/dev1/file").body, b"old");
    fs::rename(server.path("dev1"), server.path("aside")).unwrap();
    conn.get("/dev1/file").expect(404, true);
    server.write("dev1/file", "new");
    assert_eq!(conn.get("/dev1/file").expect(200, true).body, b"new");
    conn.put("/dev1/other", b"x").expect(201, true);
    assert_eq!(server.read("dev1/other").unwrap(), b"x");
}

/// Somebody flips a folder between itself and a link to the outside while requests run through it.
#[cfg(target_os = "linux")]
#[test]
fn a_race_of_folder_and_symlink_never_leads_outside() {
    let world = World::new();
    let server = &world.server;
    server.write("dev1/flip/secret", "inside");
    symlink(world.outside.path(), server.path("dev1/trap")).unwrap();
    let name = |below: &str| std::ffi::CString::new(server.path(below).to_str().unwrap()).unwrap();
    let (folder, link) = (name("dev1/flip"), name("dev1/trap"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flipper = scope.spawn(|| {
            let mut flips = 0_u64;
            while !done.load(Ordering::Relaxed) {
                // SAFETY: both are NUL-terminated paths that outlive the call
                let result = unsafe {
                    libc::renameat2(
                        libc::AT_FDCWD,
                        folder.as_ptr(),
                        libc::AT_FDCWD,
                        link.as_ptr(),
                        libc::RENAME_EXCHANGE,
                    )
                };
                assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
                flips += 1;
                std::thread::yield_now();
            }
            flips
        });
        let stop = SetOnDrop(&done);
        for turn in 0..300 {
            let mut conn = server.conn();
            let response = conn.get("/dev1/flip/secret");
            assert_ne!(response.body, b"secret", "turn {turn}: the secret came out");
            let range = [("Content-Range", "bytes 0-5/*")];
            server
                .conn()
                .request("PUT", "/dev1/flip/secret", &range, b"INSIDE");
            server.conn().put("/dev1/flip/new/file", b"new");
            server.conn().delete("/dev1/flip/secret");
            server.conn().put("/dev1/flip/secret", b"inside");
        }
        drop(stop);
        assert!(flipper.join().unwrap() > 100, "the race was run");
    });
    world.check_untouched("the race");
}
