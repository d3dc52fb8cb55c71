//! One request's answer: who answers which method, what HTTP says of an errno,
//! and what follows the reply.

use super::conditional::{self, Verdict};
use super::head::{Bad, Head, Method};
use super::put::Receiving;
use super::response::{Date, Reply};
use super::{After, Status, delete, get, put};
use crate::buffer::Outbox;
use crate::device::{Line, Refusal as Refused, Ticket};
use crate::ledger::{Act, Ledger};
use crate::seats::Seat;
use crate::site::Site;
use crate::store::path::{Refusal, StorePath};
use crate::sys::clock;
use crate::sys::socket::Peer;
use std::fmt::Display;
use std::io;

/// What a request came to. Its reply, or the reply's head, is in the outbox.
pub enum Outcome {
    Done(After),
    Send(Box<get::Sending>, After),
    Receive(Box<Receiving>),
    /// Nothing was done: the request waits for a place in its device.
    Wait(Line),
}

/// A reply in the making.
pub struct Answer<'a> {
    pub site: &'a Site,
    pub outbox: &'a mut Outbox,
    pub keep_alive: bool,
    /// The device that was entered.
    pub line: Option<Line>,
    /// Of whoever answers: what it does in the device.
    pub ledger: &'a Ledger,
    peer: &'a Peer,
    ticket: &'a mut Ticket,
    date: &'a mut Date,
    /// The client does not expect the end that `keep_alive` announces, or has
    /// more to say than we read.
    surprise: bool,
}

