//! Network cards.
//!
//! Does: what each card is and what is behind it, from `--net` and JSON. Does not: open devices.
//!
//! Invariant: a valid card has one TAP device at most behind it; a card of a VM that was created
//! has an address, so that it has the same one on every host.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use machine::net::{PAIRS_MAX, QUEUE_SIZE_MAX};
use net_util::MacAddress;
use option_parser::{IntegerList, Key, Options, Toggle};
use serde::{Deserialize, Deserializer, Serialize};

use super::error::ConfigError;
use super::rate_limiter::{self, RateLimiterConfig};

/// Less is no MTU for IPv4.
const MTU_MIN: u16 = 68;

/// One network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetConfig {
    /// The TAP device behind it; made if it is not there. Absent: the host chooses a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// The address of the TAP device on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// Its network's mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<Ipv4Addr>,
    /// The card's address. Absent: chosen when the VM is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// The TAP device's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_mac: Option<MacAddress>,
    /// The MTU on both sides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Behind an IOMMU.
    pub iommu: bool,
    /// Queues, two a pair.
    pub num_queues: u16,
    /// Entries of each.
    pub queue_size: u16,
    /// Behind another process.
    pub vhost_user: bool,
    /// That process's socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_socket: Option<PathBuf>,
    /// The device's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Descriptors of an open TAP device. A number that comes from elsewhere means nothing in this
    /// process, so it is read as -1.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "foreign_descriptors"
    )]
    pub fds: Option<Vec<i32>>,
    /// Those of them that came with a request, and are closed with the card.
    #[serde(skip)]
    pub owned: OwnedDescriptors,
    /// How much it may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter_config: Option<RateLimiterConfig>,
    /// The PCI segment.
    pub pci_segment: u16,
    /// Large TCP segments may be passed.
    pub offload_tso: bool,
    /// Large UDP fragments may be passed.
    pub offload_ufo: bool,
    /// Checksums may be left to the other side.
    pub offload_csum: bool,
}

/// Descriptors that belong to a configuration and its copies.
#[derive(Clone, Debug, Default)]
pub struct OwnedDescriptors(Arc<Vec<OwnedFd>>);

impl PartialEq for OwnedDescriptors {
    fn eq(&self, other: &Self) -> bool {
        let numbers = |owned: &Self| owned.0.iter().map(OwnedFd::as_raw_fd).collect::<Vec<_>>();
        numbers(self) == numbers(other)
    }
}

impl Eq for OwnedDescriptors {}

/// As many descriptors as there are numbers, none of them one of this process.
fn foreign_descriptors<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<i32>>, D::Error> {
    let given: Option<Vec<i32>> = Option::deserialize(deserializer)?;
    Ok(given.map(|numbers| vec![-1; numbers.len()]))
}

impl Default for NetConfig {
    fn default() -> Self {
        NetConfig {
            tap: None,
            ip: None,
            mask: None,
            mac: None,
            host_mac: None,
            mtu: None,
            iommu: false,
            // One pair.
            num_queues: 2,
            queue_size: 256,
            vhost_user: false,
            vhost_socket: None,
            id: None,
            fds: None,
            owned: OwnedDescriptors::default(),
            rate_limiter_config: None,
            pci_segment: 0,
            offload_tso: true,
            offload_ufo: true,
            offload_csum: true,
        }
    }
}

