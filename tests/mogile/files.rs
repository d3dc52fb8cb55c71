//! A file's life: stored by the Perl client, closed, replicated, checked, found corrupt, repaired, deleted.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt, PermissionsExt};

use super::agent::Agent;
use super::sidechannel::{Digest, Side};
use super::{Host, cluster, fid_path};
use crate::harness::{Conn, assert_same, content_md5, hex_md5, pattern};

/// The Perl client's upload: no Host, its own capitals, and a path or a whole URI.
#[track_caller]
fn upload(host: &Host, path: &str, bytes: &[u8]) {
    let addr = host.server.addr();
    for uri in [path.to_owned(), format!("http://{addr}{path}")] {
        let mut conn = host.server.conn();
        let length = bytes.len();
        conn.send(format!(
            "PUT {uri} HTTP/1.0\r\nContent-length: {length}\r\n\r\n"
        ));
        conn.send(bytes);
        conn.response().expect(201, false);
        conn.expect_eof();
    }
}

/// Its largefile mode: an empty file, then pieces of it over one connection.
#[track_caller]
fn upload_in_pieces(host: &Host, path: &str, bytes: &[u8], piece: usize) {
    let addr = host.server.addr();
    let mut conn = host.server.conn();
    let head =
        format!("PUT {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: MogileFS::Client/1.17\r\n");
    conn.send(format!("{head}\r\n"));
    conn.response().expect(201, true);
    assert_eq!(host.server.read(path).expect("an empty file"), b"");
    for (nr, part) in bytes.chunks(piece).enumerate() {
        let (first, length) = (nr * piece, part.len());
        let last = first + length - 1;
        conn.send(format!(
            "{head}Content-Range: bytes {first}-{last}/*\r\nContent-Length: {length}\r\n\r\n"
        ));
        conn.send(part);
        conn.response().expect(201, true);
    }
}

/// Its reads: piece by piece, until 416.
#[track_caller]
fn read_in_pieces(host: &Host, path: &str, piece: usize) -> Vec<u8> {
    let mut conn = host.server.conn();
    let mut bytes = Vec::new();
    loop {
        let (first, last) = (bytes.len(), bytes.len() + piece - 1);
        let range = format!("bytes={first}-{last}");
        let reply = conn.get_with(path, &[("Range", &range)]);
        if reply.status == 416 {
            return bytes;
        }
        bytes.extend_from_slice(&reply.expect(206, true).body);
    }
}

/// The tracker's HEAD; `None`: missing.
#[track_caller]
fn size(agent: &mut Agent, host: SocketAddr, path: &str) -> Option<u64> {
    let reply = agent.ask(host, "HEAD", path, &[], b"");
    match reply.status {
        200 => Some(reply.content_length()),
        404 => None,
        other => panic!("HEAD {path}: {other}"),
    }
}

/// The replicator's two sockets: it passes on what comes, with the source's length and the class's digest.
struct Replicator {
    source: Conn,
    target: Conn,
}

impl Replicator {
    fn new(from: &Host, to: &Host) -> Replicator {
        Replicator {
            source: from.server.conn(),
            target: to.server.conn(),
        }
    }