impl<'a> Answer<'a> {
    pub fn new(
        site: &'a Site,
        peer: &'a Peer,
        ticket: &'a mut Ticket,
        outbox: &'a mut Outbox,
        date: &'a mut Date,
        ledger: &'a Ledger,
    ) -> Answer<'a> {
        let draining = site.is_draining();
        Answer {
            site,
            outbox,
            keep_alive: !draining,
            line: None,
            ledger,
            peer,
            ticket,
            date,
            surprise: draining,
        }
    }

    /// Answers `head`. `arrived`: bytes behind it that have come already.
    /// `body_left`: a body follows that nobody will read.
    pub fn request(
        &mut self,
        head: &Head<'_>,
        read_only: bool,
        arrived: u64,
        body_left: bool,
    ) -> Outcome {
        self.keep_alive &= head.keep_alive;
        if body_left {
            self.close();
        }
        let reads = matches!(head.method, Method::Get | Method::Head);
        if read_only && !reads {
            return match head.method {
                Method::Put => self.refuse_body(Status::MethodNotAllowed),
                _ => self.bare(Status::MethodNotAllowed),
            };
        }
        let path = match StorePath::parse(head.target) {
            Ok(path) => path,
            Err(refusal) => return self.refuse_path(head, refusal),
        };
        if head.method == Method::Put
            && let Err(refusal) = path.for_put()
        {
            return self.refuse_path(head, refusal);
        }
        // The docroot itself is answered for without looking at it, MKCOL
        // without looking at anything.
        if !path.is_root() && head.method != Method::Mkcol {
            match self.enter(&path) {
                Ok(()) => self.enters(head),
                Err(Refused::Wait(line)) => return Outcome::Wait(line),
                Err(refused) => return self.refuse_device(head.method, &path, refused),
            }
        }
        match head.method {
            Method::Get | Method::Head => get::answer(head, &path, self),
            Method::Delete => delete::answer(head, &path, self),
            Method::Put => put::begin(head, &path, arrived, self),
            Method::Mkcol => self.bare(Status::BadRequest),
        }
    }

    /// Answers `head` if that takes no disk, from memory. None: nothing was done.
    pub fn at_once(&mut self, head: &Head<'_>) -> Option<Outcome> {
        if !get::is_plain(head) || !head.framing.is_empty() {
            return None;
        }
        let path = StorePath::parse(head.target).ok()?;
        // A dead device answers nothing, whatever is remembered of it.
        let (devices, nr) = (&self.site.devices, self.site.nr);
        let line = self.ticket.enter_at_once(devices, nr, path.device());
        self.line = Some(line.ok()?);
        self.keep_alive &= head.keep_alive;
        // The kernel refuses where it would have to wait; should it wait
        // nevertheless, the log has what for.
        self.ledger.then_about(&subject(head), Act::Open);
        let outcome = get::at_once(&path, self);
        if outcome.is_none() {
            self.ticket.leave();
        }
        outcome
    }

    /// The consumer's, which is to know what may wait.
    pub fn seat(&self) -> &Seat {
        self.ticket.seat()
    }

    /// The same, and where what is read goes.
    pub fn reads(&mut self) -> (&Seat, &mut Vec<u8>) {
        (self.ticket.seat(), self.outbox.buf())
    }

    fn enter(&mut self, path: &StorePath) -> Result<(), Refused> {
        let site = self.site;
        let line = self.ticket.enter(&site.devices, site.nr, path.device())?;
        self.line = Some(line);
        Ok(())
    }

    /// For the ledger: it may not come back.
    fn enters(&self, head: &Head<'_>) {
        let act = match head.method {
            Method::Delete => Act::Remove,
            _ => Act::Open,
        };
        self.ledger.about(&subject(head), act);
    }

    /// No place in the device, now or ever.
    fn refuse_device(&mut self, method: Method, path: &StorePath, refused: Refused) -> Outcome {
        self.note(method, path, refused.why());
        if method == Method::Put {
            return self.refuse_body(Status::Unavailable);
        }
        self.bare(Status::Unavailable)
    }

    /// Whether a condition of the request (If-Match and the like) forbids to
    /// write to `path` as it is now.
    pub fn forbids_write(&self, head: &Head<'_>, path: &StorePath) -> bool {
        if !conditional::binds_writes(head) {
            return false;
        }
        let now = self.site.store.read(path, self.seat()).ok();
        let now = now.map(|opened| get::validators(&opened.facts));
        conditional::evaluate(head, now.as_ref()) == Verdict::PreconditionFailed
    }

    /// The writer of this reply's head.
    pub fn reply(&mut self) -> Reply<'_> {
        Reply {
            out: self.outbox.buf(),
            // Now: a disk may have held up what is told here.
            date: self.date.at(clock::unix_seconds()),
            keep_alive: self.keep_alive,
        }
    }

    /// The connection ends after this reply, against the client's expectation.
    fn close(&mut self) {
        self.keep_alive = false;
        self.surprise = true;
    }

    fn after(&self) -> After {
        match (self.keep_alive, self.surprise) {
            (true, _) => After::Request,
            (false, true) => After::Linger,
            (false, false) => After::Close,
        }
    }

    /// The reply is complete.
    pub fn done(&self) -> Outcome {
        Outcome::Done(self.after())
    }

    /// The reply's head is complete, a file follows.
    pub fn send(&self, sending: get::Sending) -> Outcome {
        Outcome::Send(Box::new(sending), self.after())
    }

    /// A reply without content.
    pub fn bare(&mut self, status: Status) -> Outcome {
        self.reply().bare(status);
        self.done()
    }

    /// The same, and the connection ends: a body is on its way that nobody will
    /// read.
    pub fn refuse_body(&mut self, status: Status) -> Outcome {
        self.close();
        self.bare(status)
    }

    /// A request that breaks the rules.
    pub fn refuse(&mut self, bad: Bad) -> Outcome {
        crate::log::client(format_args!(
            "{} refused: {} ({})",
            self.peer,
            bad.why,
            bad.status.line()
        ));
        self.refuse_body(bad.status)
    }

    /// A head that did not come to its end in time.
    pub fn time_out(&mut self) -> Outcome {
        self.refuse(Bad {
            status: Status::RequestTimeout,
            why: "no whole request head within --head-timeout",
        })
    }

    /// A target that is no path here. Escapes are answered as any forbidden
    /// path; a PUT's body makes each failure the connection's end.
    fn refuse_path(&mut self, head: &Head<'_>, refusal: Refusal) -> Outcome {
        let (status, why) = match refusal {
            Refusal::Escapes => (Status::Forbidden, "path contains .."),
            Refusal::Invalid => (Status::BadRequest, "path that nothing can have"),
            Refusal::TooLong => (Status::UriTooLong, "path too long"),
        };
        if refusal != Refusal::Escapes || head.method == Method::Put {
            self.close();
        }
        crate::log::client(format_args!(
            "{} {} {} refused: {why} ({})",
            self.peer,
            head.method.name(),
            head.target[..head.target.len().min(256)].escape_ascii(),
            status.line()
        ));
        self.bare(status)
    }

    /// A system call on the path failed: what HTTP says of it. Logged, unless
    /// it is only that the file is not there.
    pub fn failed(&mut self, method: Method, path: &StorePath, e: &io::Error) -> Outcome {
        let status = status_of(e);
        if status != Status::NotFound {
            self.note(method, path, e);
        }
        if method == Method::Put {
            return self.refuse_body(status);
        }
        if status == Status::InsufficientStorage {
            self.close();
        }
        self.bare(status)
    }

    /// A file that shrank (or failed) before its reply had left: the reply was
    /// taken back, and the connection ends without it.
    pub fn cut_short(&mut self, head: &Head<'_>, e: Option<io::Error>) -> Outcome {
        let why: &dyn Display = match &e {
            Some(e) => e,
            None => &"the file has become shorter",
        };
        crate::log::client(format_args!(
            "{} {} {} failed: {why}",
            self.peer,
            head.method.name(),
            head.target.escape_ascii()
        ));
        Outcome::Done(After::Close)
    }

    /// One line about a request that went wrong.
    pub fn note(&self, method: Method, path: &StorePath, why: impl Display) {
        crate::log::client(format_args!(
            "{} {} {} failed: {why}",
            self.peer,
            method.name(),
            path.display()
        ));
    }
}

/// What a request is about, for the ledger.
fn subject<'a>(head: &Head<'a>) -> [&'a [u8]; 3] {
    [head.method.name().as_bytes(), b" ", head.target]
}

/// What HTTP says of an errno: the one table.
pub fn status_of(e: &io::Error) -> Status {
    match e.raw_os_error().unwrap_or_default() {
        libc::ENOENT => Status::NotFound,
        // EXDEV, ELOOP: a symlink that leads out of its device.
        libc::EACCES | libc::EPERM | libc::EXDEV | libc::ELOOP => Status::Forbidden,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::ERANGE => Status::InsufficientStorage,
        // EAGAIN: others rename faster than a path can be resolved.
        // EROFS: the disk has been remounted after an error, or is about to go.
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN | libc::EROFS => {
            Status::Unavailable
        }
        _ => Status::InternalError,
    }
}
