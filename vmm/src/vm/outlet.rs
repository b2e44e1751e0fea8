//! The other end of a console on this host: of the serial port or of a virtio console.
//!
//! Does: connect it as the configuration says: what may leave goes to standard output, a file, a
//! pseudo-terminal or a socket; what is typed comes in. Does not: hold anything back (`ft`'s gate
//! does), or interpret a byte.
//!
//! Invariant: only a live machine has one (a backup's outputs are dropped, and nobody can type into
//! it), and the terminal is given back when it goes away. A side that goes live opens its own
//! pseudo-terminal, listens at the same path, and continues the same file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use machine::{Event, Lane};

use super::backends::Around;
use super::gated::GatedConsole;
use super::inbox::Inbox;
use crate::config::{ConsoleConfig, ConsoleMode};
use crate::control::VmError;
use crate::host::console_sink::{ConsoleSink, Target};
use crate::host::console_socket::ConsoleSocket;
use crate::host::keyboard::{Keyboard, KeyboardThread, Typed};
use crate::host::pty::Pty;
use crate::host::terminal::RawMode;
use crate::host::unix_listener::Claim;

/// Whether the VM begins here, or another host may have run it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// The VM begins here.
    Begins,
    /// Another host may have written to the same file.
    Continues,
}

/// What a console is connected to.
struct Ends {
    target: Target,
    keyboard: Option<Keyboard>,
    /// Where the other end of its pseudo-terminal is.
    pty: Option<PathBuf>,
}

impl Ends {
    fn nowhere() -> Self {
        Ends {
            target: Target::Nowhere,
            keyboard: None,
            pty: None,
        }
    }

    fn open(config: &ConsoleConfig, history: History) -> io::Result<Self> {
        let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
        let mut ends = Ends::nowhere();
        match config.mode {
            ConsoleMode::Off | ConsoleMode::Null => {}
            ConsoleMode::Tty => {
                ends.target = Target::stdout()?;
                ends.keyboard = Some(Keyboard::Stdin);
            }
            ConsoleMode::File => {
                let path = path(&config.file);
                ends.target = match history {
                    History::Begins => Target::new_file(&path)?,
                    History::Continues => Target::end_of_file(&path)?,
                };
            }
            ConsoleMode::Pty => {
                let (pty, path) = Pty::open()?;
                ends.keyboard = Some(Keyboard::Pty(pty.try_clone()?));
                ends.target = Target::Pty(pty);
                ends.pty = Some(path);
            }
            ConsoleMode::Socket => {
                let claim = match history {
                    History::Begins => Claim::Free,
                    History::Continues => Claim::TakeOver,
                };
                let socket = Arc::new(ConsoleSocket::bind(&path(&config.socket), claim)?);
                ends.target = Target::Socket(Arc::clone(&socket));
                ends.keyboard = Some(Keyboard::Socket(socket));
            }
        }
        Ok(ends)
    }
}

/// A console's other end.
pub struct Outlet {
    lane: Lane,
    sink: ConsoleSink,
    /// Reads what is typed, while this exists.
    _keyboard: Option<KeyboardThread>,
    _raw: Option<RawMode>,
    pty: Option<PathBuf>,
}

impl Outlet {
    /// Connects the console `id` of a lane, of whose bytes so many are emitted. A side that goes
    /// live goes on without what it cannot have.
    pub fn open(
        id: &str,
        lane: Lane,
        config: &ConsoleConfig,
        history: History,
        around: &Around,
        emitted: u64,
    ) -> Result<Self, VmError> {
        let ends = match (Ends::open(config, history), history) {
            (Ok(ends), _) => ends,
            (Err(error), History::Continues) => {
                log::error!("the console {id} is not connected here: {error}");
                Ends::nowhere()
            }
            (Err(source), History::Begins) => return Err(refused(config, source)),
        };
        let host = |what| move |source| VmError::Host { what, source };
        let source = GatedConsole {
            role: Arc::clone(&around.role),
            inbox: Arc::clone(&around.inbox),
            lane,
        };
        let bell = around.bells.of(lane);
        let sink = ConsoleSink::start(id, ends.target, bell, emitted, source)
            .map_err(host("start a console's thread"))?;
        let raw = match ends.keyboard {
            Some(Keyboard::Stdin) => {
                RawMode::enter().map_err(host("put the terminal into raw mode"))?
            }
            _ => None,
        };
        let typist = |keyboard| {
            let inbox = Arc::clone(&around.inbox);
            let name = format!("{id}-in");
            KeyboardThread::start(&name, keyboard, Typist { inbox, lane })
        };
        let keyboard = ends.keyboard.map(typist).transpose();
        Ok(Outlet {
            lane,
            sink,
            _keyboard: keyboard.map_err(host("start a console's thread"))?,
            _raw: raw,
            pty: ends.pty,
        })
    }

    /// Its lane.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Where the other end of its pseudo-terminal is, if it has one.
    pub fn pty(&self) -> Option<&Path> {
        self.pty.as_deref()
    }

    /// Waits until all bytes up to the count `through` are out, but not longer than `timeout`.
    pub fn flush(&self, through: u64, timeout: Duration) {
        if !self.sink.flush(through, timeout) {
            log::warn!("nobody reads the console: its last bytes are lost");
        }
    }
}

fn refused(config: &ConsoleConfig, source: io::Error) -> VmError {
    match config.file.as_ref().or(config.socket.as_ref()) {
        Some(path) => VmError::File {
            what: "connect a console to",
            path: path.clone(),
            source,
        },
        None => VmError::Host {
            what: "connect a console",
            source,
        },
    }
}

/// What is typed waits in the inbox.
struct Typist {
    inbox: Arc<Inbox>,
    lane: Lane,
}

impl Typed for Typist {
    fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.inbox.type_bytes(self.lane, bytes)
    }

    fn size(&mut self, columns: u16, rows: u16) {
        // A serial line has no size.
        if let Lane::Device(device) = self.lane {
            let event = Event::Size { columns, rows };
            self.inbox.tell_device(device, event);
        }
    }
}
