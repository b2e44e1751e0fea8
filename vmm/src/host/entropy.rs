//! Random bytes of this host, for the guest.
//!
//! Does: read them from the file that `--rng src=` names. Does not: make any.
//!
//! Invariant: a request is answered in full or fails.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use machine::Request;

use super::request_thread::Backend;

/// The source.
#[derive(Debug)]
pub struct Entropy {
    path: PathBuf,
    file: Option<File>,
}

impl Entropy {
    /// From the file in `path`, which is opened when it is needed.
    pub fn new(path: &Path) -> Self {
        Entropy {
            path: path.to_owned(),
            file: None,
        }
    }
}

impl Backend for Entropy {
    fn carry_out(&mut self, request: &Request, _durable: bool) -> io::Result<Vec<u8>> {
        let Request::Entropy { length } = request else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let mut file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let mut bytes = vec![0; *length as usize];
        file.read_exact(&mut bytes)?;
        self.file = Some(file);
        Ok(bytes)
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}
