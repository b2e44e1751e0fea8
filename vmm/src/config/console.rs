//! Where a console's bytes go.
//!
//! Does: modes of the serial port and of the virtio console. Does not: open terminals, sockets or
//! files.
//!
//! Invariant: mode `File` has a file, mode `Socket` has a socket, and no other mode needs either.

use std::path::PathBuf;

use option_parser::{Key, Options};
use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// What a console is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsoleMode {
    /// There is no such device.
    Off,
    /// A new pseudo-terminal.
    Pty,
    /// Standard input and output.
    Tty,
    /// A file.
    File,
    /// A UNIX socket.
    Socket,
    /// Nothing: output is dropped.
    Null,
}

impl ConsoleMode {
    /// As it is written on the command line.
    fn name(self) -> &'static str {
        match self {
            ConsoleMode::Off => "off",
            ConsoleMode::Pty => "pty",
            ConsoleMode::Tty => "tty",
            ConsoleMode::File => "file",
            ConsoleMode::Socket => "socket",
            ConsoleMode::Null => "null",
        }
    }
}

/// One console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleConfig {
    /// The file of mode `File`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// What it is connected to.
    pub mode: ConsoleMode,
    /// The socket of mode `Socket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        ConsoleConfig::serial_default()
    }
}

impl ConsoleConfig {
    /// What the serial port is when nobody says.
    pub fn serial_default() -> Self {
        ConsoleConfig {
            file: None,
            mode: ConsoleMode::Null,
            socket: None,
        }
    }

    /// What the virtio console is when nobody says.
    pub fn console_default() -> Self {
        ConsoleConfig {
            file: None,
            mode: ConsoleMode::Tty,
            socket: None,
        }
    }

    /// Reads `off|null|pty|tty|file=PATH|socket=PATH` given for `option`.
    pub fn parse(option: &str, text: &str) -> Result<Self, ConfigError> {
        let keys = [
            Key::word("off"),
            Key::word("null"),
            Key::word("pty"),
            Key::word("tty"),
            Key::value("file"),
            Key::value("socket"),
        ];
        let options = Options::parse(option, text, &keys)?;
        let modes = [
            ConsoleMode::Off,
            ConsoleMode::Null,
            ConsoleMode::Pty,
            ConsoleMode::Tty,
            ConsoleMode::File,
            ConsoleMode::Socket,
        ];
        let mut given = modes.into_iter().filter(|mode| options.has(mode.name()));
        let (Some(mode), None) = (given.next(), given.next()) else {
            return Err(ConfigError::Option(
                option_parser::OptionError::InvalidValue {
                    option: option.to_owned(),
                    key: "mode".to_owned(),
                    value: text.to_owned(),
                    expected: "one of off, null, tty, pty, file=PATH, socket=PATH".to_owned(),
                },
            ));
        };
        Ok(ConsoleConfig {
            file: options.get("file")?,
            mode,
            socket: options.get("socket")?,
        })
    }

    pub(super) fn validate(&self, which: &'static str) -> Result<(), ConfigError> {
        // The file of a pseudo-terminal is what `vm.info` said of another VM, and is ignored.
        let has_file = self.file.is_some() && self.mode != ConsoleMode::Pty;
        if (self.mode == ConsoleMode::File) != has_file {
            return Err(ConfigError::ConsoleFile { which });
        }
        if (self.mode == ConsoleMode::Socket) != self.socket.is_some() {
            return Err(ConfigError::ConsoleSocket { which });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let parse = |text| ConsoleConfig::parse("--serial", text);
        assert_eq!(parse("tty").unwrap().mode, ConsoleMode::Tty);
        assert_eq!(parse("off").unwrap().mode, ConsoleMode::Off);
        let file = parse("file=/tmp/a=b").unwrap();
        assert_eq!(file.mode, ConsoleMode::File);
        assert_eq!(file.file, Some(PathBuf::from("/tmp/a=b")));
        file.validate("serial").unwrap();
        parse("socket=/s").unwrap().validate("serial").unwrap();
        parse("pty").unwrap().validate("console").unwrap();
        for wrong in ["", "tty,off", "stdout", "file", "tty=1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let contradiction = ConsoleConfig {
            mode: ConsoleMode::Tty,
            ..parse("socket=/s").unwrap()
        };
        contradiction.validate("console").unwrap_err();
    }
}
