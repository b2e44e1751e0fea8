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
use super::rate_limiter::{self, RateLimiterConfig};

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

/// How much of an image's file is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockGranularity {
    /// The bytes that it has at first.
    #[default]
    ByteRange,
    /// The whole file.
    Full,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskConfig {
    /// Its image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The guest cannot write.
    pub readonly: bool,
    /// The host's page cache is left out.
    pub direct: bool,
    /// Queues.
    pub num_queues: u16,
    /// Entries of each.
    pub queue_size: u16,
    /// Behind another process.
    pub vhost_user: bool,
    /// That process's socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_socket: Option<PathBuf>,
    /// Behind an IOMMU.
    pub iommu: bool,
    /// How much it may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter_config: Option<RateLimiterConfig>,
    /// With whom it shares that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_group: Option<String>,
    /// The device's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The disk's serial number, at most 20 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The PCI segment.
    pub pci_segment: u16,
    /// What is in the file; absent or unknown: its first bytes tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_type: Option<ImageType>,
    /// An image may name another one below it.
    pub backing_files: bool,
    /// The guest may give space back.
    pub sparse: bool,
    /// How much of the file is locked.
    pub lock_granularity: LockGranularity,
    /// One request at a time, as on a host without io_uring.
    pub disable_io_uring: bool,
}

impl Default for DiskConfig {
    fn default() -> Self {
        DiskConfig {
            path: None,
            readonly: false,
            direct: false,
            num_queues: 1,
            queue_size: 128,
            vhost_user: false,
            vhost_socket: None,
            iommu: false,
            rate_limiter_config: None,
            rate_limit_group: None,
            id: None,
            serial: None,
            pci_segment: 0,
            image_type: None,
            backing_files: false,
            sparse: true,
            lock_granularity: LockGranularity::ByteRange,
            disable_io_uring: false,
        }
    }
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
            "backing_files",
            "sparse",
            "lock_granularity",
            "rate_limit_group",
            "_disable_io_uring",
        ]
        .map(Key::value);
        let keys = [&keys[..], &rate_limiter::KEYS].concat();
        let options = Options::parse("--disk", text, &keys)?;
        let absent = DiskConfig::default();
        let toggle = |key, absent| {
            let given = options.get(key)?.map(|Toggle(on)| on);
            Ok::<_, ConfigError>(given.unwrap_or(absent))
        };
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
        let lock_granularity = match options.text("lock_granularity") {
            None | Some("byte-range") => LockGranularity::ByteRange,
            Some("full") => LockGranularity::Full,
            Some(_) => {
                let kinds = "byte-range or full";
                return Err(options.invalid("lock_granularity", kinds).into());
            }
        };
        Ok(DiskConfig {
            path: options.get("path")?,
            readonly: toggle("readonly", absent.readonly)?,
            direct: toggle("direct", absent.direct)?,
            num_queues: options.get("num_queues")?.unwrap_or(absent.num_queues),
            queue_size: options.get("queue_size")?.unwrap_or(absent.queue_size),
            vhost_user: toggle("vhost_user", absent.vhost_user)?,
            vhost_socket: options.get("socket")?,
            iommu: toggle("iommu", absent.iommu)?,
            rate_limiter_config: RateLimiterConfig::of(&options)?,
            rate_limit_group: options.get("rate_limit_group")?,
            id: options.get("id")?,
            serial: options.get("serial")?,
            pci_segment: options.get("pci_segment")?.unwrap_or(absent.pci_segment),
            image_type,
            backing_files: toggle("backing_files", absent.backing_files)?,
            sparse: toggle("sparse", absent.sparse)?,
            lock_granularity,
            disable_io_uring: toggle("_disable_io_uring", absent.disable_io_uring)?,
        })
    }

    /// How its image is opened.
    pub(crate) fn open_options(&self) -> block::OpenOptions {
        block::OpenOptions {
            read_only: self.readonly,
            direct: self.direct,
            format: match self.image_type {
                Some(ImageType::Raw) => Some(block::Format::Raw),
                Some(ImageType::Qcow2) => Some(block::Format::Qcow2),
                // Others are refused.
                _ => None,
            },
            backing_files: self.backing_files,
            lock_granularity: match self.lock_granularity {
                LockGranularity::ByteRange => block::LockGranularity::ByteRange,
                LockGranularity::Full => block::LockGranularity::Full,
            },
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let unsupported = [
            ("disk vhost_user", self.vhost_user),
            ("disk vhost_socket", self.vhost_socket.is_some()),
            ("disk iommu", self.iommu),
            ("disk pci_segment", self.pci_segment != 0),
            (
                "disk image_type other than raw or qcow2",
                matches!(self.image_type, Some(ImageType::FixedVhd | ImageType::Vhdx)),
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
        if let Some(limits) = &self.rate_limiter_config {
            limits.validate()?;
            if self.rate_limit_group.is_some() {
                return Err(ConfigError::RateLimitTwice);
            }
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
        let text = "path=/d,image_type=qcow2,backing_files=on,sparse=off,lock_granularity=full";
        let disk = DiskConfig::parse(text).unwrap();
        disk.validate().unwrap();
        assert!(disk.backing_files && !disk.sparse);
        assert_eq!(disk.open_options().format, Some(block::Format::Qcow2));
        let json = r#"{"path":"/d","image_type":"Qcow2","backing_files":true,"sparse":false,
            "lock_granularity":"Full"}"#;
        assert_eq!(serde_json::from_str::<DiskConfig>(json).unwrap(), disk);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for wrong in [
            "readonly=on",
            "path=/d,num_queues=0",
            "path=/d,queue_size=100",
            "path=/d,queue_size=2048",
            "path=/d,serial=123456789012345678901",
            "path=/d,image_type=vhd",
            "path=/d,image_type=vhdx",
            "path=/d,vhost_user=on",
            "path=/d,pci_segment=1",
            "path=/d,bw_size=5",
            "path=/d,bw_size=5,bw_refill_time=5,rate_limit_group=g",
        ] {
            let disk = DiskConfig::parse(wrong).unwrap();
            disk.validate().unwrap_err();
        }
        for wrong in [
            "path=/d,colour=blue",
            "path=/d,direct=maybe",
            "path=/d,image_type=x",
            "path=/d,lock_granularity=half",
        ] {
            DiskConfig::parse(wrong).unwrap_err();
        }
    }
}
