//! UDP endpoints of the heartbeats.
//!
//! Does: send and receive short datagrams, not waiting longer than told. Does not: know what they
//! say; `ft` does.
//!
//! Invariant: a datagram longer than [`DATAGRAM_LENGTH_MAX`] is dropped, not cut.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// The longest heartbeat.
pub const DATAGRAM_LENGTH_MAX: usize = 512;

/// A socket for heartbeats.
#[derive(Debug)]
pub struct HeartbeatSocket {
    socket: UdpSocket,
}

impl HeartbeatSocket {
    /// One at `local`. Port 0 takes any.
    pub fn bind(local: SocketAddr) -> io::Result<Self> {
        Ok(HeartbeatSocket {
            socket: UdpSocket::bind(local)?,
        })
    }

    /// Where it is.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// For `poll`.
    pub(super) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Another handle of the same socket, for another thread.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(HeartbeatSocket {
            socket: self.socket.try_clone()?,
        })
    }

    /// Sends `datagram` to `peer`, or not: a network that is down shows as silence on the other
    /// side, which is what heartbeats are for.
    pub fn send_to(&self, datagram: &[u8], peer: SocketAddr) {
        if let Err(error) = self.socket.send_to(datagram, peer) {
            log::debug!("a heartbeat to {peer} was not sent: {error}");
        }
    }

    /// Waits for a datagram, at most for `timeout`; who sent it and its length in `buffer`.
    pub fn receive(
        &self,
        buffer: &mut [u8; DATAGRAM_LENGTH_MAX],
        timeout: Duration,
    ) -> io::Result<Option<(usize, SocketAddr)>> {
        // Zero would mean to wait for ever.
        self.socket
            .set_read_timeout(Some(timeout.max(Duration::from_millis(1))))?;
        // One byte more than allowed, to see what is too long.
        let mut bytes = [0; DATAGRAM_LENGTH_MAX + 1];
        match self.socket.recv_from(&mut bytes) {
            Ok((length, _)) if length > DATAGRAM_LENGTH_MAX => Ok(None),
            Ok((length, peer)) => {
                buffer[..length].copy_from_slice(&bytes[..length]);
                Ok(Some((length, peer)))
            }
            Err(error) => match error.kind() {
                // An earlier datagram found nobody: silence.
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_cross_and_long_ones_are_dropped() {
        let local = "127.0.0.1:0".parse().unwrap();
        let a = HeartbeatSocket::bind(local).unwrap();
        let b = HeartbeatSocket::bind(local).unwrap();
        let mut buffer = [0; DATAGRAM_LENGTH_MAX];
        let wait = Duration::from_secs(5);
        a.send_to(b"beat", b.local_address().unwrap());
        let (length, from) = b.receive(&mut buffer, wait).unwrap().unwrap();
        assert_eq!(&buffer[..length], b"beat");
        assert_eq!(from, a.local_address().unwrap());
        a.send_to(&[0; DATAGRAM_LENGTH_MAX + 1], b.local_address().unwrap());
        assert_eq!(b.receive(&mut buffer, wait).unwrap(), None);
        assert_eq!(b.receive(&mut buffer, Duration::ZERO).unwrap(), None);
    }
}
