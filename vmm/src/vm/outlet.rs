//! The guest's serial line on this host.
//!
//! Does: connect it as the configuration says: what may leave goes to standard output or a file,
//! what is typed comes in. Does not: hold anything back (`ft`'s gate does), or interpret a byte.
//!
//! Invariant: only a live machine has one (a backup's outputs are dropped, and nobody can type into
//! it), and the terminal is given back when it goes away.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::inbox::Inbox;
use super::primary_role::{GatedConsole, SharedPrimary};
use crate::config::{ConsoleConfig, ConsoleMode};
use crate::control::VmError;
use crate::host::bell::Bell;
use crate::host::console_sink::{ConsoleSink, Target};
use crate::host::terminal::{RawMode, StdinThread};

/// The line's other end.
pub struct Outlet {
    sink: ConsoleSink,
    /// Reads what is typed, while this exists.
    _stdin: Option<StdinThread>,
    _raw: Option<RawMode>,
}

/// Whether a file is begun or continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// The VM begins here.
    Begins,
    /// Another host may have written to the same file.
    Continues,
}

impl Outlet {
    /// Where `config` leads.
    pub fn target(config: &ConsoleConfig, history: History) -> Result<Target, VmError> {
        match (config.mode, &config.file) {
            (ConsoleMode::Tty, _) => Target::stdout().map_err(|source| VmError::Host {
                what: "use standard output",
                source,
            }),
            (ConsoleMode::File, Some(path)) => match history {
                History::Begins => Target::new_file(path),
                History::Continues => Target::end_of_file(path),
            }
            .map_err(|source| VmError::File {
                what: "write the serial port's output to",
                path: path.clone(),
                source,
            }),
            _ => Ok(Target::Nowhere),
        }
    }

    /// Connects the line of the machine of `role`, of whose bytes so many are emitted.
    pub fn open(
        config: &ConsoleConfig,
        target: Target,
        role: &SharedPrimary,
        inbox: &Arc<Inbox>,
        bell: &Arc<Bell>,
        emitted: u64,
    ) -> io::Result<Self> {
        let source = GatedConsole {
            role: Arc::clone(role),
            inbox: Arc::clone(inbox),
        };
        let sink = ConsoleSink::start(target, Arc::clone(bell), emitted, source)?;
        let (mut stdin, mut raw) = (None, None);
        if config.mode == ConsoleMode::Tty {
            raw = RawMode::enter()?;
            let inbox = Arc::clone(inbox);
            stdin = Some(StdinThread::start(move |bytes| inbox.type_bytes(bytes))?);
        }
        Ok(Outlet {
            sink,
            _stdin: stdin,
            _raw: raw,
        })
    }

    /// Waits until all bytes up to the count `through` are out, but not longer than `timeout`.
    pub fn flush(&self, through: u64, timeout: Duration) {
        if !self.sink.flush(through, timeout) {
            log::warn!("nobody reads the console: its last bytes are lost");
        }
    }
}
