//! The API's UNIX socket.
//!
//! Does: claim the socket's path, remove what a dead process left there, and listen so that only
//! this user may connect. Does not: speak HTTP.
//!
//! Invariant: of all processes that were given the same path, one listens: whoever holds the open
//! file description lock on `<path>.lock`. The lock file itself is never removed, since another
//! process may be about to lock it.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use option_parser::{Key, Options};
use thiserror::Error;

use super::event_monitor::owned_descriptor;
use crate::config::ConfigError;

/// Why the API socket could not be opened.
#[derive(Debug, Error)]
pub enum ApiSocketError {
    /// Another process has it.
    #[error("the API socket '{}' is in use by another process", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is a file that is no socket.
    #[error("'{}' exists and is no socket; it is not overwritten", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The host refused.
    #[error("cannot {what} '{}'", path.display())]
    Host {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// Where the API is to be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiSocketAddress {
    /// A socket at this path, to be made.
    Path(PathBuf),
    /// A listening socket that this process was started with.
    Descriptor(i32),
}

impl ApiSocketAddress {
    /// Reads `path=PATH`, `fd=NUMBER`, or a path alone.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if !text.starts_with("path=") && !text.starts_with("fd=") {
            return Ok(ApiSocketAddress::Path(PathBuf::from(text)));
        }
        let options = Options::parse("--api-socket", text, &["path", "fd"].map(Key::value))?;
        match (options.get("path")?, options.get::<u16>("fd")?) {
            (Some(path), None) => Ok(ApiSocketAddress::Path(path)),
            (None, Some(descriptor)) => Ok(ApiSocketAddress::Descriptor(descriptor.into())),
            _ => Err(options
                .invalid("path", "either path=PATH or fd=NUMBER")
                .into()),
        }
    }
}

/// A listening socket, and the lock that makes it ours. The socket's file goes away with it.
#[derive(Debug)]
pub struct ApiSocket {
    listener: UnixListener,
    bound: Option<(PathBuf, File)>,
}

impl ApiSocket {
    /// Opens the socket at `address`.
    pub fn open(address: &ApiSocketAddress) -> Result<Self, ApiSocketError> {
        match address {
            ApiSocketAddress::Path(path) => ApiSocket::bind(path),
            ApiSocketAddress::Descriptor(descriptor) => match owned_descriptor(*descriptor) {
                Ok(file) => {
                    let listener = UnixListener::from(OwnedFd::from(file));
                    Ok(ApiSocket {
                        listener,
                        bound: None,
                    })
                }
                Err(source) => Err(ApiSocketError::Host {
                    what: "use the descriptor",
                    path: PathBuf::from(descriptor.to_string()),
                    source,
                }),
            },
        }
    }

    /// Claims `path` and listens there.
    fn bind(path: &Path) -> Result<Self, ApiSocketError> {
        let host = |what, path: &Path| {
            let path = path.to_owned();
            move |source| ApiSocketError::Host { what, path, source }
        };
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let lock = options
            .open(&lock_path)
            .map_err(host("open the lock file", &lock_path))?;
        if !try_lock(&lock).map_err(host("lock", &lock_path))? {
            return Err(ApiSocketError::InUse {
                path: path.to_owned(),
            });
        }
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {
                std::fs::remove_file(path).map_err(host("remove the old socket", path))?;
            }
            Ok(_) => {
                return Err(ApiSocketError::NotASocket {
                    path: path.to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(host("look at", path)(error)),
        }
        let listener = bind_private(path).map_err(host("listen on", path))?;
        Ok(ApiSocket {
            listener,
            bound: Some((path.to_owned(), lock)),
        })
    }

    /// The socket that listens.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        if let Some((path, _lock)) = &self.bound {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Takes an exclusive open file description lock on the whole of `file`; false if another has it.
fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: flock is plain data for which all bits zero are valid: the whole file, and no owner.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = libc::F_WRLCK as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open and the pointer is that of a live flock structure.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &request) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Binds with umask 077: only this user may connect. The umask is the process's, so files that
/// other threads create meanwhile get it too; they lose permissions only.
pub(super) fn bind_private(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: umask takes a number and cannot fail.
    let before = unsafe { libc::umask(0o077) };
    let listener = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    listener
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    fn open(path: &Path) -> Result<ApiSocket, ApiSocketError> {
        ApiSocket::open(&ApiSocketAddress::Path(path.to_owned()))
    }

    #[test]
    fn one_process_listens() {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path().join("api.sock");
        let first = open(&path).unwrap();
        assert!(matches!(open(&path), Err(ApiSocketError::InUse { .. })));
        UnixStream::connect(&path).unwrap();
        drop(first);
        assert!(!path.exists());
        open(&path).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = open(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(socket);
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(
            open(&path),
            Err(ApiSocketError::NotASocket { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn nobody_else_may_connect() {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path().join("api.sock");
        let _socket = open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }

    #[test]
    fn addresses() {
        let path = |text: &str| ApiSocketAddress::Path(PathBuf::from(text));
        assert_eq!(
            ApiSocketAddress::parse("/run/a.sock").unwrap(),
            path("/run/a.sock")
        );
        assert_eq!(
            ApiSocketAddress::parse("path=/run/a.sock").unwrap(),
            path("/run/a.sock")
        );
        let descriptor = ApiSocketAddress::parse("fd=7").unwrap();
        assert_eq!(descriptor, ApiSocketAddress::Descriptor(7));
        ApiSocketAddress::parse("fd=x").unwrap_err();
        ApiSocketAddress::parse("path=/a,fd=7").unwrap_err();
    }
}
