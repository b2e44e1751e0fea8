//! TAP devices.
//!
//! Does: open one by name (made if it is not there) or take one by descriptor, set it up, and pass
//! frames. Does not: block: whoever finds nothing waits by itself.
//!
//! Invariant: every frame has a virtio header of [`VNET_HEADER`] bytes before it.
#![allow(unsafe_code)]

use std::ffi::c_ulong;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use thiserror::Error;

use crate::mac::MacAddress;

/// Bytes of the virtio header before each frame.
pub const VNET_HEADER: usize = 12;

const TUNSETIFF: c_ulong = 0x4004_54CA;
const TUNSETOFFLOAD: c_ulong = 0x4004_54D0;
const TUNSETVNETHDRSZ: c_ulong = 0x4004_54D8;
const TUNGETIFF: c_ulong = 0x8004_54D2;

const TUN_F_CSUM: c_ulong = 1;
const TUN_F_TSO4: c_ulong = 2;
const TUN_F_TSO6: c_ulong = 4;
const TUN_F_TSO_ECN: c_ulong = 8;
const TUN_F_UFO: c_ulong = 16;

/// Why a TAP device cannot be used.
#[derive(Debug, Error)]
pub enum TapError {
    /// A name that no interface has.
    #[error("'{0}' is no name of a network interface: at most 15 characters, without '/'")]
    Name(String),
    /// The host refuses.
    #[error("cannot {what} the TAP device '{name}'")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Which device.
        name: String,
        /// What the host said.
        source: io::Error,
    },
}

impl TapError {
    /// Whether another process has the device now.
    pub fn is_busy(&self) -> bool {
        match self {
            TapError::Name(_) => false,
            TapError::Host { source, .. } => source.raw_os_error() == Some(libc::EBUSY),
        }
    }
}

/// What whoever reads the device can do by himself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums that are not there yet.
    pub checksums: bool,
    /// Large TCP segments over IPv4.
    pub segments4: bool,
    /// Large TCP segments over IPv6.
    pub segments6: bool,
    /// These with congestion notification.
    pub congestion: bool,
    /// Large UDP fragments.
    pub fragments: bool,
}

/// A TAP device.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

/// Why this host has no interface of this name, if it has none.
pub fn missing_tap(name: &str) -> Option<String> {
    let text = std::ffi::CString::new(name).unwrap_or_default();
    // SAFETY: the name is a C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
    (index == 0).then(|| {
        let error = io::Error::last_os_error();
        format!("this host has no TAP device '{name}': {error}")
    })
}

