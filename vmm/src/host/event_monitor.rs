//! The event monitor: a line of events for whoever watches this process.
//!
//! Does: write each event as pretty JSON and a blank line to a file or an inherited descriptor.
//! Does not: hold anything back for the output rule, so it must be told only of the VMM's own
//! doings, never of what the guest computed.
//!
//! Invariant: an event that cannot be written is dropped with a warning; it never stops the VMM.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::FromRawFd;
use std::path::Path;

use serde::Serialize;

use super::clock;

/// Where events go, or nowhere.
#[derive(Debug, Default)]
pub struct EventMonitor {
    file: Option<File>,
}

#[derive(Serialize)]
struct Timestamp {
    secs: u64,
    nanos: u32,
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: Timestamp,
    source: &'a str,
    event: &'a str,
    properties: Option<()>,
}

impl EventMonitor {
    /// One that nobody watches.
    pub fn none() -> Self {
        EventMonitor::default()
    }

    /// One that writes to the file `path`, which is created or emptied.
    pub fn to_path(path: &Path) -> io::Result<Self> {
        // Not blocking, so that a pipe that nobody reads does not stop the VMM.
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_NONBLOCK);
        Ok(EventMonitor {
            file: Some(options.open(path)?),
        })
    }

    /// One that writes to a descriptor that this process was started with.
    pub fn to_descriptor(descriptor: i32) -> io::Result<Self> {
        let file = owned_descriptor(descriptor)?;
        Ok(EventMonitor { file: Some(file) })
    }

    /// Writes one event.
    pub fn event(&mut self, source: &str, event: &str) {
        let Some(file) = &mut self.file else {
            return;
        };
        let now = clock::monotonic_ns();
        let timestamp = Timestamp {
            secs: now / 1_000_000_000,
            nanos: u32::try_from(now % 1_000_000_000).unwrap_or_default(),
        };
        let line = Line {
            timestamp,
            source,
            event,
            properties: None,
        };
        let written = serde_json::to_string_pretty(&line)
            .map_err(io::Error::from)
            .and_then(|text| file.write_all(format!("{text}\n\n").as_bytes()));
        if let Err(error) = written {
            log::warn!("the event monitor misses {source}/{event}: {error}");
        }
    }
}

/// Takes a descriptor over that this process was started with. It must be open, and not one of the
/// three standard ones.
pub(super) fn owned_descriptor(descriptor: i32) -> io::Result<File> {
    if descriptor < 3 {
        let text = "standard input, output and error cannot be given away";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // SAFETY: F_GETFD takes no pointer and fails on descriptors that are not open.
    if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: F_SETFD takes no pointer; children shall not inherit the descriptor.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and whoever named it on the command line gave it to us: no
    // other object of this process owns it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_json_between_blank_lines() {
        let directory = vmm_sys_util::tempdir::TempDir::new().unwrap();
        let path = directory.as_path().join("events");
        let mut monitor = EventMonitor::to_path(&path).unwrap();
        monitor.event("vm", "booting");
        monitor.event("vm", "booted");
        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<serde_json::Value> = text
            .split_terminator("\n\n")
            .map(|event| serde_json::from_str(event).unwrap())
            .collect();
        assert_eq!(events.len(), 2);
        assert_eq!(events[1]["source"], "vm");
        assert_eq!(events[1]["event"], "booted");
        assert!(events[1]["timestamp"]["secs"].is_u64());
        assert!(events[1]["properties"].is_null());
    }

    #[test]
    fn only_open_descriptors_are_taken() {
        EventMonitor::to_descriptor(1).unwrap_err();
        EventMonitor::to_descriptor(98765).unwrap_err();
    }
}
