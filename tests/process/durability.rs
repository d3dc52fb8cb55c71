//! `--durability=full` for what `http::durability` leaves out: which descriptor each call is about, and the
//! folders that an upload makes.

use std::process::{Child, Command, Stdio};

use super::facts;
use crate::harness::{PATIENCE, Server, eventually};

/// A tracer of one worker that writes down where each descriptor leads.
struct Tracer {
    strace: Child,
    output: tempfile::NamedTempFile,
}

impl Tracer {
    fn attach(pid: i32) -> Option<Tracer> {
        let output = tempfile::NamedTempFile::new().unwrap();
        let calls = "trace=fdatasync,fsync,linkat,renameat,mkdirat,sendto";
        let strace = Command::new("strace")
            .args(["-f", "-y", "-e", calls, "-o"])
            .arg(output.path())
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut tracer = Tracer { strace, output };
        // attached to every thread, or gone because it may not
        eventually("strace to attach", PATIENCE, || {
            tracer.has_ended() || is_traced(pid)
        });
        (!tracer.has_ended()).then_some(tracer)
    }

    fn has_ended(&mut self) -> bool {
        self.strace.try_wait().expect("waitpid").is_some()
    }

    fn lines_until_reply(&self) -> Vec<String> {
        let mut lines = Vec::new();
        eventually("the reply in strace's output", PATIENCE, || {
            let text = std::fs::read_to_string(self.output.path()).unwrap();
            lines = text.lines().map(str::to_owned).collect();
            lines.iter().any(|line| line.contains("HTTP/1.1 201"))
        });
        lines
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SAFETY: our child, not yet reaped; on SIGINT strace detaches, so that the worker lives on
        unsafe { libc::kill(self.strace.id() as i32, libc::SIGINT) };
        let _ = self.strace.wait();
    }
}

fn is_traced(pid: i32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    tasks.flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    })
}

/// Traces the first worker, or says why that cannot be.
fn traced(server: &Server) -> Option<Tracer> {
    let tracer = Tracer::attach(server.worker_pids()[0]);
    if tracer.is_none() {
        eprintln!("skipped: there is no strace that may attach to a worker");
    }
    tracer
}

/// Where a call of this name with this text in its line stands.
#[track_caller]
fn position(lines: &[String], call: &str, text: &str) -> usize {
    let found = lines
        .iter()
        .position(|line| line.contains(&format!(" {call}(")) && line.contains(text));
    found.unwrap_or_else(|| panic!("no {call} with {text} in\n{}", lines.join("\n")))
}

#[test]
fn full_syncs_the_content_the_name_and_each_new_folder() {
    let server = Server::builder().durability("full").start();
    server.write("dev1/old/file", "old");
    let Some(tracer) = traced(&server) else {
        return;
    };
    server
        .conn()
        .put("/dev1/a/b/file", b"content")
        .expect(201, true);
    let lines = tracer.lines_until_reply();
    let reply = position(&lines, "sendto", "HTTP/1.1 201");
    let content = position(&lines, "fdatasync", "");
    let name = position(&lines, "linkat", "\"file\"");
    let folder = position(&lines, "fsync", "/dev1/a/b>");
    assert!(
        content < name && name < folder && folder < reply,
        "{lines:#?}"
    );
    // a folder is in the one above it
    for (made, above) in [("\"a\"", "/dev1>"), ("\"b\"", "/dev1/a>")] {
        let made = position(&lines, "mkdirat", made);
        let synced = position(&lines, "fsync", above);
        assert!(made < synced && synced < reply, "{lines:#?}");
    }
}

#[test]
fn full_syncs_the_folder_of_a_file_that_is_replaced() {
    let server = Server::builder().durability("full").start();
    server.write("dev1/old/file", "old");
    let Some(tracer) = traced(&server) else {
        return;
    };
    server
        .conn()
        .put("/dev1/old/file", b"new")
        .expect(201, true);
    let lines = tracer.lines_until_reply();
    let reply = position(&lines, "sendto", "HTTP/1.1 201");
    let content = position(&lines, "fdatasync", "");
    let replaced = position(&lines, "renameat", "\"file\"");
    let folder = position(&lines, "fsync", "/dev1/old>");
    assert!(
        content < replaced && replaced < folder && folder < reply,
        "{lines:#?}"
    );
}

#[test]
fn none_and_data_never_sync_a_folder() {
    for (level, syncs) in [("none", 0), ("data", 2)] {
        let server = Server::builder().durability(level).start();
        let Some(tracer) = traced(&server) else {
            return;
        };
        let mut conn = server.conn();
        conn.put("/dev1/a/file", b"one").expect(201, true);
        conn.put("/dev1/a/file", b"two").expect(201, true);
        // the second reply is out once a third request has been answered
        conn.get("/dev1/a/file").expect(200, true);
        let lines = tracer.lines_until_reply();
        let count = |call: &str| lines.iter().filter(|line| line.contains(call)).count();
        assert_eq!(count(" fdatasync("), syncs, "{level}: {lines:#?}");
        assert_eq!(count(" fsync("), 0, "{level}: {lines:#?}");
        assert_eq!(facts::children(server.pid()), server.worker_pids());
    }
}