impl NetConfig {
    /// Reads `--net tap=,ip=,mask=,mac=,…`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let keys = [
            "tap",
            "ip",
            "mask",
            "mac",
            "host_mac",
            "mtu",
            "iommu",
            "num_queues",
            "queue_size",
            "vhost_user",
            "socket",
            "id",
            "fd",
            "pci_segment",
            "offload_tso",
            "offload_ufo",
            "offload_csum",
        ]
        .map(Key::value);
        let keys = [&keys[..], &rate_limiter::KEYS].concat();
        let options = Options::parse("--net", text, &keys)?;
        let absent = NetConfig::default();
        let toggle = |key, absent| {
            let given = options.get(key)?.map(|Toggle(on)| on);
            Ok::<_, ConfigError>(given.unwrap_or(absent))
        };
        let address = |key| match options.text(key).map(str::parse) {
            None => Ok(None),
            Some(Ok(address)) => Ok(Some(address)),
            Some(Err(_)) => Err(options.invalid(key, "an IPv4 address, as in 192.0.2.1")),
        };
        let mac = |key| match options.text(key).map(str::parse) {
            None => Ok(None),
            Some(Ok(mac)) => Ok(Some(mac)),
            Some(Err(_)) => Err(options.invalid(key, "six hexadecimal bytes with colons")),
        };
        let fds: Option<IntegerList> = options.get("fd")?;
        let fds = fds.map(|IntegerList(fds)| {
            let fds = fds.into_iter();
            fds.map(|fd| i32::try_from(fd).unwrap_or(-1)).collect()
        });
        Ok(NetConfig {
            tap: options.get("tap")?,
            ip: address("ip")?,
            mask: address("mask")?,
            mac: mac("mac")?,
            host_mac: mac("host_mac")?,
            mtu: options.get("mtu")?,
            iommu: toggle("iommu", absent.iommu)?,
            num_queues: options.get("num_queues")?.unwrap_or(absent.num_queues),
            queue_size: options.get("queue_size")?.unwrap_or(absent.queue_size),
            vhost_user: toggle("vhost_user", absent.vhost_user)?,
            vhost_socket: options.get("socket")?,
            id: options.get("id")?,
            fds,
            owned: OwnedDescriptors::default(),
            rate_limiter_config: RateLimiterConfig::of(&options)?,
            pci_segment: options.get("pci_segment")?.unwrap_or(absent.pci_segment),
            offload_tso: toggle("offload_tso", absent.offload_tso)?,
            offload_ufo: toggle("offload_ufo", absent.offload_ufo)?,
            offload_csum: toggle("offload_csum", absent.offload_csum)?,
        })
    }

    /// Takes over the descriptors that came with the request for it, instead of those that it names.
    pub fn take_descriptors(&mut self, descriptors: Vec<OwnedFd>) {
        let numbers: Vec<i32> = descriptors.iter().map(OwnedFd::as_raw_fd).collect();
        self.fds = Some(numbers).filter(|numbers| !numbers.is_empty());
        self.owned = OwnedDescriptors(Arc::new(descriptors));
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let unsupported = [
            ("net vhost_user", self.vhost_user),
            ("net vhost_socket", self.vhost_socket.is_some()),
            ("net iommu", self.iommu),
            ("net pci_segment", self.pci_segment != 0),
            (
                "net with several descriptors",
                self.fds.as_ref().is_some_and(|fds| fds.len() > 1),
            ),
        ];
        for (what, is_asked_for) in unsupported {
            if is_asked_for {
                let what = what.to_owned();
                return Err(ConfigError::Unsupported { what });
            }
        }
        if let Some(limits) = &self.rate_limiter_config {
            limits.validate()?;
        }
        let (queues, size) = (self.num_queues, self.queue_size);
        let is_possible = queues.is_multiple_of(2)
            && (1..=PAIRS_MAX).contains(&(queues / 2))
            && (4..=QUEUE_SIZE_MAX).contains(&size)
            && size.is_power_of_two();
        if !is_possible {
            return Err(ConfigError::NetQueues { queues, size });
        }
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < MTU_MIN) {
            return Err(ConfigError::NetMtu { mtu, min: MTU_MIN });
        }
        if self.fds.is_some() && (self.tap.is_some() || self.ip.is_some()) {
            return Err(ConfigError::NetTapAndDescriptor);
        }
        if self.ip.is_some() != self.mask.is_some() {
            return Err(ConfigError::NetAddressAndMask);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_defaults() {
        let text = "tap=tap0,mac=2e:89:a8:e4:bf:95,ip=192.0.2.1,mask=255.255.255.0,mtu=1400";
        let net = NetConfig::parse(text).unwrap();
        assert_eq!(net.tap.as_deref(), Some("tap0"));
        assert_eq!(net.mac.unwrap().to_string(), "2e:89:a8:e4:bf:95");
        assert_eq!(
            (net.num_queues, net.queue_size, net.mtu),
            (2, 256, Some(1400))
        );
        assert!(net.offload_tso && net.offload_ufo && net.offload_csum);
        net.validate().unwrap();
        let json = serde_json::to_vec(&net).unwrap();
        assert_eq!(serde_json::from_slice::<NetConfig>(&json).unwrap(), net);
        let fd = NetConfig::parse("fd=[5]").unwrap();
        fd.validate().unwrap();
        assert_eq!(fd.fds, Some(vec![5]));
    }

    #[test]
    fn numbers_of_descriptors_mean_nothing_elsewhere() {
        let json = serde_json::to_vec(&NetConfig::parse("fd=5").unwrap()).unwrap();
        let mut elsewhere: NetConfig = serde_json::from_slice(&json).unwrap();
        assert_eq!(elsewhere.fds, Some(vec![-1]));
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let number = file.as_raw_fd();
        elsewhere.take_descriptors(vec![file]);
        assert_eq!(elsewhere.fds, Some(vec![number]));
        assert_eq!(elsewhere, elsewhere.clone());
        elsewhere.take_descriptors(Vec::new());
        assert_eq!(elsewhere.fds, None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for wrong in [
            "tap=t,num_queues=1",
            "tap=t,num_queues=18",
            "tap=t,queue_size=100",
            "tap=t,mtu=60",
            "tap=t,fd=3",
            "fd=[3,4]",
            "tap=t,ip=192.0.2.1",
            "tap=t,vhost_user=on",
        ] {
            NetConfig::parse(wrong).unwrap().validate().unwrap_err();
        }
        for wrong in ["tap=t,mac=1", "tap=t,ip=x", "tap=t,colour=x"] {
            NetConfig::parse(wrong).unwrap_err();
        }
    }
}
