//! Workers that are a fresh image of the program: they are like the copies of the master that others are. And what
//! all processes of a server are called, and belong to.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{facts, signal};
use crate::config::Folder;
use crate::harness::server::Listener;
use crate::harness::{Conn, PATIENCE, Server, eventually, pattern, wait_for};

const KINDS: [&str; 2] = ["never", "always"];

/// What a worker's descriptors are, without their numbers and the kernel's; all but the standard streams are
/// close-on-exec. What it opens for a moment is not among them.
fn holdings(server: &Server) -> Vec<String> {
    let pid = server.worker_pids()[0];
    let root = server.root().to_str().expect("a plain path").to_owned();
    let mut kinds: Vec<String> = facts::descriptors(pid)
        .into_iter()
        .filter_map(|(nr, place)| {
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{nr}")).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = i32::from_str_radix(flags.expect("flags").trim(), 8).expect("octal");
            assert!(nr < 3 || flags & libc::O_CLOEXEC != 0, "{nr} -> {place}");
            Some(place.replace(&root, "ROOT"))
        })
        // probes and sweeps
        .filter(|place| !place.starts_with("ROOT/"))
        .map(|place| match place.split_once(":[") {
            Some((kind, _)) => kind.to_owned(),
            None => place,
        })
        .collect();
    kinds.sort();
    kinds
}

fn is_image(pid: i32) -> bool {
    let env = fs::read(format!("/proc/{pid}/environ")).expect("environ");
    env.split(|byte| *byte == 0)
        .any(|line| line.starts_with(b"RMOGSTORED_WORKER="))
}

#[test]
fn it_serves_and_holds_what_a_copy_does() {
    let holdings = KINDS.map(|kind| {
        let server = Server::builder()
            .arg(&format!("--exec-workers={kind}"))
            .http_get("127.0.0.1:0")
            .mgmt("127.0.0.1:0")
            .start();
        let worker = server.worker_pids()[0];
        assert_eq!(is_image(worker), kind == "always");
        let exe = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).expect("exe");
        assert_eq!(exe(worker), exe(server.pid()));
        let bytes = pattern(100_000);
        server.conn().put("/dev1/a/b", &bytes).expect(201, true);
        let mut reader = Conn::connect(server.get_addr());
        assert_eq!(reader.get("/dev1/a/b").expect(200, true).body, bytes);
        let refused = reader.put("/dev1/c", b"x");
        assert_eq!(refused.status, 405);
        let mut mgmt = Conn::connect(server.mgmt_addr());
        mgmt.send("size /dev1/a/b\n");
        assert_eq!(
            mgmt.try_line().ok(),
            Some("/dev1/a/b 100000\r\n".to_owned())
        );
        drop((reader, mgmt));
        server.wait_log("is elected", PATIENCE);
        let mut found = Vec::new();
        eventually("a worker at rest", PATIENCE, || {
            let before = std::mem::replace(&mut found, self::holdings(&server));
            before == found && facts::sockets(worker) == 4
        });
        server.stop();
        found
    });
    assert_eq!(holdings[0], holdings[1]);
}

