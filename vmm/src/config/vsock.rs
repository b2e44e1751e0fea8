//! The socket device: streams between guest and host.
//!
//! Does: the guest's address and where host programs connect, from `--vsock` and JSON. Does not:
//! open sockets.
//!
//! Invariant: the guest's address is none of the reserved ones.

use std::path::PathBuf;

use option_parser::{Key, Options, Toggle};
use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// Addresses below are reserved, and the last one means any.
const CID_MIN: u32 = 3;
/// The longest path of a UNIX socket, with room for `_` and a port behind it.
const SOCKET_LENGTH_MAX: usize = 107 - 11;

/// The socket device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockConfig {
    /// The guest's address.
    pub cid: u32,
    /// Where programs of the host connect. Behind it, `_` and a port: where the guest's do.
    pub socket: PathBuf,
    /// Behind an IOMMU.
    #[serde(default)]
    pub iommu: bool,
    /// The device's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The PCI segment.
    #[serde(default)]
    pub pci_segment: u16,
}

impl VsockConfig {
    /// Reads `--vsock cid=,socket=,id=,…`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let keys = ["cid", "socket", "iommu", "id", "pci_segment"].map(Key::value);
        let options = Options::parse("--vsock", text, &keys)?;
        let iommu: Option<Toggle> = options.get("iommu")?;
        Ok(VsockConfig {
            cid: options.require("cid")?,
            socket: options.require("socket")?,
            iommu: iommu.is_some_and(|Toggle(on)| on),
            id: options.get("id")?,
            pci_segment: options.get("pci_segment")?.unwrap_or(0),
        })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let unsupported = [
            ("vsock iommu", self.iommu),
            ("vsock pci_segment", self.pci_segment != 0),
        ];
        for (what, is_asked_for) in unsupported {
            if is_asked_for {
                let what = what.to_owned();
                return Err(ConfigError::Unsupported { what });
            }
        }
        if !(CID_MIN..u32::MAX).contains(&self.cid) {
            return Err(ConfigError::VsockCid { cid: self.cid });
        }
        if self.socket.as_os_str().len() > SOCKET_LENGTH_MAX {
            return Err(ConfigError::VsockSocket {
                socket: self.socket.clone(),
                max: SOCKET_LENGTH_MAX,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_bounds() {
        let vsock = VsockConfig::parse("cid=3,socket=/run/vsock,id=v").unwrap();
        assert_eq!(
            (vsock.cid, vsock.socket.as_path()),
            (3, "/run/vsock".as_ref())
        );
        vsock.validate().unwrap();
        for wrong in [
            "cid=2,socket=/s".to_owned(),
            "cid=4294967295,socket=/s".to_owned(),
            "cid=3,socket=/s,iommu=on".to_owned(),
            format!("cid=3,socket=/{}", "x".repeat(100)),
        ] {
            VsockConfig::parse(&wrong).unwrap().validate().unwrap_err();
        }
        for wrong in [
            "cid=3",
            "socket=/s",
            "cid=x,socket=/s",
            "cid=3,socket=/s,port=1",
        ] {
            VsockConfig::parse(wrong).unwrap_err();
        }
    }
}
