//! What the benchmark runs its guest on.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::installation::Installation;

/// What becomes of the inputs of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Nothing.
    None,
    /// They are written to a file that nobody reads.
    Record,
    /// They are read from the file that the engine of this index recorded in the same round.
    Replay {
        /// The index in the list of engines.
        of: usize,
    },
}

/// Whose program it is, with the options that choose how it executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// QEMU with TCG; the value of `-icount`, if any.
    Qemu {
        /// For example `shift=0,sleep=off`.
        icount: Option<&'static str>,
    },
    /// `cloud-hypervisor`; without options it compiles what is hot and interprets the rest.
    Ours {
        /// Options beside the guest's.
        options: &'static [&'static str],
    },
}

/// One column of the benchmark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Its name in tables and on the command line.
    pub name: &'static str,
    /// What runs.
    pub program: Program,
    /// Whether it records or replays.
    pub log: Log,
}

/// Every engine that is measured. What replays stands behind what records.
pub const ENGINES: &[Engine] = &[
    Engine {
        name: "qemu",
        program: Program::Qemu { icount: None },
        log: Log::None,
    },
    Engine {
        name: "qemu-icount",
        program: Program::Qemu {
            icount: Some("shift=0,sleep=off"),
        },
        log: Log::None,
    },
    Engine {
        name: "qemu-record",
        program: Program::Qemu {
            icount: Some("shift=0"),
        },
        log: Log::Record,
    },
    Engine {
        name: "qemu-replay",
        program: Program::Qemu {
            icount: Some("shift=0"),
        },
        log: Log::Replay { of: 2 },
    },
    Engine {
        name: "interpreter",
        program: Program::Ours {
            options: &["--translation", "interpreter"],
        },
        log: Log::None,
    },
    Engine {
        name: "ours",
        program: Program::Ours { options: &[] },
        log: Log::None,
    },
    Engine {
        name: "ours-record",
        program: Program::Ours { options: &[] },
        log: Log::Record,
    },
    Engine {
        name: "ours-replay",
        program: Program::Ours { options: &[] },
        log: Log::Replay { of: 6 },
    },
];

impl Engine {
    /// Whether it is ours, and neither records nor replays.
    pub fn is_ours_alone(&self) -> bool {
        matches!(self.program, Program::Ours { .. }) && self.log == Log::None
    }

    /// The file that it records to in `directory`, or replays from.
    pub fn log_file(&self, directory: &Path) -> Option<PathBuf> {
        match self.log {
            Log::None => None,
            Log::Record => Some(directory.join(self.name)),
            Log::Replay { of } => Some(directory.join(ENGINES[of].name)),
        }
    }

    /// The command that boots `initramfs` with `test` on the kernel's command line, its console
    /// on standard output. Every engine gets 512 MiB, one vCPU, and the same kernel.
    pub fn command(
        &self,
        installation: &Installation,
        initramfs: &Path,
        test: &str,
        directory: &Path,
    ) -> Command {
        let append = format!("console=ttyS0 panic=-1 quiet test={test}");
        let log = self.log_file(directory);
        let log = log.as_deref().map(Path::display);
        match self.program {
            Program::Qemu { icount } => {
                let mut command = Command::new("qemu-system-x86_64");
                command.args(["-accel", "tcg", "-nodefaults", "-display", "none"]);
                command.args(["-no-reboot", "-serial", "stdio", "-m", "512M", "-smp", "1"]);
                command.arg("-kernel").arg(&installation.vmlinux);
                command
                    .arg("-initrd")
                    .arg(initramfs)
                    .args(["-append", &append]);
                if let Some(icount) = icount {
                    let log = match (self.log, log) {
                        (Log::Record, Some(log)) => format!(",rr=record,rrfile={log}"),
                        (Log::Replay { .. }, Some(log)) => format!(",rr=replay,rrfile={log}"),
                        _ => String::new(),
                    };
                    command.args(["-icount", &format!("{icount}{log}")]);
                }
                command
            }
            Program::Ours { options } => {
                let mut command = Command::new(&installation.vmm);
                command.args(options);
                // A log says itself what machine it is of.
                if let (Log::Replay { .. }, Some(log)) = (self.log, &log) {
                    command.args(["--replay", &format!("path={log}")]);
                    return command;
                }
                command.arg("--kernel").arg(&installation.vmlinux);
                command.arg("--initramfs").arg(initramfs);
                command.args(["--cmdline", &append, "--memory", "size=512M"]);
                command.args(["--serial", "tty", "--console", "off"]);
                if let Some(log) = log {
                    command.args(["--record", &format!("path={log}")]);
                }
                command
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_replays_stands_behind_what_records() {
        for (index, engine) in ENGINES.iter().enumerate() {
            if let Log::Replay { of } = engine.log {
                assert!(of < index);
                assert_eq!(ENGINES[of].log, Log::Record);
                assert_eq!(ENGINES[of].program, engine.program);
            }
        }
    }
}
