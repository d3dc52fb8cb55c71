//! One file that a change will be made to, and all that the server may say of it before and after.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::content;
use crate::harness::{Conn, Response, Server, assert_same};

/// What there is to be seen after a step.
pub enum Want {
    Body(Vec<u8>),
    Status(u16),
}

/// Changes something, and says what is to be seen from then on.
pub type Step = fn(&Place<'_>) -> Want;

/// A folder of its own on the device, in it `a/file` (version 1) and `b/file` (version 2), equally old and long.
pub struct Place<'a> {
    pub kind: &'static str,
    pub len: usize,
    /// Tells its contents from others'.
    pub id: usize,
    pub steps: &'a [Step],
    /// What the client asks for, below `folder`.
    pub asks: &'static str,
    pub folder: PathBuf,
    pub target: String,
    /// Where no request may come to.
    pub outside: PathBuf,
    /// Known once the server runs.
    pub addr: Option<std::net::SocketAddr>,
}

impl Place<'_> {
    /// Makes what the requests before the change see.
    pub fn prepare(&self) {
        for (folder, version) in [("a", 1), ("b", 2)] {
            let folder = self.folder.join(folder);
            fs::create_dir_all(&folder).expect("mkdir");
            fs::write(folder.join("file"), self.version(version)).expect("write");
        }
        std::os::unix::fs::symlink("a", self.folder.join("link")).expect("symlink");
        fs::create_dir(&self.outside).expect("mkdir");
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.join(below)
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("a/file")
    }

    pub fn version(&self, version: u64) -> Vec<u8> {
        content(self.id, version, self.len)
    }

    pub fn shows(&self, version: u64) -> Want {
        Want::Body(self.version(version))
    }

    pub fn conn(&self) -> Conn {
        Conn::connect(self.addr.expect("the server runs"))
    }

    /// A complete file of a new version, in the same folder.
    pub fn beside(&self, version: u64) -> PathBuf {
        let path = self.folder.join(format!("beside.{version}"));
        fs::write(&path, self.version(version)).expect("write");
        path
    }

    fn name(&self) -> String {
        format!("{}, {} bytes", self.kind, self.len)
    }
}

/// The entity tags that were seen of a place, and the one of its last state.
#[derive(Default)]
pub struct Tags {
    bodies: BTreeMap<String, Vec<u8>>,
    last: Option<String>,
}

impl Tags {
    /// The same tag, the same bytes.
    #[track_caller]
    fn learn(&mut self, reply: &Response, body: &[u8], what: &str) {
        let known = self.bodies.entry(reply.etag()).or_insert(body.to_vec());
        assert_same(
            body,
            known,
            &format!("{what}: the body of {}", reply.etag()),
        );
    }
}

/// Asks often enough that whoever keeps files keeps this one.
#[track_caller]
pub fn warm(place: &Place<'_>, conns: &mut [Conn], times: usize, tags: &mut Tags) {
    let what = place.name();
    let target = &place.target;
    let other = target.replace(place.asks, "b/file");
    for conn in conns {
        for turn in 0..times {
            let reply = conn.get(target);
            assert_same(&reply.expect(200, true).body, &place.version(1), &what);
            tags.learn(&reply, &reply.body, &what);
            tags.last = Some(reply.etag());
            if turn % 2 == 0 {
                let reply = conn.get(&other);
                assert_same(&reply.expect(200, true).body, &place.version(2), &what);
            }
        }
    }
}

/// The requests that a state is checked by. Each connection begins with another one.
const ASKED: usize = 5;

/// What one connection after the other sees, and then two new ones.
#[track_caller]
pub fn check(
    place: &Place<'_>,
    step: usize,
    want: &Want,
    server: &Server,
    conns: &mut [Conn],
    tags: &mut Tags,
) {
    let what = format!("{}, after step {step}", place.name());
    let old = tags.last.clone();
    let mut seen = Seen {
        what,
        old,
        now: None,
        not_modified: false,
    };
    let mut new = [server.conn(), server.conn()];
    for (nr, conn) in new.iter_mut().chain(conns.iter_mut()).enumerate() {
        for turn in 0..ASKED {
            seen.ask((nr + turn) % ASKED, conn, &place.target, want, tags);
        }
    }
    if seen.not_modified {
        assert_eq!(seen.now, seen.old, "{}: 304 for an old tag", seen.what);
    }
    tags.last = seen.now.or(seen.old);
}

