//! A configuration from the command line.
//!
//! Does: turn the texts of `--cpus`, `--memory`, `--serial` and the rest into a [`VmConfig`]. Does
//! not: know how options are declared; the binary does.
//!
//! Invariant: an option that is absent gives the same value as its absence from the JSON.

use std::path::PathBuf;

use super::VmConfig;
use super::balloon::BalloonConfig;
use super::console::ConsoleConfig;
use super::cpus::CpusConfig;
use super::disk::DiskConfig;
use super::error::ConfigError;
use super::ft::FtConfig;
use super::memory::MemoryConfig;
use super::net::NetConfig;
use super::payload::PayloadConfig;
use super::rate_limiter::RateLimitGroupConfig;
use super::rng::RngConfig;
use super::vsock::VsockConfig;

/// The texts of the options that describe a virtual machine.
#[derive(Clone, Debug, Default)]
pub struct VmParams {
    /// `--cpus`
    pub cpus: Option<String>,
    /// `--memory`
    pub memory: Option<String>,
    /// `--kernel`
    pub kernel: Option<PathBuf>,
    /// `--cmdline`
    pub cmdline: Option<String>,
    /// `--initramfs`
    pub initramfs: Option<PathBuf>,
    /// `--disk`
    pub disks: Vec<String>,
    /// `--rate-limit-group`
    pub rate_limit_groups: Vec<String>,
    /// `--net`
    pub nets: Vec<String>,
    /// `--rng`
    pub rng: Option<String>,
    /// `--vsock`
    pub vsock: Option<String>,
    /// `--balloon`
    pub balloon: Option<String>,
    /// `--serial`
    pub serial: Option<String>,
    /// `--console`
    pub console: Option<String>,
    /// `--ft`
    pub ft: Option<String>,
}

/// One of each text; absent if there is none.
fn all<T>(
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, ConfigError>,
) -> Result<Option<Vec<T>>, ConfigError> {
    let all: Vec<T> = texts
        .iter()
        .map(|text| parse(text))
        .collect::<Result<_, _>>()?;
    Ok((!all.is_empty()).then_some(all))
}

impl VmParams {
    /// Whether a virtual machine is described at all.
    pub fn has_payload(&self) -> bool {
        self.kernel.is_some()
    }

    /// The configuration, validated.
    pub fn to_config(&self) -> Result<VmConfig, ConfigError> {
        let serial = self
            .serial
            .as_deref()
            .map(|text| ConsoleConfig::parse("--serial", text));
        let console = self
            .console
            .as_deref()
            .map(|text| ConsoleConfig::parse("--console", text));
        let config = VmConfig {
            cpus: self
                .cpus
                .as_deref()
                .map(CpusConfig::parse)
                .transpose()?
                .unwrap_or_default(),
            memory: self
                .memory
                .as_deref()
                .map(MemoryConfig::parse)
                .transpose()?
                .unwrap_or_default(),
            payload: Some(PayloadConfig {
                firmware: None,
                kernel: self.kernel.clone(),
                cmdline: self.cmdline.clone(),
                initramfs: self.initramfs.clone(),
            }),
            rng: self
                .rng
                .as_deref()
                .map(RngConfig::parse)
                .transpose()?
                .unwrap_or_default(),
            serial: serial
                .transpose()?
                .unwrap_or_else(ConsoleConfig::serial_default),
            console: console
                .transpose()?
                .unwrap_or_else(ConsoleConfig::console_default),
            disks: all(&self.disks, DiskConfig::parse)?,
            rate_limit_groups: all(&self.rate_limit_groups, RateLimitGroupConfig::parse)?,
            net: all(&self.nets, NetConfig::parse)?,
            vsock: self.vsock.as_deref().map(VsockConfig::parse).transpose()?,
            balloon: self
                .balloon
                .as_deref()
                .map(BalloonConfig::parse)
                .transpose()?,
            ft: self.ft.as_deref().map(FtConfig::parse).transpose()?,
            pci_slots: Default::default(),
            others: Default::default(),
        };
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConsoleMode;

    #[test]
    fn absent_options_are_absent_fields() {
        let params = VmParams {
            kernel: Some("/k".into()),
            ..Default::default()
        };
        let json = br#"{"payload":{"kernel":"/k"}}"#;
        assert_eq!(
            params.to_config().unwrap(),
            VmConfig::from_json(json).unwrap()
        );
    }

    #[test]
    fn everything_arrives() {
        let params = VmParams {
            cpus: Some("boot=1".into()),
            memory: Some("size=256M".into()),
            kernel: Some("/k".into()),
            cmdline: Some("console=ttyS0 root=/dev/ram0".into()),
            initramfs: Some("/i".into()),
            disks: vec!["path=/d".into(), "path=/e,readonly=on".into()],
            rate_limit_groups: vec!["id=g,ops_size=10,ops_refill_time=1000".into()],
            nets: vec!["tap=tap0".into()],
            rng: Some("src=/dev/zero".into()),
            vsock: Some("cid=3,socket=/run/vsock".into()),
            balloon: Some("size=1M".into()),
            serial: Some("tty".into()),
            console: Some("off".into()),
            ft: Some("lease=file:/l/x".into()),
        };
        let config = params.to_config().unwrap();
        assert_eq!(config.memory.size, 256 << 20);
        assert_eq!(config.serial.mode, ConsoleMode::Tty);
        assert!(config.disks.unwrap()[1].readonly);
        assert_eq!(config.net.unwrap()[0].tap.as_deref(), Some("tap0"));
        assert_eq!(config.rng.src, PathBuf::from("/dev/zero"));
        assert_eq!(config.vsock.unwrap().cid, 3);
        assert_eq!(config.balloon.unwrap().size, 1 << 20);
        let payload = config.payload.unwrap();
        assert_eq!(
            payload.cmdline.as_deref(),
            Some("console=ttyS0 root=/dev/ram0")
        );
        assert_eq!(payload.initramfs, Some(PathBuf::from("/i")));
        assert!(config.ft.unwrap().lease.is_some());
    }

    #[test]
    fn mistakes_name_their_option() {
        let params = VmParams {
            kernel: Some("/k".into()),
            memory: Some("sise=1G".into()),
            ..Default::default()
        };
        let error = params.to_config().unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            source.starts_with("--memory: unknown key 'sise'"),
            "{source}"
        );
        let params = VmParams {
            kernel: Some("/k".into()),
            serial: Some("tty".into()),
            ..Default::default()
        };
        assert!(matches!(params.to_config(), Err(ConfigError::TwoTtys)));
    }
}
