//! Memory that processes share, and files that are nothing but memory.

use super::{check, own};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// What may lie in shared memory: plain atomics, for which any bytes are
/// a value, and nothing that points anywhere.
///
/// # Safety
/// The type must be valid whatever its bytes are, must not need dropping, and
/// must be changed through `&self` by atomic operations alone.
pub unsafe trait Shareable: Sync {}

// SAFETY: an integer, changed atomically.
unsafe impl Shareable for AtomicU64 {}
// SAFETY: the elements are.
unsafe impl<T: Shareable, const N: usize> Shareable for [T; N] {}

/// One `T` in pages that survive `fork` as the same pages, and that another
/// image of the program maps by their descriptor. Lives until the process ends:
/// children may hold it longer than whoever made it.
pub struct Shared<T: Shareable + 'static> {
    page: NonNull<T>,
}

// SAFETY: `Shared` only ever gives out `&T`, and T is Sync.
unsafe impl<T: Shareable> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Shareable> Sync for Shared<T> {}

/// No seal but these can change what is mapped.
const SIZE_SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

impl<T: Shareable> Shared<T> {
    /// Zeroed pages for one `T`, and their descriptor. The pages do not need it.
    pub fn new(name: &CStr) -> io::Result<(Shared<T>, OwnedFd)> {
        let file = File::from(create(name)?);
        file.set_len(size_of::<T>() as u64)?;
        seal(file.as_fd(), SIZE_SEALS)?;
        let shared = Shared::from_fd(file.as_fd())?;
        Ok((shared, file.into()))
    }

    /// Maps what another image of this program has made. InvalidData: it is
    /// something else.
    pub fn from_fd(fd: BorrowedFd<'_>) -> io::Result<Shared<T>> {
        let len = size_of::<T>();
        let size = super::file::facts(fd)?.size;
        // SAFETY: no pointers. -1 where there are no seals.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        // A file that shrinks is SIGBUS for whoever looks at the mapping.
        if size != len as u64 || seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            let what = "not the shared memory of this program";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        // SAFETY: a mapping of our own size, at an address that the kernel
        // picks; it overlaps nothing.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
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

/// A file that is nothing but memory: empty, close-on-exec.
fn create(name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a NUL-terminated text.
    let made = own(unsafe { libc::memfd_create(name.as_ptr(), flags | NO_PROGRAM) });
    match made {
        // Linux before 6.3 does not know the flag.
        Err(e) if NO_PROGRAM != 0 && e.raw_os_error() == Some(libc::EINVAL) => {
            // SAFETY: as above.
            own(unsafe { libc::memfd_create(name.as_ptr(), flags) })
        }
        other => other,
    }
}

/// It can never be executed; where vm.memfd_noexec is 2 there are no others.
#[cfg(target_os = "linux")]
const NO_PROGRAM: libc::c_uint = libc::MFD_NOEXEC_SEAL;
#[cfg(not(target_os = "linux"))]
const NO_PROGRAM: libc::c_uint = 0;

fn seal(fd: BorrowedFd<'_>, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(())
}

/// A file of these bytes, which nobody can change.
pub fn sealed(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(create(name)?);
    file.write_all_at(bytes, 0)?;
    seal(file.as_fd(), SIZE_SEALS | libc::F_SEAL_WRITE)?;
    Ok(file.into())
}

/// What is in a file. Its offset, which all processes share that have it, stays
/// where it is.
pub fn bytes(file: OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(file);
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Gives back to the system what is free in the heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn trim_heap() {
    // SAFETY: no pointers.
    unsafe { libc::malloc_trim(0) };
}

/// See the twin for glibc.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn trim_heap() {}

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_page_is_found_by_its_descriptor() {
        let (one, file) = Shared::<[AtomicU64; 9]>::new(c"test").unwrap();
        let other = Shared::<[AtomicU64; 9]>::from_fd(file.as_fd()).unwrap();
        one[8].store(7, Ordering::Relaxed);
        assert_eq!(other[8].load(Ordering::Relaxed), 7);
        assert!(Shared::<[AtomicU64; 8]>::from_fd(file.as_fd()).is_err());
        assert!(File::from(file).set_len(8).is_err());
        let plain = tempfile::tempfile().unwrap();
        plain.set_len(72).unwrap();
        let plain = Shared::<[AtomicU64; 9]>::from_fd(plain.as_fd());
        assert_eq!(plain.err().unwrap().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_sealed_can_be_read_and_not_written() {
        let file = sealed(c"test", b"bytes").unwrap();
        let copy = File::from(file.try_clone().unwrap());
        assert_eq!(bytes(file).unwrap(), b"bytes");
        assert!(copy.write_all_at(b"x", 0).is_err());
        assert_eq!(bytes(copy.into()).unwrap(), b"bytes");
    }
}
