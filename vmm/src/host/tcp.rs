//! TCP endpoints of the logging channel.
//!
//! Does: connect, listen and accept, refusing what would leave this host in the clear unless that
//! was allowed. Does not: know what travels; `ft` does.
//!
//! Invariant: without `insecure`, every address used is a loopback address, also when a name was
//! resolved to it.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::time::Duration;

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use crate::config::TcpAddress;

/// Why an endpoint could not be used.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// The name has no address.
    #[error("cannot find the address of {address}")]
    Resolve {
        /// What was asked for.
        address: TcpAddress,
        /// What the host said.
        source: io::Error,
    },
    /// It would cross a network in the clear.
    #[error(
        "{address} is not on the loopback interface, and the channel is not encrypted yet; allow \
         it with insecure=on"
    )]
    Insecure {
        /// What was asked for.
        address: TcpAddress,
    },
    /// The peer could not be reached.
    #[error("cannot connect to {address}")]
    Connect {
        /// What was asked for.
        address: TcpAddress,
        /// What the host said.
        source: io::Error,
    },
    /// The address could not be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// What was asked for.
        address: TcpAddress,
        /// What the host said.
        source: io::Error,
    },
    /// A connection broke before it could be used.
    #[error("cannot use the connection")]
    Connection(#[source] io::Error),
}

/// The socket addresses of `address`, none of which leaves this host unless that is allowed.
pub fn resolve(address: &TcpAddress, insecure: bool) -> Result<Vec<SocketAddr>, EndpointError> {
    let found = (address.host.as_str(), address.port).to_socket_addrs();
    let found: Vec<SocketAddr> = match found {
        Ok(found) => found.collect(),
        Err(source) => {
            return Err(EndpointError::Resolve {
                address: address.clone(),
                source,
            });
        }
    };
    if !insecure && found.iter().any(|found| !found.ip().is_loopback()) {
        return Err(EndpointError::Insecure {
            address: address.clone(),
        });
    }
    Ok(found)
}

/// Connects to `address`, trying each of its socket addresses for as long as `timeout`.
pub fn connect(
    address: &TcpAddress,
    insecure: bool,
    timeout: Duration,
) -> Result<TcpStream, EndpointError> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for found in resolve(address, insecure)? {
        match TcpStream::connect_timeout(&found, timeout) {
            Ok(stream) => return prepared(stream),
            Err(error) => failure = error,
        }
    }
    Err(EndpointError::Connect {
        address: address.clone(),
        source: failure,
    })
}

/// Listens on `address`.
pub fn listen(address: &TcpAddress, insecure: bool) -> Result<TcpListener, EndpointError> {
    let found = resolve(address, insecure)?;
    let listener = TcpListener::bind(&found[..]);
    listener.map_err(|source| EndpointError::Listen {
        address: address.clone(),
        source,
    })
}

/// Waits for a connection; none if `stop` was written to first.
pub fn accept(
    listener: &TcpListener,
    stop: &EventFd,
) -> Result<Option<(TcpStream, SocketAddr)>, EndpointError> {
    listener
        .set_nonblocking(true)
        .map_err(EndpointError::Connection)?;
    loop {
        if wait_readable(listener.as_raw_fd(), stop).map_err(EndpointError::Connection)? {
            return Ok(None);
        }
        match listener.accept() {
            Ok((stream, peer)) => {
                stream
                    .set_nonblocking(false)
                    .map_err(EndpointError::Connection)?;
                return Ok(Some((prepared(stream)?, peer)));
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::ConnectionAborted
                ) => {}
            Err(error) => return Err(EndpointError::Connection(error)),
        }
    }
}

/// Small batches leave at once: an output waits for the answer to each.
fn prepared(stream: TcpStream) -> Result<TcpStream, EndpointError> {
    stream
        .set_nodelay(true)
        .map_err(EndpointError::Connection)?;
    Ok(stream)
}

/// Waits until `descriptor` can be read (false) or `stop` was written to (true).
#[allow(unsafe_code)]
pub(super) fn wait_readable(descriptor: i32, stop: &EventFd) -> io::Result<bool> {
    let mut wait = [descriptor, stop.as_raw_fd()].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    loop {
        // SAFETY: the pointer and the count are those of a live array.
        if unsafe { libc::poll(wait.as_mut_ptr(), 2, -1) } >= 0 {
            return Ok(wait[1].revents != 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn address(text: &str) -> TcpAddress {
        text.parse().unwrap()
    }

    #[test]
    fn bytes_cross() {
        let listener = listen(&address("tcp:127.0.0.1:0"), false).unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = TcpAddress {
            host: "127.0.0.1".to_owned(),
            port,
        };
        let mut client = connect(&to, false, Duration::from_secs(5)).unwrap();
        let stop = EventFd::new(EFD_NONBLOCK).unwrap();
        let (mut server, _) = accept(&listener, &stop).unwrap().unwrap();
        client.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[test]
    fn waiting_can_be_stopped() {
        let listener = listen(&address("tcp:127.0.0.1:0"), false).unwrap();
        let stop = EventFd::new(EFD_NONBLOCK).unwrap();
        stop.write(1).unwrap();
        assert!(accept(&listener, &stop).unwrap().is_none());
    }

    #[test]
    fn the_network_needs_a_word() {
        let error = listen(&address("tcp:0.0.0.0:0"), false).unwrap_err();
        assert!(matches!(error, EndpointError::Insecure { .. }), "{error}");
        listen(&address("tcp:0.0.0.0:0"), true).unwrap();
    }
}
