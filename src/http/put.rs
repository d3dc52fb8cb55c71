//! PUT: a body on its way to the disk.

use super::body::Body;
use super::head::{Bad, Framing, Head, Method};
use super::{Answer, Outcome, Status};
use crate::store::path::StorePath;
use crate::store::upload::{Comes, Upload};
use crate::sys::clock::Tick;
use md5::{Digest, Md5};
use std::io;

/// A body up to this is short: its space is not reserved, since writing it tells
/// about as soon that the disk is full. Bytes.
const SHORT: u64 = 1024 * 1024;

/// An upload that is under way.
pub struct Receiving {
    pub upload: Upload,
    body: Body,
    checksum: Checksum,
    keep_alive: bool,
    /// When the body's last bytes came.
    pub heard: Tick,
}

/// What the client said about the body's MD5.
struct Checksum {
    digest: Option<Md5>,
    header: Option<[u8; 16]>,
    /// It announced one behind a chunked body, and owes it.
    trailer: bool,
}

impl Checksum {
    fn new(head: &Head<'_>) -> Checksum {
        let trailer = head.trailer_md5 && head.framing == Framing::Chunked;
        Checksum {
            digest: (head.content_md5.is_some() || trailer).then(Md5::new),
            header: head.content_md5,
            trailer,
        }
    }

    /// Whether the body is what the client said it would be.
    fn holds(self, trailer: Option<[u8; 16]>) -> bool {
        let Some(digest) = self.digest else {
            return true;
        };
        let found: [u8; 16] = digest.finalize().into();
        let right = |claim: Option<[u8; 16]>| claim.is_none_or(|claim| claim == found);
        (trailer.is_some() || !self.trailer) && right(self.header) && right(trailer)
    }
}

/// What the bytes that came did to an upload.
pub enum Fed {
    /// It goes on; so many bytes are consumed.
    More(usize),
    /// The body is complete; so many bytes are consumed.
    Complete(usize),
    /// The client broke the framing.
    Bad(Bad),
    /// The disk refused.
    Failed(io::Error),
}

/// Begins a PUT to `path`. `arrived`: bytes of its body that are there already.
pub fn begin(head: &Head<'_>, path: &StorePath, arrived: u64, to: &mut Answer<'_>) -> Outcome {
    if to.forbids_write(head, path) {
        return to.refuse_body(Status::PreconditionFailed);
    }
    let known = match head.framing {
        Framing::Length(len) => Some(len),
        Framing::None | Framing::Chunked => None,
    };
    // What has arrived needs no reserve: writing it tells as much.
    let comes = match known {
        Some(len) if len <= arrived => Comes::AtOnce,
        Some(len) if len <= SHORT && !head.expect_continue => Comes::Unreserved,
        Some(len) => Comes::Later(len),
        None => Comes::Unreserved,
    };
    let store = &to.site.store;
    let upload = match &head.content_range {
        Some(range) => store.upload_in_place(path, range.first, to.seat()),
        None => store.upload(path, comes, to.seat()),
    };
    match upload {
        Ok(upload) => {
            if head.expect_continue && arrived == 0 && known != Some(0) {
                let out = to.outbox.buf();
                out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            let checksum = Checksum::new(head);
            Outcome::Receive(Box::new(Receiving {
                upload,
                body: Body::new(
                    &head.framing,
                    checksum.trailer || head.content_md5.is_some(),
                ),
                checksum,
                keep_alive: to.keep_alive,
                heard: Tick::now(),
            }))
        }
        Err(e) => to.failed(Method::Put, path, &e),
    }
}

impl Receiving {
    /// Writes what came of the body.
    pub fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut at = 0;
        loop {
            let piece = match self.body.take(&bytes[at..]) {
                Ok(piece) => piece,
                Err(bad) => return Fed::Bad(bad),
            };
            let data = &bytes[at..][piece.data];
            if let Some(digest) = &mut self.checksum.digest {
                digest.update(data);
            }
            if let Err(e) = self.upload.write(data) {
                return Fed::Failed(e);
            }
            at += piece.consumed;
            if piece.done {
                return Fed::Complete(at);
            }
            if at == bytes.len() {
                return Fed::More(at);
            }
        }
    }

    /// The body is complete: check it, and make it visible.
    pub fn finish(self: Box<Self>, to: &mut Answer<'_>) -> Outcome {
        let Receiving {
            upload,
            body,
            checksum,
            keep_alive,
            ..
        } = *self;
        to.keep_alive &= keep_alive;
        if !checksum.holds(body.trailer_md5()) {
            to.note(Method::Put, upload.path(), "its Content-MD5 does not match");
            return to.bare(Status::BadRequest);
        }
        match upload.commit(&to.site.store, to.seat()) {
            Ok(()) => to.bare(Status::Created),
            Err((path, e)) => to.failed(Method::Put, &path, &e),
        }
    }

    /// The line that an upload which did not end well leaves behind.
    pub fn epitaph(&self, peer: &impl std::fmt::Display, why: &dyn std::fmt::Display) {
        crate::log::client(format_args!(
            "PUT {} failed from {peer} after {} bytes: {why} (last_data_recv={}ms)",
            self.upload.path().display(),
            self.upload.written(),
            Tick::now().since(self.heard),
        ));
    }
}
