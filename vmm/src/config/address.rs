//! Texts that name a peer or an arbiter: `tcp:ADDRESS:PORT`, `file:PATH`.
//!
//! Does: read and write them, and tell what leaves this host. Does not: resolve names or connect.
//!
//! Invariant: what is written reads back as the same value.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// Where a TCP connection goes to or is awaited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TcpAddress {
    /// An IP address (IPv6 in brackets when written) or a host's name.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl TcpAddress {
    /// Whether nothing sent there can leave this host. A name never counts as loopback, because
    /// what it resolves to may change.
    pub fn is_loopback(&self) -> bool {
        self.host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for TcpAddress {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let parse = || {
            let (host, port) = text.strip_prefix("tcp:")?.rsplit_once(':')?;
            let port = port.parse().ok()?;
            let bracketed = host
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            let host = match bracketed {
                Some(inside) => inside.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
                None if host.is_empty() || host.contains([':', '[', ']', '/', ' ']) => return None,
                None => host.to_owned(),
            };
            Some(TcpAddress { host, port })
        };
        parse().ok_or_else(|| ConfigError::Address {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TcpAddress { host, port } = self;
        if host.contains(':') {
            write!(f, "tcp:[{host}]:{port}")
        } else {
            write!(f, "tcp:{host}:{port}")
        }
    }
}

impl TryFrom<String> for TcpAddress {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<TcpAddress> for String {
    fn from(address: TcpAddress) -> String {
        address.to_string()
    }
}

/// Who decides which side may go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Lease {
    /// Files on storage that both hosts share, their names beginning with this absolute path.
    File(PathBuf),
}

impl FromStr for Lease {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text.strip_prefix("file:").map(PathBuf::from) {
            // Absolute, since the other host opens it too.
            Some(path) if path.is_absolute() && path.file_name().is_some() => Ok(Lease::File(path)),
            _ => Err(ConfigError::Lease {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lease::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl TryFrom<String> for Lease {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<Lease> for String {
    fn from(lease: Lease) -> String {
        lease.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for text in ["tcp:127.0.0.1:7000", "tcp:[::1]:7000", "tcp:host-b:1"] {
            assert_eq!(text.parse::<TcpAddress>().unwrap().to_string(), text);
        }
        let wrong = [
            "",
            "tcp:",
            "tcp:7000",
            "tcp::7000",
            "tcp:h:70000",
            "tcp:h:",
            "h:1",
            "udp:h:1",
            "tcp:::1:7000",
            "tcp:[::1:7000",
            "tcp:[host]:1",
        ];
        for text in wrong {
            assert!(text.parse::<TcpAddress>().is_err(), "{text}");
        }
        assert!(
            "tcp:127.1.2.3:1"
                .parse::<TcpAddress>()
                .unwrap()
                .is_loopback()
        );
        assert!("tcp:[::1]:1".parse::<TcpAddress>().unwrap().is_loopback());
        assert!(!"tcp:0.0.0.0:1".parse::<TcpAddress>().unwrap().is_loopback());
        assert!(
            !"tcp:localhost:1"
                .parse::<TcpAddress>()
                .unwrap()
                .is_loopback()
        );
    }

    #[test]
    fn leases() {
        assert_eq!(
            "file:/a/b".parse::<Lease>().unwrap(),
            Lease::File("/a/b".into())
        );
        for wrong in ["", "file:", "file:a", "/a/b", "etcd:http://x", "file:/"] {
            assert!(wrong.parse::<Lease>().is_err(), "{wrong}");
        }
    }
}
