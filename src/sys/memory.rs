//! Memory that a parent and its forked children share.

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// What may lie in shared memory: plain atomics, for which all-zero bytes are
/// a value, and nothing that points anywhere.
///
/// # Safety
/// The type must be valid when zeroed, must not need dropping, and must be
/// changed through `&self` by atomic operations alone.
pub unsafe trait Shareable: Sync {}

// SAFETY: an integer, changed atomically.
unsafe impl Shareable for AtomicU64 {}
// SAFETY: the elements are.
unsafe impl<T: Shareable, const N: usize> Shareable for [T; N] {}

/// One `T` in pages that survive `fork` as the same pages. Lives until the
/// process ends: children may hold it longer than whoever made it.
pub struct Shared<T: Shareable + 'static> {
    page: NonNull<T>,
}

// SAFETY: `Shared` only ever gives out `&T`, and T is Sync.
unsafe impl<T: Shareable> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Shareable> Sync for Shared<T> {}

impl<T: Shareable> Shared<T> {
    /// Maps zeroed pages for one `T`.
    pub fn new() -> io::Result<Shared<T>> {
        // SAFETY: an anonymous mapping of our own size at an address that the
        // kernel picks; it overlaps nothing.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<T>().max(1),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANON,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(page.cast())
            .map(|page| Shared { page })
            .ok_or_else(|| io::Error::other("mmap returned address 0"))
    }
}

impl<T: Shareable> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: mapped for the life of the process, page-aligned, zeroed,
        // and a zeroed T is a T (`Shareable`).
        unsafe { self.page.as_ref() }
    }
}

impl<T: Shareable> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared { page: self.page }
    }
}
