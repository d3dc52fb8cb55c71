//! A request's body as it comes: so many bytes, or chunks. Pure.

use super::chunked::{Decoder, Step};
use super::head::{Bad, Framing};
use std::ops::Range;

/// What is still to come of a body.
#[derive(Debug)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Decoder),
}

/// What the start of a buffer turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// These bytes of the buffer are body.
    pub data: Range<usize>,
    /// Bytes of the buffer that are done with; never one beyond the body.
    pub consumed: usize,
    /// The body is complete.
    pub done: bool,
}

impl Body {
    /// `want_md5_trailer`: see [`Decoder::new`].
    pub fn new(framing: &Framing, want_md5_trailer: bool) -> Body {
        match framing {
            Framing::None => Body::Length(0),
            Framing::Length(len) => Body::Length(*len),
            Framing::Chunked => Body::Chunked(Decoder::new(want_md5_trailer)),
        }
    }

    /// Takes one piece from the start of `buf`.
    pub fn take(&mut self, buf: &[u8]) -> Result<Piece, Bad> {
        match self {
            Body::Length(left) => {
                let n = (*left).min(buf.len() as u64) as usize;
                *left -= n as u64;
                Ok(Piece {
                    data: 0..n,
                    consumed: n,
                    done: *left == 0,
                })
            }
            Body::Chunked(decoder) => Ok(match decoder.decode(buf)? {
                Step::Data(data) => Piece {
                    consumed: data.end,
                    data,
                    done: false,
                },
                Step::More(consumed) => Piece {
                    data: 0..0,
                    consumed,
                    done: false,
                },
                Step::Done(consumed) => Piece {
                    data: 0..0,
                    consumed,
                    done: true,
                },
            }),
        }
    }

    /// The checksum that came behind a chunked body.
    pub fn trailer_md5(&self) -> Option<[u8; 16]> {
        match self {
            Body::Length(_) => None,
            Body::Chunked(decoder) => decoder.trailer_md5(),
        }
    }
}
