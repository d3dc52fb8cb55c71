//! What `--durability` promises, seen from outside: the system calls of a PUT and their order.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::harness::{PATIENCE, Server, wait_for};

/// The calls that matter here, in the order in which a worker made them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    /// fdatasync(2) or fsync(2)
    Sync,
    /// The file gets its name.
    Name,
    /// The reply.
    Reply,
}

/// Traces a worker; dropped, it ends the tracer and not the worker.
struct Tracer {
    strace: Child,
    /// Kept open, so that what strace says later does not end it.
    _said: BufReader<ChildStderr>,
    output: tempfile::NamedTempFile,
}

impl Tracer {
    /// Attaches to all threads of the worker; `None` without a strace that may do so.
    fn attach(pid: i32) -> Option<Tracer> {
        let output = tempfile::NamedTempFile::new().unwrap();
        let mut strace = Command::new("strace")
            .arg("-f")
            .args([
                "-e",
                "trace=fdatasync,fsync,linkat,renameat,renameat2,sendto,sendmsg,write,writev",
            ])
            .arg("-o")
            .arg(output.path())
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut said = BufReader::new(strace.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        if line.contains(" attached") {
            return Some(Tracer {
                strace,
                _said: said,
                output,
            });
        }
        let _ = strace.wait();
        eprintln!("strace: {line}");
        None
    }

    /// Waits until the tracer has written the reply down, and gives what came before it.
    fn calls_until_reply(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        wait_for("the reply in strace's output", PATIENCE, || {
            let trace = std::fs::read_to_string(self.output.path()).unwrap();
            calls = trace.lines().filter_map(call_of).collect();
            calls.contains(&Call::Reply).then_some(())
        });
        calls
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SAFETY: our child, not yet reaped; on SIGINT strace detaches, so that the worker lives on
        unsafe { libc::kill(self.strace.id() as i32, libc::SIGINT) };
        let _ = self.strace.wait();
    }
}

/// `PID call(args) = result`; a call that was interrupted by another thread's line counts where it began.
fn call_of(line: &str) -> Option<Call> {
    let call = line
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .trim_start();
    let name = call.split('(').next()?;
    match name {
        "fdatasync" | "fsync" => Some(Call::Sync),
        "linkat" | "renameat" | "renameat2" if !call.contains("EEXIST") => Some(Call::Name),
        _ if call.contains("HTTP/1.1 201") => Some(Call::Reply),
        _ => None,
    }
}

/// The calls of one PUT of a new file and one that replaces a file.
fn calls_at(level: &str) -> Option<[Vec<Call>; 2]> {
    let both = ["/dev1/new", "/dev1/old"].map(|target| {
        let server = Server::builder().durability(level).start();
        server.write("dev1/old", "old");
        let tracer = Tracer::attach(server.worker_pids()[0])?;
        server.conn().put(target, b"content").expect(201, true);
        Some(tracer.calls_until_reply())
    });
    let [Some(new), Some(old)] = both else {
        eprintln!("skipped: there is no strace that may attach to a worker");
        return None;
    };
    Some([new, old])
}

#[test]
fn none_syncs_nothing() {
    for calls in calls_at("none").into_iter().flatten() {
        assert!(!calls.contains(&Call::Sync), "{calls:?}");
        assert!(calls.contains(&Call::Name), "{calls:?}");
    }
}

#[test]
fn data_syncs_the_file_before_it_has_its_name() {
    for calls in calls_at("data").into_iter().flatten() {
        let first_name = calls
            .iter()
            .position(|call| *call == Call::Name)
            .expect("a name");
        assert_eq!(
            calls.iter().filter(|call| **call == Call::Sync).count(),
            1,
            "{calls:?}"
        );
        assert!(calls[..first_name].contains(&Call::Sync), "{calls:?}");
    }
}

#[test]
fn full_syncs_the_folder_after_the_name_and_before_the_reply() {
    for calls in calls_at("full").into_iter().flatten() {
        let first_name = calls
            .iter()
            .position(|call| *call == Call::Name)
            .expect("a name");
        let last_name = calls
            .iter()
            .rposition(|call| *call == Call::Name)
            .expect("a name");
        let reply = calls
            .iter()
            .position(|call| *call == Call::Reply)
            .expect("a reply");
        assert!(calls[..first_name].contains(&Call::Sync), "{calls:?}");
        assert!(calls[last_name..reply].contains(&Call::Sync), "{calls:?}");
    }
}
