//! What a conversation is about, for the ledger of the consumer that goes on
//! with it, and for whoever asks why it is still there.

use super::{Conversation, Phase, Waits};
use crate::ledger::{Act, Ledger};
use crate::sys::clock::Tick;

/// Of a request that has not been answered, so much is told. Bytes.
const TOLD: usize = 160;

impl Conversation {
    /// A transfer's next turn begins: from here on it may be held by its disk.
    pub(super) fn goes_on(&self, ledger: &Ledger) {
        let (held, over) = match &self.phase {
            Phase::Over(held) => (&**held, true),
            phase => (phase, false),
        };
        let act = |act| if over { Act::Close } else { act };
        match held {
            Phase::Receiving(receiving) => {
                let path = receiving.upload.path().as_c_str().to_bytes();
                ledger.about(&[b"PUT /", path], act(Act::Write));
            }
            Phase::Sending(sending, _) => {
                ledger.about(&[b"GET ", sending.target()], act(Act::Read));
            }
            _ => {}
        }
    }

    /// What it waits for, and for how many milliseconds, for a log line.
    pub fn tell(&self, now: Tick) -> (String, u32) {
        let what = match self.waits() {
            Waits::Request => "its next request".to_owned(),
            Waits::Head => format!("the rest of {}", self.asked()),
            Waits::Body => format!("the rest of {}", self.asked()),
            Waits::Send => format!("room in its socket, for {}", self.asked()),
            Waits::Linger => "the client's end".to_owned(),
            Waits::Device => format!("a place in its device, for {}", self.asked()),
            Waits::Consumer => format!("a consumer to close {}", self.asked()),
        };
        (what, now.since(self.since))
    }

    /// The request that is not done with.
    fn asked(&self) -> String {
        let phase = match &self.phase {
            Phase::Over(held) => held,
            phase => phase,
        };
        match phase {
            Phase::Receiving(receiving) => {
                let upload = &receiving.upload;
                let (path, written) = (upload.path().display(), upload.written());
                format!("PUT {path}, {written} bytes so far")
            }
            Phase::Sending(sending, _) => {
                let (target, left) = (sending.target().escape_ascii(), sending.left());
                format!("GET {target}, {left} bytes left")
            }
            Phase::Swallowing(swallowing) => first_line(&swallowing.head),
            _ => self.rest().map_or_else(
                || "its last reply".to_owned(),
                |rest| match rest.input() {
                    [] => "its last reply".to_owned(),
                    bytes => first_line(bytes),
                },
            ),
        }
    }
}

fn first_line(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| matches!(b, b'\r' | b'\n'));
    let line = &bytes[..end.unwrap_or(bytes.len()).min(TOLD)];
    format!("\"{}\"", line.escape_ascii())
}
