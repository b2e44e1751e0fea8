//! What the machine boots.
//!
//! Does: name the kernel, its command line and its initial file system. Does not: open them; their
//! content is read once, at boot, and is machine state from then on.
//!
//! Invariant: a valid payload has a kernel, and a command line that fits its place in memory.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// The longest command line, without the zero byte that ends it.
pub const CMDLINE_LENGTH_MAX: usize = (64 << 10) - 1;

/// What the machine boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadConfig {
    /// Firmware (not supported yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<PathBuf>,
    /// A PVH vmlinux or a bzImage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The kernel's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// The initial file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<PathBuf>,
}

impl PayloadConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.firmware.is_some() {
            return Err(ConfigError::Unsupported {
                what: "payload.firmware".to_owned(),
            });
        }
        if self.kernel.is_none() {
            return Err(ConfigError::NoKernel);
        }
        let cmdline = self.cmdline.as_deref().unwrap_or_default();
        if cmdline.len() > CMDLINE_LENGTH_MAX {
            return Err(ConfigError::CmdlineTooLong {
                length: cmdline.len(),
                max: CMDLINE_LENGTH_MAX,
            });
        }
        if cmdline.contains('\0') {
            return Err(ConfigError::CmdlineZero);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_cmdline(cmdline: String) -> Result<(), ConfigError> {
        let kernel = Some(PathBuf::from("/boot/vmlinux"));
        PayloadConfig {
            kernel,
            cmdline: Some(cmdline),
            ..Default::default()
        }
        .validate()
    }

    #[test]
    fn command_lines_fit_or_are_refused() {
        with_cmdline("x".repeat(CMDLINE_LENGTH_MAX)).unwrap();
        let long = with_cmdline("x".repeat(CMDLINE_LENGTH_MAX + 1));
        assert!(matches!(long, Err(ConfigError::CmdlineTooLong { .. })));
        assert!(matches!(
            with_cmdline("a\0b".to_owned()),
            Err(ConfigError::CmdlineZero)
        ));
    }
}
