//! Files that are written to through a shared mapping: the kernel notes the time of the first store into a clean
//! page alone.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::{LASTS, conns_of_each, content, wait_until_old};
use crate::harness::{Server, eventually};

/// A file, mapped shared.
pub struct Mapping {
    at: *mut u8,
    len: usize,
}

impl Mapping {
    /// `len` is that of the file, and not 0.
    #[track_caller]
    pub fn of(path: &Path, len: usize) -> Mapping {
        let file = fs::OpenOptions::new().read(true).write(true).open(path);
        let file = file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, wherever the kernel likes; it outlives the descriptor
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        Mapping { at: at.cast(), len }
    }

    #[track_caller]
    pub fn store(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len, "within the mapping");
        // SAFETY: the mapping is as long, writable, and nobody else's in this process
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at, bytes.len()) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody has a reference into it
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// The page has been written to and is dirty still, so that the next store into it leaves no trace in any time of
/// the file: no question about the file can tell. What is kept of it is read anew soon.
#[test]
fn a_store_into_a_page_that_is_dirty_already_is_seen_soon() {
    const LEN: usize = 1024;
    let server = Server::builder().workers(2).start();
    let path = server.write("dev1/file", vec![0; LEN]);
    let mut mapping = Mapping::of(&path, LEN);
    mapping.store(&content(1, 1, LEN));
    let mut conns = conns_of_each(&server, 2);
    wait_until_old(&path);
    for conn in &mut conns {
        for _ in 0..4 {
            conn.get("/dev1/file").expect(200, true);
        }
    }
    mapping.store(&content(1, 2, LEN));
    let either = [content(1, 1, LEN), content(1, 2, LEN)];
    for conn in &mut conns {
        eventually("the store to be seen", LASTS, || {
            let body = conn.get("/dev1/file").expect(200, true).body.clone();
            assert!(either.contains(&body), "one of the two, whole");
            body == either[1]
        });
    }
    drop(conns);
    server.stop();
}