impl Tap {
    /// Opens the device `name`, or makes it; an empty name lets the host choose one.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let mut request = request(name)?;
        let host = |what| {
            move |source| TapError::Host {
                what,
                name: name.to_owned(),
                source,
            }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(host("open /dev/net/tun for"))?;
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the request is a live ifreq, which the kernel reads and writes.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &mut request) };
        check(result).map_err(host("open"))?;
        Self::with(file, name_in(&request))
    }

    /// Takes over a copy of the descriptor `fd`, which is that of an open TAP device.
    pub fn of_descriptor(fd: RawFd) -> Result<Self, TapError> {
        let name = format!("descriptor {fd}");
        let host = |what| {
            let name = name.clone();
            move |source| TapError::Host { what, name, source }
        };
        // SAFETY: no memory is involved; a bad descriptor is an error.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
        check(copy).map_err(host("copy"))?;
        // SAFETY: the descriptor is open and belongs to nobody else.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(copy) });
        let mut request = request("")?;
        // SAFETY: the request is a live ifreq, which the kernel writes.
        let result = unsafe { libc::ioctl(copy, TUNGETIFF, &mut request) };
        check(result).map_err(host("recognise"))?;
        // SAFETY: no memory is involved.
        let result = unsafe { libc::fcntl(copy, libc::F_SETFL, libc::O_NONBLOCK | libc::O_RDWR) };
        check(result).map_err(host("set up"))?;
        Self::with(file, name_in(&request))
    }

    fn with(file: File, name: String) -> Result<Self, TapError> {
        let size = VNET_HEADER as libc::c_int;
        // SAFETY: the kernel reads one int.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &size) };
        let tap = Tap { file, name };
        check(result).map_err(tap.failed("set up the headers of"))?;
        Ok(tap)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> TapError {
        let name = self.name.clone();
        move |source| TapError::Host { what, name, source }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Another handle of the same device.
    pub fn try_clone(&self) -> Result<Self, TapError> {
        Ok(Tap {
            file: self.file.try_clone().map_err(self.failed("copy"))?,
            name: self.name.clone(),
        })
    }

    /// Says what whoever reads it can do by himself.
    pub fn set_offloads(&self, offloads: Offloads) -> Result<(), TapError> {
        let bits = [
            (offloads.checksums, TUN_F_CSUM),
            (offloads.segments4, TUN_F_TSO4),
            (offloads.segments6, TUN_F_TSO6),
            (offloads.congestion, TUN_F_TSO_ECN),
            (offloads.fragments, TUN_F_UFO),
        ];
        let all = bits.iter().filter(|(is_set, _)| *is_set);
        let all = all.fold(0, |all, (_, bit)| all | bit);
        // SAFETY: the argument is a number.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, all) };
        if result < 0 && all & TUN_F_UFO != 0 {
            // Newer kernels do not know large UDP fragments.
            return self.set_offloads(Offloads {
                fragments: false,
                ..offloads
            });
        }
        check(result).map_err(self.failed("set the offloads of"))
    }

    /// Gives the host's side an address.
    pub fn set_address(&self, address: Ipv4Addr, mask: Ipv4Addr) -> Result<(), TapError> {
        let mut request = request(&self.name)?;
        request.ifr_ifru.ifru_addr = socket_address(address);
        self.configure(libc::SIOCSIFADDR, &mut request, "set the address of")?;
        request.ifr_ifru.ifru_netmask = socket_address(mask);
        self.configure(libc::SIOCSIFNETMASK, &mut request, "set the mask of")
    }

    /// Sets the MTU of the host's side.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), TapError> {
        let mut request = request(&self.name)?;
        request.ifr_ifru.ifru_mtu = mtu.into();
        self.configure(libc::SIOCSIFMTU, &mut request, "set the MTU of")
    }

    /// Sets the MAC address of the host's side.
    pub fn set_mac(&self, mac: MacAddress) -> Result<(), TapError> {
        let mut request = request(&self.name)?;
        // SAFETY: all fields of a sockaddr may be zero.
        let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
        address.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_hwaddr = address;
        self.configure(libc::SIOCSIFHWADDR, &mut request, "set the MAC address of")
    }

    /// Brings the host's side up.
    pub fn enable(&self) -> Result<(), TapError> {
        let mut request = request(&self.name)?;
        self.configure(libc::SIOCGIFFLAGS, &mut request, "look at")?;
        // SAFETY: the kernel has just filled in the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let up = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if flags & up == up {
            return Ok(());
        }
        request.ifr_ifru.ifru_flags = flags | up;
        self.configure(libc::SIOCSIFFLAGS, &mut request, "bring up")
    }

    fn configure(
        &self,
        what: c_ulong,
        request: &mut libc::ifreq,
        text: &'static str,
    ) -> Result<(), TapError> {
        // Any socket will do.
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(self.failed(text))?;
        // SAFETY: the request is a live ifreq, which the kernel reads and writes.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, request) };
        check(result).map_err(self.failed(text))
    }

    /// Reads a frame with its header; `None` if there is none now.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.file.read(buffer) {
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes a frame with its header. What the host has no room for is lost, as on any network.
    pub fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        match self.file.write(frame) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            // A frame that makes no sense, or a device that is down.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A request about the interface `name`.
fn request(name: &str) -> Result<libc::ifreq, TapError> {
    // SAFETY: all fields of an ifreq may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let is_possible = name.len() < request.ifr_name.len()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if !is_possible {
        return Err(TapError::Name(name.chars().take(64).collect()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn name_in(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().take_while(|byte| **byte != 0);
    bytes.map(|byte| char::from(*byte as u8)).collect()
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: all fields of a sockaddr may be zero.
    let mut socket: libc::sockaddr = unsafe { std::mem::zeroed() };
    socket.sa_family = libc::AF_INET as libc::sa_family_t;
    // Behind two bytes of port.
    for (to, from) in socket.sa_data[2..].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    socket
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_are_refused() {
        for wrong in ["sixteen-letters-", "a/b", "a b"] {
            assert!(
                matches!(Tap::open(wrong), Err(TapError::Name(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_is_no_tap_is_refused() {
        let file = File::open("/dev/null").unwrap();
        Tap::of_descriptor(file.as_raw_fd()).unwrap_err();
        Tap::of_descriptor(-1).unwrap_err();
    }
}
