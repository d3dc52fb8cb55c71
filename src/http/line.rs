//! How a conversation waits for its device: it leaves the consumer with what it
//! has, and is called back with a pass, or too late.

use super::turn::Account;
use super::{Conversation, Phase, Status, Visit};
use crate::device::{Line, Refusal};
use crate::queue::{Next, Wait};
use std::io;

impl Conversation {
    /// Waits for a place in a device with the request that needs it, which stays
    /// as it is and is done again then.
    pub(super) fn line_up(
        &mut self,
        visit: &mut Visit<'_>,
        account: &mut Account,
        line: Line,
    ) -> io::Result<Next> {
        let progress = &mut account.progress;
        if !visit.desk.can_be_called(visit.socket, progress)? {
            return Ok(Next::Rearm(Wait::Write));
        }
        self.line = Some(line);
        Ok(Next::Detach)
    }

    /// A transfer's next turn enters its device again; so does the end of one:
    /// what is dropped then may be on a disk too.
    pub(super) fn enter_again(&mut self, visit: &mut Visit<'_>) -> Result<(), Refusal> {
        match (&self.phase, self.line) {
            (Phase::Receiving(_) | Phase::Sending(..) | Phase::Over(_), Some(line)) => {
                visit.ticket.enter_again(&visit.site.devices, line)
            }
            _ => Ok(()),
        }
    }

    /// The device of a transfer has become busy or dead: an upload is refused,
    /// a reply that has begun can only be cut. Their files are on that device,
    /// so they are not closed here.
    pub(super) fn give_up(
        &mut self,
        visit: &mut Visit<'_>,
        account: &mut Account,
        refused: Refusal,
    ) -> Next {
        let held = std::mem::replace(&mut self.phase, Phase::Head);
        let line = self.line.take();
        match &held {
            Phase::Receiving(receiving) => receiving.epitaph(visit.peer, &refused.why()),
            Phase::Sending(sending, _) => crate::log::client(format_args!(
                "a file sent to {} was cut {} bytes before its end: {}",
                visit.peer,
                sending.left(),
                refused.why()
            )),
            _ => {}
        }
        let is_upload = matches!(held, Phase::Receiving(_));
        if let Some(line) = line {
            visit.site.devices.close_later(line, held);
        }
        if !is_upload {
            return Next::Close;
        }
        let outcome = visit.answer().refuse_body(Status::Unavailable);
        self.follow(outcome);
        match visit.desk.flush(visit.socket, &mut account.progress) {
            // The next turn ends the connection.
            Ok(true) => Next::Rearm(Wait::ReadWrite),
            Ok(false) => Next::Rearm(Wait::Write),
            Err(e) => self.gone(visit, &e),
        }
    }
}
