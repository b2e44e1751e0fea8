//! A UNIX socket at a path that other programs know, for one VM.
//!
//! Does: remove what a dead process left there, listen so that only this user may connect, and
//! remove the socket's file in the end. Does not: accept.
//!
//! Invariant: a file that is no socket is never removed, nor one that another process has made at
//! the path since. A side that goes live takes the path over, whoever listens there: it is the one
//! that speaks for the VM.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Whose the path may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody's: where somebody listens, this fails.
    Free,
    /// Anybody's: it is this VM's from now on.
    TakeOver,
}

/// A listening socket that does not block, and its file.
#[derive(Debug)]
pub struct PathListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that was made.
    identity: Option<(u64, u64)>,
}

impl PathListener {
    /// Listens at `path`.
    pub fn bind(path: &Path, claim: Claim) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                let error = "there is a file that is no socket; it is not overwritten";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, error));
            }
            Ok(_) => {
                if claim == Claim::Free && UnixStream::connect(path).is_ok() {
                    let error = "another process listens there";
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, error));
                }
                std::fs::remove_file(path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = super::api_socket::bind_private(path)?;
        listener.set_nonblocking(true)?;
        Ok(PathListener {
            listener,
            identity: identity(path),
            path: path.to_owned(),
        })
    }

    /// The socket.
    pub fn socket(&self) -> &UnixListener {
        &self.listener
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Drop for PathListener {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Somebody may remove it at the same time.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn a_path_is_claimed_and_given_back() {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path().join("socket");
        let first = PathListener::bind(&path, Claim::Free).unwrap();
        let error = PathListener::bind(&path, Claim::Free).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let second = PathListener::bind(&path, Claim::TakeOver).unwrap();
        // The first one's file is not there any more; the second one's stays.
        drop(first);
        UnixStream::connect(&path).unwrap();
        second.socket().accept().unwrap();
        drop(second);
        assert!(!path.exists());
        // What a killed process leaves.
        drop(UnixListener::bind(&path).unwrap());
        drop(PathListener::bind(&path, Claim::Free).unwrap());
        std::fs::write(&path, "precious").unwrap();
        for claim in [Claim::Free, Claim::TakeOver] {
            PathListener::bind(&path, claim).unwrap_err();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
