//! GET and HEAD.

use super::conditional::{self, Validators, Verdict};
use super::head::{Head, Method};
use super::range::{self, Ranges, Span};
use super::response::{self, About, Content, part_head, parts_end};
use super::{Answer, Outcome, Status};
use crate::buffer::Outbox;
use crate::ledger::Act;
use crate::seats::Seat;
use crate::store::cache::{Kept, MAX_KEPT};
use crate::store::download::{Download, Sent};
use crate::store::path::StorePath;
use crate::store::{Found, Opened};
use crate::sys::file::{Facts, Kind};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A file (or a part of one) up to this length leaves in one send with its
/// header; a longer one by sendfile. Bytes.
const INLINE: u64 = MAX_KEPT;

/// What is kept of a longer file is sent as it is, without a copy. Bytes.
const COPIED: usize = 8 * 1024;

/// What one turn sends of a file before others get theirs. Bytes.
pub const TURN: usize = 256 * 1024;

/// Answers a GET or HEAD of `path`.
pub fn answer(head: &Head<'_>, path: &StorePath, to: &mut Answer<'_>) -> Outcome {
    if path.is_root() {
        // For `mogadm check`; a Range is ignored, there is nothing to cut.
        let about = About {
            mtime: 0,
            etag: None,
        };
        to.reply().content(&about, &Content::Whole(0));
        return to.done();
    }
    let found = if is_plain(head) {
        to.site.store.find(path, to.seat())
    } else {
        to.site.store.read(path, to.seat()).map(Found::File)
    };
    match found {
        Ok(Found::Kept(kept)) => kept_reply(kept, to),
        Ok(Found::File(opened)) if opened.facts.kind == Kind::Regular => {
            file_reply(head, path, opened, to)
        }
        Ok(Found::File(_)) => to.bare(Status::Forbidden),
        Err(e) => to.failed(head.method, path, &e),
    }
}

/// Whether a whole file is asked for, whatever it is.
pub fn is_plain(head: &Head<'_>) -> bool {
    head.method == Method::Get && head.range.is_none() && !conditional::has_conditions(head)
}

/// Answers such a request if no disk need be asked.
pub fn at_once(path: &StorePath, to: &mut Answer<'_>) -> Option<Outcome> {
    let kept = to.site.store.recall(path)?;
    Some(kept_reply(kept, to))
}

/// A file that is still what it was is answered with the words of the last time.
fn kept_reply(kept: Arc<Kept>, to: &mut Answer<'_>) -> Outcome {
    let words = kept.note(|| {
        let now = validators(kept.facts());
        response::words(&about(&now), kept.facts().size)
    });
    if kept.content().len() <= COPIED {
        to.reply().again(words, kept.content());
    } else {
        to.reply().again(words, &[]);
        to.outbox.put_body(kept);
    }
    to.done()
}

fn file_reply(head: &Head<'_>, path: &StorePath, opened: Opened, to: &mut Answer<'_>) -> Outcome {
    let Opened {
        file,
        ref facts,
        is_settled,
    } = opened;
    let now = validators(facts);
    let about = about(&now);
    let wanted = match conditional::evaluate(head, Some(&now)) {
        Verdict::Proceed if head.method == Method::Get => head.range,
        Verdict::Proceed | Verdict::ProceedIgnoringRange => None,
        Verdict::NotModified => {
            to.reply().not_modified(&about);
            return to.done();
        }
        Verdict::PreconditionFailed => return to.bare(Status::PreconditionFailed),
    };
    let (span, content) = match range::resolve(wanted, facts.size) {
        Ok(Ranges::Whole) => (Span::whole(facts.size), Content::Whole(facts.size)),
        Ok(Ranges::One(span)) => (span, Content::Part(span, facts.size)),
        Ok(Ranges::Many(spans)) => return many(head, file, facts, &about, &spans, to),
        Ok(Ranges::Unsatisfiable) => {
            to.reply().unsatisfiable(facts.size);
            return to.done();
        }
        Err(bad) => return to.refuse(bad),
    };
    let start = to.outbox.buf().len();
    to.reply().content(&about, &content);
    if head.method == Method::Head || span.is_empty() {
        return to.done();
    }
    let download = Download::new(file, span.len());
    if span.len() > INLINE {
        return to.send(Sending::one(download, span, head.target));
    }
    to.ledger.then(Act::Read);
    let site = to.site;
    let (seat, out) = to.reads();
    let begin = out.len();
    match download.read_into(out, span.first(), span.len() as usize, seat) {
        Ok(n) if n as u64 == span.len() => {
            if is_settled && span.len() == facts.size {
                let content = &out[begin..];
                site.store.keep(path, download.file(), facts, content);
            }
            to.done()
        }
        // It shrank since fstat: the reply must not go out at all.
        short => {
            out.truncate(start);
            to.cut_short(head, short.err())
        }
    }
}

