//! Disks.
//!
//! Does: what each image is and how it is used, from `--disk` and JSON. Does not: open images.
//!
//! Invariant: a valid disk has an image; what Cloud Hypervisor could do with it and this program
//! cannot yet, is refused.

use std::path::PathBuf;

use machine::block::{QUEUE_SIZE_MAX, QUEUES_MAX, SERIAL_LENGTH};
use option_parser::{Key, Options, Toggle};
use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// Queues and entries of each, unless told otherwise.
const QUEUES: u16 = 1;
const QUEUE_SIZE: u16 = 128;

/// What is in an image's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageType {
    /// The disk's bytes.
    Raw,
    /// QEMU's format.
    Qcow2,
    /// A fixed VHD.
    FixedVhd,
    /// A VHDX.
    Vhdx,
    /// To be found out.
    Unknown,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// Its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The guest cannot write.
    #[serde(default)]
    pub readonly: bool,
    /// The host's page cache is left out.
    #[serde(default)]
    pub direct: bool,
    /// Queues.
    #[serde(default = "queues")]
    pub num_queues: u16,
    /// Entries of each.
    #[serde(default = "queue_size")]
    pub queue_size: u16,
    /// Behind another process.
    #[serde(default)]
    pub vhost_user: bool,
    /// That process's socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_socket: Option<PathBuf>,
    /// Behind an IOMMU.
    #[serde(default)]
    pub iommu: bool,
    /// How much it may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter_config: Option<serde_json::Value>,
    /// With whom it shares that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_group: Option<String>,
    /// The device's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The disk's serial number, at most 20 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The PCI segment.
    #[serde(default)]
    pub pci_segment: u16,
    /// What is in the file; absent: the disk's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_type: Option<ImageType>,
}

fn queues() -> u16 {
    QUEUES
}

fn queue_size() -> u16 {
    QUEUE_SIZE
}

impl DiskConfig {
    /// Reads `--disk path=,readonly=,direct=,…`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let keys = [
            "path",
            "readonly",
            "direct",
            "num_queues",
            "queue_size",
            "vhost_user",
            "socket",
            "iommu",
            "id",
            "serial",
            "pci_segment",
            "image_type",
        ]
        .map(Key::value);
        let options = Options::parse("--disk", text, &keys)?;
        let toggle = |key| Ok::<_, ConfigError>(options.get(key)?.is_some_and(|Toggle(on)| on));
        let image_type = match options.text("image_type") {
            None => None,
            Some("raw") => Some(ImageType::Raw),
            Some("qcow2") => Some(ImageType::Qcow2),
            Some("vhd") => Some(ImageType::FixedVhd),
            Some("vhdx") => Some(ImageType::Vhdx),
            Some(_) => {
                let kinds = "raw, qcow2, vhd or vhdx";
                return Err(options.invalid("image_type", kinds).into());
            }
        };
        Ok(DiskConfig {
            path: options.get("path")?,
            readonly: toggle("readonly")?,
            direct: toggle("direct")?,
            num_queues: options.get("num_queues")?.unwrap_or(QUEUES),
            queue_size: options.get("queue_size")?.unwrap_or(QUEUE_SIZE),
            vhost_user: toggle("vhost_user")?,
            vhost_socket: options.get("socket")?,
            iommu: toggle("iommu")?,
            rate_limiter_config: None,
            rate_limit_group: None,
            id: options.get("id")?,
            serial: options.get("serial")?,
            pci_segment: options.get("pci_segment")?.unwrap_or(0),
            image_type,
        })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let unsupported = [
            ("disk vhost_user", self.vhost_user),
            ("disk vhost_socket", self.vhost_socket.is_some()),
            ("disk iommu", self.iommu),
            (
                "disk rate_limiter_config",
                self.rate_limiter_config.is_some(),
            ),
            ("disk rate_limit_group", self.rate_limit_group.is_some()),
            ("disk pci_segment", self.pci_segment != 0),
            (
                "disk image_type other than raw",
                !matches!(
                    self.image_type,
                    None | Some(ImageType::Raw | ImageType::Unknown)
                ),
            ),
        ];
        for (what, is_asked_for) in unsupported {
            if is_asked_for {
                let what = what.to_owned();
                return Err(ConfigError::Unsupported { what });
            }
        }
        if self.path.is_none() {
            return Err(ConfigError::DiskWithoutPath);
        }
        let (queues, size) = (self.num_queues, self.queue_size);
        let is_possible = (1..=QUEUES_MAX).contains(&queues)
            && (4..=QUEUE_SIZE_MAX).contains(&size)
            && size.is_power_of_two();
        if !is_possible {
            return Err(ConfigError::DiskQueues { queues, size });
        }
        let serial = self.serial.as_deref().unwrap_or_default();
        if serial.len() > SERIAL_LENGTH {
            return Err(ConfigError::DiskSerial {
                serial: serial.to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_defaults() {
        let disk = DiskConfig::parse("path=/d,readonly=on,serial=abc,id=root").unwrap();
        assert_eq!(disk.path, Some("/d".into()));
        assert!(disk.readonly && !disk.direct);
        assert_eq!((disk.num_queues, disk.queue_size), (1, 128));
        disk.validate().unwrap();
        let json =
            serde_json::from_str(r#"{"path":"/d","readonly":true,"serial":"abc","id":"root"}"#);
        let json: DiskConfig = json.unwrap();
        assert_eq!(json, disk);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for wrong in [
            "readonly=on",
            "path=/d,num_queues=0",
            "path=/d,queue_size=100",
            "path=/d,queue_size=2048",
            "path=/d,serial=123456789012345678901",
            "path=/d,image_type=qcow2",
            "path=/d,vhost_user=on",
            "path=/d,pci_segment=1",
        ] {
            let disk = DiskConfig::parse(wrong).unwrap();
            disk.validate().unwrap_err();
        }
        for wrong in [
            "path=/d,colour=blue",
            "path=/d,direct=maybe",
            "path=/d,image_type=x",
        ] {
            DiskConfig::parse(wrong).unwrap_err();
        }
    }
}
