//! Fault tolerance: what a VM's configuration and the `vm.ft-…` calls say about it.
//!
//! Does: identity, arbiter, peer, times, and their validation. Does not: protect anything.
//!
//! Invariant: what would send a VM's memory over a network in the clear says so explicitly
//! (`insecure`).

use std::fmt;
use std::str::FromStr;

use option_parser::{Key, Options};
use serde::{Deserialize, Serialize};

use super::address::{Lease, TcpAddress};
use super::error::ConfigError;
use super::fence::Fence;

/// After how long without a sign of life a peer counts as lost, unless told otherwise.
pub const DETECTION_TIMEOUT_MS_DEFAULT: u64 = 1000;

/// The range of detection times.
const DETECTION_TIMEOUT_MS_MIN: u64 = 20;
const DETECTION_TIMEOUT_MS_MAX: u64 = 600_000;

/// Who a VM is, wherever it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmId(
    /// The id.
    pub [u8; 16],
);

impl FromStr for VmId {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let digits: String = text.chars().filter(|&c| c != '-').collect();
        let is_hex = digits.len() == 32 && digits.chars().all(|c| c.is_ascii_hexdigit());
        match u128::from_str_radix(&digits, 16) {
            Ok(number) if is_hex => Ok(VmId(number.to_be_bytes())),
            _ => Err(ConfigError::VmId {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl TryFrom<String> for VmId {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<VmId> for String {
    fn from(id: VmId) -> String {
        id.to_string()
    }
}

/// Who this VM is and who decides about it. With a lease, a VM asks before it boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FtConfig {
    /// Its id; a fresh one if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<VmId>,
    /// Its arbiter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// How a side that goes live fences the old one. With a command, each backup must have one of
    /// its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
}

impl FtConfig {
    /// Reads `--ft id=,lease=,fence=`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let keys = ["id", "lease", "fence"].map(Key::value);
        let options = Options::parse("--ft", text, &keys)?;
        let id = options.text("id").map(str::parse).transpose()?;
        let lease = options.text("lease").map(str::parse).transpose()?;
        let fence = options.text("fence").map(str::parse).transpose()?;
        Ok(FtConfig { id, lease, fence })
    }
}

/// The body of `vm.ft-enable`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FtEnableConfig {
    /// Where the future backup listens.
    pub peer: TcpAddress,
    /// The arbiter; that of the VM's configuration if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The fence; that of the VM's configuration if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// Whether memory and log may cross a network unencrypted.
    #[serde(default)]
    pub insecure: bool,
    /// After how long without a sign of life the peer counts as lost.
    #[serde(default = "detection_timeout_ms_default")]
    pub detection_timeout_ms: u64,
}

/// The body of `vm.ft-receive`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FtReceiveConfig {
    /// Where to wait for the primary.
    pub listen: TcpAddress,
    /// The arbiter, if it has another path on this host than on the primary's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// How this host fences the primary's when it goes live; as the VM's configuration says if none
    /// is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// Whether memory and log may cross a network unencrypted.
    #[serde(default)]
    pub insecure: bool,
    /// After how long without a sign of life the peer counts as lost.
    #[serde(default = "detection_timeout_ms_default")]
    pub detection_timeout_ms: u64,
}

/// The body of `vm.ft-override`: an operator's word that no other host runs this VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FtOverrideConfig {
    /// The VM.
    pub id: VmId,
    /// Its arbiter.
    pub lease: Lease,
}

fn detection_timeout_ms_default() -> u64 {
    DETECTION_TIMEOUT_MS_DEFAULT
}

fn validate_timeout(given: u64) -> Result<(), ConfigError> {
    let (min, max) = (DETECTION_TIMEOUT_MS_MIN, DETECTION_TIMEOUT_MS_MAX);
    if (min..=max).contains(&given) {
        Ok(())
    } else {
        Err(ConfigError::DetectionTimeout { given, min, max })
    }
}

/// Until there is TLS, whatever leaves this host does so in the clear.
fn validate_exposure(address: &TcpAddress, insecure: bool) -> Result<(), ConfigError> {
    if address.is_loopback() || insecure {
        Ok(())
    } else {
        Err(ConfigError::Insecure {
            address: address.clone(),
        })
    }
}

impl FtEnableConfig {
    /// Whether it can be tried.
    pub fn validate(&self) -> Result<(), ConfigError> {
        validate_exposure(&self.peer, self.insecure)?;
        if self.peer.port == 0 {
            return Err(ConfigError::Address {
                text: self.peer.to_string(),
            });
        }
        validate_timeout(self.detection_timeout_ms)
    }
}

impl FtReceiveConfig {
    /// Whether it can be tried.
    pub fn validate(&self) -> Result<(), ConfigError> {
        validate_exposure(&self.listen, self.insecure)?;
        validate_timeout(self.detection_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id: VmId = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0".parse().unwrap();
        assert_eq!(id.to_string(), "0f1e2d3c4b5a69788796a5b4c3d2e1f0");
        assert_eq!(id.to_string().parse::<VmId>().unwrap(), id);
        for wrong in ["", "0f", "+f1e2d3c4b5a69788796a5b4c3d2e1f0", "xyz"] {
            assert!(wrong.parse::<VmId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn options() {
        let ft = FtConfig::parse("id=0f1e2d3c4b5a69788796a5b4c3d2e1f0,lease=file:/shared/vm1");
        let ft = ft.unwrap();
        assert_eq!(ft.lease, Some(Lease::File("/shared/vm1".into())));
        assert!(ft.id.is_some());
        FtConfig::parse("lease=shared").unwrap_err();
        let ft = FtConfig::parse(r#"fence="exec:fence a,b""#).unwrap();
        assert_eq!(ft.fence, Some(Fence::Exec("fence a,b".to_owned())));
        FtConfig::parse("fence=maybe").unwrap_err();
    }

    #[test]
    fn the_network_needs_a_word() {
        let read = |json: &str| -> Result<(), ConfigError> {
            let config: FtEnableConfig = serde_json::from_str(json).map_err(ConfigError::Json)?;
            config.validate()
        };
        read(r#"{"peer":"tcp:127.0.0.1:7000","lease":"file:/l"}"#).unwrap();
        let error = read(r#"{"peer":"tcp:10.0.0.2:7000"}"#).unwrap_err();
        assert!(matches!(error, ConfigError::Insecure { .. }), "{error}");
        read(r#"{"peer":"tcp:10.0.0.2:7000","insecure":true}"#).unwrap();
        let error = read(r#"{"peer":"tcp:127.0.0.1:0"}"#).unwrap_err();
        assert!(matches!(error, ConfigError::Address { .. }), "{error}");
        let error = read(r#"{"peer":"tcp:127.0.0.1:7","detection_timeout_ms":1}"#).unwrap_err();
        assert!(
            matches!(error, ConfigError::DetectionTimeout { .. }),
            "{error}"
        );
        let error = read(r#"{"peer":"tcp:127.0.0.1:7","leese":"file:/l"}"#).unwrap_err();
        assert!(matches!(error, ConfigError::Json(_)), "{error}");
    }
}
