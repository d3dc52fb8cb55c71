//! The sidechannel, byte by byte: PROTOCOL.md's section 1, and what its section 0 changes of it.

mod digest;
#[cfg(target_os = "linux")]
mod fsck;
mod paths;
mod pipeline;
mod replies;
mod stop;
#[cfg(target_os = "linux")]
mod watch;

use std::path::Path;
use std::process::Command;

use crate::harness::server::Builder;
use crate::harness::{Conn, Server, show};
#[cfg(target_os = "linux")]
use crate::harness::{PATIENCE, wait_for};

/// A server that has a sidechannel.
fn builder() -> Builder {
    Server::builder().mgmt("127.0.0.1:0")
}

fn dial(server: &Server) -> Conn {
    Conn::connect(server.mgmt_addr())
}

/// A connection to a worker that is none of these, and which it is.
#[cfg(target_os = "linux")]
#[track_caller]
fn dial_other(server: &Server, not: &[i32]) -> (Conn, i32) {
    wait_for("a connection to another worker", PATIENCE, || {
        let mut conn = dial(server);
        expect_open(&mut conn);
        let owner = crate::process::facts::owner(server.pid(), &conn)?;
        (!not.contains(&owner)).then_some((conn, owner))
    })
}

/// The next bytes are these.
#[track_caller]
fn expect(conn: &mut Conn, wanted: impl AsRef<[u8]>) {
    let wanted = wanted.as_ref();
    let got = conn.read_exactly(wanted.len());
    assert_eq!(show(&got), show(wanted));
}

/// Sends a command, as it stands, and reads its reply.
#[track_caller]
fn ask(conn: &mut Conn, command: impl AsRef<[u8]>, reply: impl AsRef<[u8]>) {
    conn.send(command);
    expect(conn, reply);
}

/// The connection serves on, from its next byte.
#[track_caller]
fn expect_open(conn: &mut Conn) {
    ask(conn, "size /none\r\n", "/none -1\r\n");
}

/// What `md5sum` or `sha1sum` says of a file.
#[track_caller]
fn sum(tool: &str, path: &Path) -> String {
    let output = Command::new(tool).arg("-b").arg(path).output();
    let output = output.unwrap_or_else(|e| panic!("{tool}: {e}"));
    assert!(output.status.success(), "{tool}: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // a name that it must escape makes it begin with a backslash
    let text = text.trim_start_matches('\\');
    text.split(' ').next().expect("a sum").to_owned()
}

/// A file without content of its own: it takes no room, and as long to read as any.
#[track_caller]
fn sparse(server: &Server, below: &str, len: u64) {
    let path = server.write(below, "");
    let file = std::fs::File::options().write(true).open(path);
    file.and_then(|file| file.set_len(len)).expect("truncate");
}