/// No version is mixed with another, whatever lies on the disk by the time a worker dies.
#[test]
fn neither_a_new_program_nor_a_new_file_is_for_the_workers_of_an_old_master() {
    let folder = Folder::new();
    let program = folder.path("program");
    fs::copy(env!("CARGO_BIN_EXE_rmogstored"), &program).expect("copy");
    let root = folder.docroot("root");
    let text =
        format!("docroot = {root}\nhttplisten = 127.0.0.1:0\nthreads = 10\nworker-processes = 1\n");
    let config = folder.config("x.conf", &text);
    let mut server = Server::builder()
        .bare()
        .called(&program)
        .arg(&config)
        .arg("--exec-workers=always")
        .start();
    let first = wait_for("the first worker", PATIENCE, || {
        facts::children(server.pid()).first().copied()
    });
    fs::write(folder.path("y"), "#!/bin/false\n").expect("write");
    fs::rename(folder.path("y"), &program).expect("rename");
    folder.config("x.conf", "docroot = /nowhere\nthreads = 0\n");
    let skip = server.log().len();
    signal(first, libc::SIGKILL);
    server.wait_log_after(skip, "worker 0 is ready", PATIENCE);
    let next = facts::children(server.pid())[0];
    let exe = fs::read_link(format!("/proc/{next}/exe")).expect("exe");
    assert_eq!(exe, Path::new(&format!("{} (deleted)", program.display())));
    assert_eq!(facts::name(next), "program");
    server.conn().put("/dev1/x", b"x").expect(201, true);
    assert!(Path::new(&root).join("dev1/x").exists());
    server.signal(libc::SIGQUIT);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn a_variable_that_nobody_of_ours_has_set_is_refused() {
    for (value, named) in [
        ("1", "no nr"),
        (
            "nr=0 slot=0 consumers=1 umask=18 privileges=-,- log=1 ears=- channel=2",
            "channel: descriptor 2",
        ),
        (
            "nr=0 slot=0 consumers=1 umask=18 privileges=-,- log=1 ears=- channel=77",
            "channel: descriptor 77: Bad file descriptor",
        ),
    ] {
        let (status, said) = Server::builder()
            .env("RMOGSTORED_WORKER", value)
            .run_to_exit();
        assert_eq!(status.code(), Some(2), "{said}");
        for word in ["RMOGSTORED_WORKER", named, "unset it"] {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
}

/// Signals that come between fork and exec wait for the new image.
#[test]
fn a_stop_finds_images_at_every_moment_of_their_start() {
    for delay in 0..25 {
        let mut server = Server::builder()
            .workers(3)
            .threads(30)
            .arg("--exec-workers=always")
            .spawn();
        // before that the master has no handlers yet
        eventually("a worker's fork", PATIENCE, || {
            !facts::children(server.pid()).is_empty()
        });
        std::thread::sleep(Duration::from_micros(delay * 700));
        for pid in facts::children(server.pid()) {
            // SAFETY: no pointers; a child of a server that this test owns, or nobody
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        server.signal(libc::SIGQUIT);
        let status = server.wait_exit(PATIENCE);
        let log = server.log();
        assert_eq!(status.code(), Some(0), "{log:#?}");
        let bad = ["was killed", "exited with 2", "did not obey"];
        assert!(
            !log.iter()
                .any(|line| bad.iter().any(|bad| line.contains(bad))),
            "{log:#?}"
        );
    }
}

#[test]
fn titles_say_who_is_who_and_what_he_does() {
    for kind in KINDS {
        let mut server = Server::builder()
            .workers(2)
            .arg(&format!("--exec-workers={kind}"))
            .start();
        let workers = server.worker_pids();
        assert_eq!(facts::title(server.pid()), "rmogstored: master");
        for (nr, pid) in workers.iter().enumerate() {
            let title = format!("rmogstored: worker {nr}, gen 1");
            assert_eq!(facts::title(*pid), title);
        }
        for pid in workers.iter().chain([&server.pid()]) {
            assert_eq!(facts::name(*pid), "rmogstored");
        }
        // one that is served to the end
        let mut conn = server.conn();
        conn.send("PUT /dev1/x HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx");
        conn.settle();
        let owner = wait_for("its worker", PATIENCE, || facts::owner(server.pid(), &conn));
        server.signal(libc::SIGQUIT);
        eventually("titles of the stop", PATIENCE, || {
            facts::title(server.pid()) == "rmogstored: master, stopping"
                && facts::title(owner).ends_with(", gen 1, draining")
        });
        conn.send("y");
        conn.response().expect(201, false);
        assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    }
}

#[test]
fn each_worker_leads_a_group_and_orphans_are_the_masters() {
    for kind in KINDS {
        // the helper ends, and leaves a child behind
        let folder = Folder::new();
        let note = folder.at("note");
        let helper = format!("sh -c 'env >{note}.env; sleep 3 & echo $! >{note}; exec sleep 60'");
        let server = Server::builder()
            .arg(&format!("--exec-workers={kind}"))
            .mgmt("127.0.0.1:0")
            .env("MOG_IOSTAT_CMD", &helper)
            .start();
        let worker = server.worker_pids()[0];
        let (_, parent, group) = facts::family(worker).expect("a worker");
        assert_eq!((parent, group), (server.pid(), worker));
        let orphan: i32 = wait_for("the helper's child", PATIENCE, || {
            fs::read_to_string(&note).ok()?.trim().parse().ok()
        });
        let env = fs::read_to_string(format!("{note}.env")).expect("its environment");
        assert!(!env.contains("RMOGSTORED_WORKER"), "{env}");
        let (_, helper, _) = facts::family(orphan).expect("the child lives for 3 s");
        signal(helper, libc::SIGKILL);
        eventually("the orphan to be the master's", PATIENCE, || {
            facts::family(orphan).is_none_or(|(_, parent, _)| parent == server.pid())
        });
        eventually("the orphan to be reaped", PATIENCE, || {
            facts::family(orphan).is_none()
        });
        assert!(!server.log().iter().any(|line| line.contains("orphan")));
        server.stop();
    }
}

/// A UNIX socket is passed on as well.
#[test]
fn an_image_serves_the_sockets_that_have_a_path() {
    let folder = Folder::new();
    let server = Server::builder()
        .arg("--exec-workers=always")
        .http(&format!("unix:{}", folder.at("socket")))
        .start();
    let unix = Listener::HttpUnix(folder.path("socket"));
    assert!(server.listeners().contains(&unix));
    server.write("dev1/x", "x");
    Conn::unix(&server.unix_path())
        .get("/dev1/x")
        .expect(200, true);
    server.stop();
    assert!(!folder.path("socket").exists());
}
