//! Where log messages go.
//!
//! Does: write each message as one line, with time, thread and place, to standard error or a file.
//! Does not: choose what is logged; `-v` does.
//!
//! Invariant: a line is written whole. A log that cannot be written is no reason to stop.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};

use super::clock;

struct Logger {
    level: LevelFilter,
    output: Mutex<Box<dyn Write + Send>>,
}

/// The level for that many `-v`.
pub fn level(verbosity: u8) -> LevelFilter {
    match verbosity {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}

/// Starts logging to `file`, or to standard error. Only the first call has an effect.
pub fn start(level: LevelFilter, file: Option<&Path>) -> io::Result<()> {
    // The clock's zero is the start of logging.
    clock::monotonic_ns();
    let output: Box<dyn Write + Send> = match file {
        Some(path) => Box::new(File::create(path)?),
        None => Box::new(io::stderr()),
    };
    let logger = Box::new(Logger {
        level,
        output: Mutex::new(output),
    });
    if log::set_boxed_logger(logger).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // A guest whose rings make no sense could fill the log with this library's complaints.
        let is_guests_doing = metadata.target().starts_with("virtio_queue");
        metadata.level() <= self.level && (!is_guests_doing || self.level >= LevelFilter::Debug)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = clock::monotonic_ns() / 1000;
        let (seconds, microseconds) = (now / 1_000_000, now % 1_000_000);
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        let (level, target, text) = (record.level(), record.target(), record.args());
        let line = format!("{seconds}.{microseconds:06} {level} <{name}> {target}: {text}\n");
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nobody to tell if it fails.
        let _ = output.write_all(line.as_bytes());
    }

    fn flush(&self) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nobody to tell if it fails.
        let _ = output.flush();
    }
}
