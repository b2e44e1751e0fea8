//! Builds machines for the VMM thread.
//!
//! Does: choose the engine and refuse what this host or this build does not have. Does not: keep
//! machines.
//!
//! Invariant: a machine that is built here obeys the whole of [`crate::control::Vm`].

pub use machine::Translation;
use machine::Tuning;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::authority;
use crate::config::{FtConfig, FtReceiveConfig, Lease, VmConfig, VmId};
use crate::control::{EventSender, Vm, VmError, VmFactory};
use crate::host::random;
use crate::vm::handle::MachineHandle;
use crate::vm::log_replay;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The deterministic CPU in software.
    #[default]
    Software,
    /// The host's virtualisation, with exact positions from its performance counters.
    Kvm,
}

impl Engine {
    /// Whether this build on this host has it.
    pub fn check(self) -> Result<(), VmError> {
        match self {
            Engine::Software => Ok(()),
            Engine::Kvm => Err(VmError::Engine {
                engine: "kvm",
                reason: "this build does not contain it (it will need /dev/kvm and an exact branch \
                         counter); use --engine software, which runs on any x86-64 host",
            }),
        }
    }
}

/// How machines run in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineOptions {
    /// What executes instructions.
    pub engine: Engine,
    /// The most bytes that caches of decoded and compiled instructions may take.
    pub code_cache_size: u64,
    /// What executes instructions in software.
    pub translation: Translation,
    /// Where the log of a run is written, if anywhere.
    pub record: Option<PathBuf>,
}

/// The size of the caches of decoded instructions, unless told otherwise.
pub const CODE_CACHE_SIZE_DEFAULT: u64 = 16 << 20;

impl Default for MachineOptions {
    fn default() -> Self {
        MachineOptions {
            engine: Engine::Software,
            code_cache_size: CODE_CACHE_SIZE_DEFAULT,
            translation: Translation::default(),
            record: None,
        }
    }
}

impl MachineOptions {
    /// How the CPU is executed.
    pub(crate) fn tuning(&self) -> Tuning {
        let cache_bytes = usize::try_from(self.code_cache_size).unwrap_or(usize::MAX);
        Tuning::new(cache_bytes, self.translation)
    }
}

/// Builds the real machines.
#[derive(Debug)]
pub struct MachineFactory {
    options: MachineOptions,
}

impl MachineFactory {
    /// One for machines with `options`.
    pub fn new(options: MachineOptions) -> Result<Self, VmError> {
        options.engine.check()?;
        Ok(MachineFactory { options })
    }

    /// How its machines run.
    pub fn options(&self) -> &MachineOptions {
        &self.options
    }
}

impl VmFactory for MachineFactory {
    fn build(&mut self, config: &VmConfig, events: EventSender) -> Result<Box<dyn Vm>, VmError> {
        if let Some(FtConfig {
            id: Some(id),
            lease: Some(lease),
            ..
        }) = &config.ft
        {
            authority::may_boot(*id, lease)?;
        }
        let handle = MachineHandle::build(config, &self.options, events)?;
        Ok(Box::new(handle))
    }

    fn receive(
        &mut self,
        config: &FtReceiveConfig,
        events: EventSender,
    ) -> Result<Box<dyn Vm>, VmError> {
        let handle = MachineHandle::receive(config, &self.options, events)?;
        Ok(Box::new(handle))
    }

    fn ft_override(&mut self, id: VmId, lease: &Lease) -> Result<(), VmError> {
        Ok(authority::end_chain(id, lease)?)
    }

    fn fresh_id(&mut self) -> Result<VmId, VmError> {
        let bytes = random::bytes();
        bytes.map(VmId).map_err(|source| VmError::Host {
            what: "make a random id",
            source,
        })
    }
}

/// A log to be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayRequest {
    /// Its file.
    pub path: PathBuf,
    /// Empty caches at random positions, which must not show; the seed says where.
    pub flush: Option<u64>,
}

/// Replays a log, its console on standard output; the digest of the machine at its end.
pub fn replay(request: &ReplayRequest, options: &MachineOptions) -> Result<String, VmError> {
    options.engine.check()?;
    let replay_options = log_replay::ReplayOptions {
        tuning: options.tuning(),
        flush: request.flush,
    };
    // A line is shown when the replay has come to its end, not when a buffer is full.
    let mut console = WholeLines::new(std::io::stdout().lock());
    let replayed = log_replay::replay(&request.path, replay_options, &mut console);
    let replayed = replayed.map_err(|source| VmError::Because {
        what: "replay the log",
        source: Box::new(source),
    })?;
    // The digest stands on a line of its own.
    console.end_line().map_err(|source| VmError::Host {
        what: "write to standard output",
        source,
    })?;
    if !replayed.is_complete {
        log::warn!(
            "the log was cut off: replayed to its last whole batch, position {}",
            replayed.position
        );
    }
    log::info!(
        "replayed to position {}, {} digests compared",
        replayed.position,
        replayed.digests
    );
    Ok(replayed.digest)
}

/// Text that remembers whether its last line is whole.
struct WholeLines<W> {
    inner: W,
    is_whole: bool,
}

impl<W: Write> WholeLines<W> {
    fn new(inner: W) -> Self {
        WholeLines {
            inner,
            is_whole: true,
        }
    }

    fn end_line(&mut self) -> io::Result<()> {
        if !self.is_whole {
            self.write_all(b"\n")?;
        }
        self.flush()
    }
}

impl<W: Write> Write for WholeLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        if let Some(last) = bytes[..length].last() {
            self.is_whole = *last == b'\n';
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