    #[track_caller]
    fn copy(&mut self, from: &str, to: &str, digest: Option<&str>) -> u16 {
        self.source.send(format!(
            "GET {from} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        ));
        let head = self.source.head_of_response();
        head.expect(200, true);
        let length = head.content_length() as usize;
        let md5 = digest.map_or(String::new(), |md5| format!("Content-MD5: {md5}\r\n"));
        self.target.send(format!(
            "PUT {to} HTTP/1.0\r\nConnection: keep-alive\r\nContent-length: {length}\r\n{md5}\r\n"
        ));
        let mut left = length;
        while left > 0 {
            let bytes = self.source.read_exactly(left.min(1 << 20));
            left -= bytes.len();
            self.target.send(bytes);
        }
        let reply = self.target.response();
        assert!(reply.keeps_alive(), "{}", reply.status);
        reply.status
    }
}

/// What fsck finds of one replica.
#[derive(Debug, PartialEq)]
enum Replica {
    Good,
    Missing,
    WrongSize(u64),
    WrongDigest(String),
}

struct Fsck<'a> {
    agent: Agent,
    sides: Vec<(&'a Host, Side)>,
}

impl<'a> Fsck<'a> {
    fn new(hosts: &'a [Host]) -> Fsck<'a> {
        Fsck {
            agent: Agent::default(),
            sides: hosts.iter().map(|host| (host, Side::new(host))).collect(),
        }
    }

    #[track_caller]
    fn check(&mut self, device: u32, fid: u64, length: u64, md5: &str) -> Replica {
        let path = fid_path(device, fid);
        let has_it = |(host, _): &&mut (&Host, Side)| host.devices.contains(&device);
        let (host, side) = self.sides.iter_mut().find(has_it).expect("its host");
        match size(&mut self.agent, host.server.addr(), &path) {
            None => return Replica::Missing,
            Some(other) if other != length => return Replica::WrongSize(other),
            Some(_) => {}
        }
        match side.digest("MD5", &path, "fsck") {
            Digest::Is(same) if same == md5 => Replica::Good,
            Digest::Is(other) => Replica::WrongDigest(other),
            other => panic!("{path}: {other:?}"),
        }
    }
}

/// The delete job: any 2xx and 404 will do.
#[track_caller]
fn delete(agent: &mut Agent, host: &Host, path: &str) -> u16 {
    let reply = agent.ask(host.server.addr(), "DELETE", path, &[], b"");
    assert!(matches!(reply.status, 200..=299 | 404), "{}", reply.status);
    reply.status
}

/// One bit, in the middle, behind the server's back.
fn corrupt(host: &Host, path: &str) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(host.file(path))
        .expect("open");
    let middle = file.metadata().expect("stat").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], middle).expect("write");
}

#[test]
fn a_file_is_stored_replicated_checked_repaired_and_deleted() {
    let hosts = cluster();
    let [one, two] = &hosts;
    let mut agent = Agent::default();
    let mut replicator = Replicator::new(one, two);
    let mut fsck = Fsck::new(&hosts);
    let lengths = [0, 1, 4096, 40_000, 3 << 20];
    for (fid, length) in (70_u64..).zip(lengths) {
        let bytes = pattern(length);
        let (md5, base64) = (hex_md5(&bytes), content_md5(&bytes));
        let (first, second) = (fid_path(1, fid), fid_path(4, fid));
        upload(one, &first, &bytes);
        // create_close
        let addr = one.server.addr();
        assert_eq!(size(&mut agent, addr, &first), Some(length as u64));
        let is = Digest::Is(md5.clone());
        assert_eq!(Side::new(one).digest("MD5", &first, ""), is);
        assert_eq!(size(&mut agent, addr, &fid_path(2, fid)), None);
        // replicate: to the other host, checked on the way
        assert_eq!(replicator.copy(&first, &second, Some(&base64)), 201);
        let name = format!("{length} bytes on dev4");
        assert_same(&two.server.read(&second).expect("stored"), &bytes, &name);
        for device in [1, 4] {
            let found = fsck.check(device, fid, length as u64, &md5);
            assert_eq!(found, Replica::Good, "{length} bytes on dev{device}");
        }
        if length > 0 {
            corrupt(two, &second);
            let found = fsck.check(4, fid, length as u64, &md5);
            let wrong = hex_md5(&two.server.read(&second).expect("there"));
            assert_eq!(found, Replica::WrongDigest(wrong));
            assert_eq!(fsck.check(1, fid, length as u64, &md5), Replica::Good);
            // fsck's repair: deleted, and copied once more
            assert_eq!(delete(&mut agent, two, &second), 204);
            assert_eq!(fsck.check(4, fid, length as u64, &md5), Replica::Missing);
            assert_eq!(replicator.copy(&first, &second, None), 201);
            assert_eq!(fsck.check(4, fid, length as u64, &md5), Replica::Good);
            let file = fs::File::options().write(true).open(two.file(&second));
            file.expect("open").set_len(length as u64 - 1).expect("cut");
            let found = fsck.check(4, fid, length as u64, &md5);
            assert_eq!(found, Replica::WrongSize(length as u64 - 1));
        }
        for (host, path) in [(one, &first), (two, &second)] {
            assert_eq!(delete(&mut agent, host, path), 204);
            assert_eq!(delete(&mut agent, host, path), 404);
            assert_eq!(Side::new(host).digest("MD5", path, ""), Digest::Missing);
            assert_eq!(size(&mut agent, host.server.addr(), path), None);
            assert!(!host.file(path).exists());
        }
    }
    assert_eq!(agent.retries + fsck.agent.retries, 0);
    assert!(fsck.sides.iter().all(|(_, side)| side.connects == 1));
    for host in hosts {
        host.server.stop();
    }
}