struct Seen {
    what: String,
    /// The tag before the change.
    old: Option<String>,
    /// The tag since.
    now: Option<String>,
    /// The old tag got 304.
    not_modified: bool,
}

impl Seen {
    #[track_caller]
    fn ask(&mut self, nr: usize, conn: &mut Conn, target: &str, want: &Want, tags: &mut Tags) {
        let body = match want {
            Want::Body(body) => body,
            Want::Status(status) => return self.ask_refused(nr, conn, target, *status),
        };
        let what = self.what.clone();
        match nr {
            0 => {
                let reply = conn.get(target);
                assert_eq!(reply.status, 200, "{what}: GET");
                assert_same(&reply.body, body, &format!("{what}: GET"));
                if !what.contains("in secret") {
                    tags.learn(&reply, body, &what);
                }
                self.tag(&reply);
            }
            1 => {
                let reply = conn.head(target);
                assert_eq!(reply.status, 200, "{what}: HEAD");
                assert_eq!(reply.content_length(), body.len() as u64, "{what}: HEAD");
                self.tag(&reply);
            }
            2 => {
                // a suffix: of what is shorter, all
                let reply = conn.get_with(target, &[("Range", "bytes=-700")]);
                let wanted = match body.len() {
                    0 => 416,
                    1..=700 => 200,
                    _ => 206,
                };
                assert_eq!(reply.status, wanted, "{what}: Range");
                let tail = &body[body.len().saturating_sub(700)..];
                assert_same(&reply.body, tail, &format!("{what}: Range"));
                if wanted == 206 {
                    let from = body.len() - tail.len();
                    let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                    assert_eq!(reply.must("Content-Range"), range, "{what}");
                    self.tag(&reply);
                }
            }
            3 => {
                let Some(old) = self.old.clone() else { return };
                let reply = conn.get_with(target, &[("If-None-Match", &old)]);
                // who puts the time of modification back gets the same tag for other bytes
                let same = tags.bodies.get(&old).is_some_and(|known| known == body);
                if reply.status == 304 && (same || what.contains("in secret")) {
                    self.not_modified = true;
                } else {
                    assert_eq!(reply.status, 200, "{what}: If-None-Match of the old");
                    assert_same(&reply.body, body, &format!("{what}: If-None-Match"));
                    self.tag(&reply);
                }
            }
            _ => {
                let Some(now) = self.now.clone() else { return };
                let reply = conn.get_with(target, &[("If-None-Match", &now)]);
                assert_eq!(reply.status, 304, "{what}: If-None-Match of the new");
                let reply = conn.get_with(target, &[("If-Match", &now)]);
                assert_eq!(reply.status, 200, "{what}: If-Match of the new");
                assert_same(&reply.body, body, &format!("{what}: If-Match"));
            }
        }
    }

    #[track_caller]
    fn ask_refused(&mut self, nr: usize, conn: &mut Conn, target: &str, status: u16) {
        let old = self.old.clone().unwrap_or_default();
        let reply = match nr {
            0 => conn.get(target),
            1 => conn.head(target),
            2 => conn.get_with(target, &[("Range", "bytes=-700")]),
            3 => conn.get_with(target, &[("If-None-Match", &old)]),
            _ => conn.get_with(target, &[("If-Match", &old)]),
        };
        assert_eq!(reply.status, status, "{}: request {nr}", self.what);
    }

    #[track_caller]
    fn tag(&mut self, reply: &Response) {
        let tag = reply.etag();
        let now = self.now.get_or_insert_with(|| tag.clone());
        assert_eq!(*now, tag, "{}: two tags of one state", self.what);
    }
}

/// Hands all of it to the user that the server runs as.
pub fn give(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).expect("chown");
    if path.symlink_metadata().expect("stat").is_dir() {
        for entry in fs::read_dir(path).expect("readdir").map(Result::unwrap) {
            give(&entry.path(), user);
        }
    }
}
