//! What a machine boots, on its way from files into machines and from one host to another.
//!
//! Does: read the files that a configuration names, once; and code the payload as one blob. Does
//! not: look into it.
//!
//! Invariant: a payload that was encoded decodes to the same one; a blob that is none is refused
//! whole. After the first boot no file is opened any more (a reset loads from here).
//!
//! The blob: three u64, little-endian, with the lengths of command line, initramfs and kernel; then
//! these three.

use std::path::Path;
use std::sync::Arc;

use machine::BootPayload;
use thiserror::Error;

use crate::config::PayloadConfig;
use crate::control::VmError;

const HEAD: usize = 24;

/// A blob that is no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// Lengths and bytes disagree.
    #[error("the boot payload's lengths do not fit its {0} bytes")]
    Lengths(usize),
    /// The command line is no text.
    #[error("the boot payload's command line is no text")]
    CommandLine,
}

/// Reads what `config` names.
pub fn read(config: &PayloadConfig) -> Result<BootPayload, VmError> {
    let file = |what, path: &Option<std::path::PathBuf>| match path {
        Some(path) => read_file(what, path),
        None => Ok(Arc::default()),
    };
    Ok(BootPayload {
        kernel: file("read the kernel", &config.kernel)?,
        initramfs: file("read the initramfs", &config.initramfs)?,
        cmdline: config.cmdline.clone().unwrap_or_default(),
    })
}

fn read_file(what: &'static str, path: &Path) -> Result<Arc<Vec<u8>>, VmError> {
    let bytes = std::fs::read(path).map_err(|source| VmError::File {
        what,
        path: path.to_owned(),
        source,
    })?;
    Ok(Arc::new(bytes))
}

/// A payload as a blob that is never held in one piece.
#[derive(Debug)]
pub struct PayloadBlob {
    head: Vec<u8>,
    payload: BootPayload,
}

impl PayloadBlob {
    /// The blob of `payload`.
    pub fn new(payload: BootPayload) -> Self {
        let lengths = [
            payload.cmdline.len(),
            payload.initramfs.len(),
            payload.kernel.len(),
        ];
        let mut head: Vec<u8> = lengths
            .iter()
            .flat_map(|length| (*length as u64).to_le_bytes())
            .collect();
        head.extend_from_slice(payload.cmdline.as_bytes());
        PayloadBlob { head, payload }
    }

    fn parts(&self) -> [&[u8]; 3] {
        [&self.head, &self.payload.initramfs, &self.payload.kernel]
    }

    /// Its length.
    pub fn total(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// Some bytes from `offset` on, at most `most`; none only at the end.
    pub fn at(&self, mut offset: usize, most: usize) -> &[u8] {
        for part in self.parts() {
            if offset < part.len() {
                let end = part.len().min(offset + most);
                return &part[offset..end];
            }
            offset -= part.len();
        }
        &[]
    }
}

/// The payload in a blob. Needs no second copy of the kernel.
pub fn decode(mut blob: Vec<u8>) -> Result<BootPayload, PayloadError> {
    let wrong = PayloadError::Lengths(blob.len());
    let number = |index: usize| {
        let bytes = blob.get(index * 8..index * 8 + 8)?;
        usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let (Some(cmdline), Some(initramfs), Some(kernel)) = (number(0), number(1), number(2)) else {
        return Err(wrong);
    };
    let text_end = HEAD.checked_add(cmdline).ok_or(wrong)?;
    let kernel_start = text_end.checked_add(initramfs).ok_or(wrong)?;
    if kernel_start.checked_add(kernel) != Some(blob.len()) {
        return Err(wrong);
    }
    let cmdline = std::str::from_utf8(&blob[HEAD..text_end])
        .map_err(|_| PayloadError::CommandLine)?
        .to_owned();
    let initramfs = blob[text_end..kernel_start].to_vec();
    blob.drain(..kernel_start);
    blob.shrink_to_fit();
    Ok(BootPayload {
        kernel: Arc::new(blob),
        initramfs: Arc::new(initramfs),
        cmdline,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> BootPayload {
        BootPayload {
            kernel: Arc::new(vec![7; 1000]),
            initramfs: Arc::new(vec![8; 10]),
            cmdline: "console=ttyS0".to_owned(),
        }
    }

    fn blob(payload: BootPayload, most: usize) -> Vec<u8> {
        let blob = PayloadBlob::new(payload);
        let mut bytes = Vec::new();
        loop {
            let more = blob.at(bytes.len(), most);
            if more.is_empty() {
                break;
            }
            assert!(more.len() <= most);
            bytes.extend_from_slice(more);
        }
        assert_eq!(bytes.len(), blob.total());
        bytes
    }

    #[test]
    fn what_is_encoded_decodes() {
        for most in [1, 7, 300, 100_000] {
            assert_eq!(decode(blob(payload(), most)), Ok(payload()));
        }
        let empty = BootPayload {
            kernel: Arc::default(),
            initramfs: Arc::default(),
            cmdline: String::new(),
        };
        assert_eq!(decode(blob(empty.clone(), 100)), Ok(empty));
    }

    #[test]
    fn what_is_none_is_refused() {
        let good = blob(payload(), 4096);
        for cut in [0, 5, HEAD, good.len() - 1] {
            decode(good[..cut].to_vec()).unwrap_err();
        }
        let mut huge = good.clone();
        huge[7] = 0xff;
        decode(huge).unwrap_err();
        let mut overflowing = good.clone();
        overflowing[..24].fill(0xff);
        decode(overflowing).unwrap_err();
        let mut no_text = good;
        no_text[HEAD] = 0xff;
        assert_eq!(decode(no_text), Err(PayloadError::CommandLine));
    }

    #[test]
    fn a_missing_file_is_named() {
        let config = PayloadConfig {
            kernel: Some("/nonexistent/kernel".into()),
            ..Default::default()
        };
        let error = read(&config).unwrap_err().to_string();
        assert!(error.contains("kernel") && error.contains("/nonexistent/kernel"));
    }
}