/// A source that rots while it is copied: the target refuses what does not match the class's digest, keeps
/// nothing of it, and the kept connections go on.
#[test]
fn a_rotten_source_is_not_replicated() {
    let hosts = cluster();
    let [one, two] = &hosts;
    let bytes = pattern(200_000);
    let (first, second) = (fid_path(2, 90), fid_path(3, 90));
    upload(one, &first, &bytes);
    let digest = content_md5(&bytes);
    corrupt(one, &first);
    let mut replicator = Replicator::new(one, two);
    for _ in 0..3 {
        assert_eq!(replicator.copy(&first, &second, Some(&digest)), 400);
        assert!(!two.file(&second).exists());
    }
    upload(one, &first, &bytes);
    assert_eq!(replicator.copy(&first, &second, Some(&digest)), 201);
    assert_same(&two.server.read(&second).expect("stored"), &bytes, "dev3");
    for host in hosts {
        host.server.stop();
    }
}

#[test]
fn a_large_file_is_written_and_read_in_pieces() {
    let hosts = cluster();
    let [one, two] = &hosts;
    let bytes = pattern(1_234_567);
    let (first, second) = (fid_path(1, 91), fid_path(3, 91));
    upload_in_pieces(one, &first, &bytes, 300_000);
    assert_same(&one.server.read(&first).expect("stored"), &bytes, "dev1");
    let mode = one
        .file(&first)
        .metadata()
        .expect("stat")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);
    assert_same(&read_in_pieces(one, &first, 100_000), &bytes, "dev1");
    let mut replicator = Replicator::new(one, two);
    assert_eq!(replicator.copy(&first, &second, None), 201);
    assert_same(&read_in_pieces(two, &second, 65_536), &bytes, "dev3");
    let mut fsck = Fsck::new(&hosts);
    for device in [1, 3] {
        let found = fsck.check(device, 91, bytes.len() as u64, &hex_md5(&bytes));
        assert_eq!(found, Replica::Good);
    }
    drop(fsck);
    for host in hosts {
        host.server.stop();
    }
}

#[test]
fn eleven_digit_fids_and_long_device_ids_have_paths_too() {
    let host = Host::start([1, 16_777_215], |builder| builder);
    let path = fid_path(16_777_215, 99_999_999_999);
    assert_eq!(path, "/dev16777215/9/999/999/99999999999.fid");
    upload(&host, &path, b"far");
    let mut agent = Agent::default();
    assert_eq!(size(&mut agent, host.server.addr(), &path), Some(3));
    let is = Digest::Is(hex_md5(b"far"));
    assert_eq!(Side::new(&host).digest("MD5", &path, "fsck"), is);
    assert_eq!(delete(&mut agent, &host, &path), 204);
    host.server.stop();
}
