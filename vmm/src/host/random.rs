//! Random numbers of the host.
//!
//! Does: ids that nobody else has, and seeds for machines. Does not: give numbers to a running
//! machine; its own seeded generator does.
//!
//! Invariant: fails rather than returning bytes that are not random.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// `N` random bytes from the host's kernel.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let rest = &mut bytes[filled..];
        // SAFETY: the pointer and length are those of a live, writable slice, and the kernel
        // writes at most that many bytes.
        let length = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(length) {
            Ok(length) => filled += length,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(bytes)
}

/// `N` bytes from the file `source`, as `--rng src=` names it.
pub fn seed_from<const N: usize>(source: &Path) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open(source)?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        assert_ne!(bytes::<16>().unwrap(), bytes::<16>().unwrap());
        let large = bytes::<1000>().unwrap();
        assert!(large[900..].iter().any(|&byte| byte != 0));
    }

    #[test]
    fn seeds_come_from_their_file() {
        assert_eq!(seed_from::<8>(Path::new("/dev/zero")).unwrap(), [0; 8]);
        seed_from::<8>(Path::new("/dev/null")).unwrap_err();
        seed_from::<8>(Path::new("/nonexistent")).unwrap_err();
    }
}
