//! A log that is kept in a file.
//!
//! Does: begin the file with the machine as it stands, add entries, and see to it that they reach
//! the file soon. Does not: decide what is logged.
//!
//! Invariant: the file is readable up to its last whole batch at every moment; a file that cannot
//! be written any more ends the recording, not the VM.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use ft::identity::{Generation, VmId};
use ft::log::{Entry, FileHeader, FileWriter};
use machine::Machine;

use super::clone_out;
use super::digests;
use crate::control::VmError;

/// Entries reach the file after this time at the latest, in host nanoseconds.
const FLUSH_INTERVAL: u64 = 200_000_000;

/// The file that is being written.
pub struct Recorder {
    path: PathBuf,
    file: File,
    writer: FileWriter,
    flushed_at: u64,
    /// Bytes written so far.
    written: u64,
    is_broken: bool,
}

impl Recorder {
    /// Begins a file with `machine`, which its first entry continues.
    pub fn begin(
        path: &Path,
        vm: VmId,
        config: Vec<u8>,
        first_seq: u64,
        machine: &mut Machine,
    ) -> Result<Self, VmError> {
        let file = File::create(path).map_err(|source| VmError::File {
            what: "create the log",
            path: path.to_owned(),
            source,
        })?;
        let header = FileHeader {
            semantics: digests::semantics(machine.profile()),
            vm,
            generation: Generation(0),
            first_seq,
            position: machine.position(),
        };
        let mut writer = FileWriter::new(&header);
        clone_out::write_to_file(&mut writer, config, first_seq, machine);
        let mut recorder = Recorder {
            path: path.to_owned(),
            file,
            writer,
            flushed_at: 0,
            written: 0,
            is_broken: false,
        };
        recorder.flush(0);
        Ok(recorder)
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: &Entry) {
        if self.is_broken {
            return;
        }
        if let Err(error) = self.writer.push(entry) {
            self.broken(&error.to_string());
        }
    }

    /// Writes what there is, if it is time.
    pub fn flush_if_due(&mut self, now: u64) {
        if now >= self.flushed_at + FLUSH_INTERVAL {
            self.flush(now);
        }
    }

    /// Writes what there is.
    pub fn flush(&mut self, now: u64) {
        self.flushed_at = now;
        let bytes = self.writer.flush();
        if self.is_broken || bytes.is_empty() {
            return;
        }
        match self.file.write_all(&bytes) {
            Ok(()) => self.written += bytes.len() as u64,
            Err(error) => self.broken(&error.to_string()),
        }
    }

    /// Bytes in the file.
    pub fn written(&self) -> u64 {
        self.written
    }

    fn broken(&mut self, why: &str) {
        log::error!(
            "the recording in '{}' ends here, it cannot be written: {why}",
            self.path.display()
        );
        self.is_broken = true;
    }
}