/// What a reply says of such a file.
fn about(now: &Validators) -> About<'_> {
    About {
        mtime: now.mtime_secs,
        etag: Some(&now.etag),
    }
}

/// What conditional requests compare with.
pub fn validators(facts: &Facts) -> Validators {
    Validators::new(
        facts.inode,
        facts.size,
        facts.mtime,
        i64::from(facts.mtime_nsec),
    )
}

fn many(
    head: &Head<'_>,
    file: File,
    facts: &Facts,
    about: &About<'_>,
    spans: &[Span],
    to: &mut Answer<'_>,
) -> Outcome {
    // Nothing of a file can be taken for a boundary: lengths are known, and
    // this one cannot be guessed by whoever stored it before now.
    let boundary = format!(
        "{:016x}{:08x}",
        crate::sys::clock::seed(),
        facts.inode as u32
    );
    let mut parts: Vec<Part> = spans
        .iter()
        .enumerate()
        .map(|(nr, span)| Part {
            before: part_head(&boundary, *span, facts.size, nr == 0),
            span: *span,
        })
        .collect();
    let after = parts_end(&boundary);
    let len = |part: &Part| part.before.len() as u64 + part.span.len();
    let total = parts.iter().map(len).sum::<u64>() + after.len() as u64;
    to.reply().content(about, &Content::Parts(total, &boundary));
    parts.reverse();
    to.send(Sending {
        download: Download::new(file, total),
        offset: 0,
        left: 0,
        parts,
        after,
        target: head.target.into(),
    })
}

/// A file on its way out, its header sent or in the outbox.
pub struct Sending {
    download: Download,
    /// Of the span that is being sent.
    offset: u64,
    left: u64,
    /// What follows it, the next one last.
    parts: Vec<Part>,
    /// What follows the last part.
    after: Vec<u8>,
    /// What the client asked for, for log lines.
    target: Box<[u8]>,
}

struct Part {
    before: Vec<u8>,
    span: Span,
}

/// How far a turn of sending came.
#[derive(Debug, PartialEq, Eq)]
pub enum Sends {
    /// All is sent, or in the outbox.
    Done,
    /// The turn's share is.
    Turn,
    /// The socket is full.
    Blocked,
    /// The file shrank.
    Short,
}

impl Sending {
    fn one(download: Download, span: Span, target: &[u8]) -> Sending {
        Sending {
            download,
            offset: span.first(),
            left: span.len(),
            parts: Vec::new(),
            after: Vec::new(),
            target: target.into(),
        }
    }

    /// What the client asked for, as it spelled it.
    pub fn target(&self) -> &[u8] {
        &self.target
    }

    /// Bytes of the file that are still to be sent, for a log line.
    pub fn left(&self) -> u64 {
        self.left + self.parts.iter().map(|part| part.span.len()).sum::<u64>()
    }

    /// Sends one turn's share. `sent` grows by what the socket took.
    pub fn turn(
        &mut self,
        socket: BorrowedFd<'_>,
        outbox: &mut Outbox,
        sent: &mut usize,
        seat: &Seat,
    ) -> io::Result<Sends> {
        loop {
            let waiting = outbox.len();
            let flushed = outbox.flush(socket, self.left > 0 || !self.parts.is_empty())?;
            *sent += waiting - outbox.len();
            if !flushed {
                return Ok(Sends::Blocked);
            }
            while self.left > 0 {
                let share = (TURN.saturating_sub(*sent) as u64).min(self.left) as usize;
                if share == 0 {
                    return Ok(Sends::Turn);
                }
                match self.download.send(socket, self.offset, share, seat)? {
                    Sent::Bytes(n) => {
                        *sent += n;
                        self.offset += n as u64;
                        self.left -= n as u64;
                    }
                    Sent::Blocked => return Ok(Sends::Blocked),
                    Sent::Short => return Ok(Sends::Short),
                }
            }
            let Some(part) = self.parts.pop() else {
                outbox.buf().append(&mut self.after);
                return Ok(Sends::Done);
            };
            outbox.buf().extend_from_slice(&part.before);
            (self.offset, self.left) = (part.span.first(), part.span.len());
        }
    }
}
