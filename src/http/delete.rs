//! DELETE; and MKCOL, which is refused, so that trackers stop sending it.

use super::head::Head;
use super::{Answer, Outcome, Status};
use crate::store::path::StorePath;
use std::io;

/// Answers a DELETE of `path`: the name goes, whatever it is but a directory.
pub fn answer(head: &Head<'_>, path: &StorePath, to: &mut Answer<'_>) -> Outcome {
    if to.forbids_write(head, path) {
        return to.bare(Status::PreconditionFailed);
    }
    match to.site.store.delete(path, to.seat()) {
        Ok(()) => to.bare(Status::NoContent),
        Err(e) if is_directory(&e) => to.bare(Status::Forbidden),
        Err(e) => to.failed(head.method, path, &e),
    }
}

/// unlink(2) of a directory: EISDIR on Linux, EPERM by POSIX.
fn is_directory(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EISDIR | libc::EPERM))
}
