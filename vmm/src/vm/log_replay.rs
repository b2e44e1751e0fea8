//! A log from a file, replayed.
//!
//! Does: read the machine at the beginning, bring it from entry to entry, compare every output and
//! digest with what the log says, and give the console's bytes and the digest at the end. Does not:
//! look at a clock: a replay runs as fast as it can.
//!
//! Invariant: nothing but the file decides what the machine does. A log that was cut off is
//! replayed to its last whole batch, and that is said; one that the machine does not follow is an
//! error that names position and component (paper §2.1).

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ft::channel::{BlobAssembler, CloneEnd, CloneError, Mismatch};
use ft::identity::Semantics;
use ft::log::{
    Body, ComponentDigest, Control, Entry, FileError, FileItem, FileReader, OutputMark, hash_of,
};
use machine::{Machine, Output, Position, Profile, Request, Tuning};
use thiserror::Error;

use super::clone_in::{CloneInError, IncomingClone};
use super::follower::run_to;
use super::{digests, reasons};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// Why a log cannot be replayed.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("cannot read it")]
    Read(#[source] std::io::Error),
    /// The console's bytes cannot be shown.
    #[error("cannot show its console")]
    Show(#[source] std::io::Error),
    /// It is no log, or a damaged one.
    #[error(transparent)]
    File(#[from] FileError),
    /// It was made by a machine that behaves otherwise.
    #[error("it was made by {theirs}, and this build is {ours}")]
    Semantics {
        /// Who made it.
        theirs: Semantics,
        /// This build.
        ours: Semantics,
    },
    /// Its machine cannot be made.
    #[error("its machine cannot be made")]
    Clone(#[from] CloneInError),
    /// It has no machine.
    #[error("it does not say what machine it is of")]
    NoMachine,
    /// The machine does something else.
    #[error("the replay differs from the log: {}", reasons::of_mismatch(.0))]
    Differs(Mismatch),
}

/// How a replay ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The machine's digest at the end.
    pub digest: String,
    /// Where the end is.
    pub position: Position,
    /// Whether the log ends as its recorder wanted.
    pub is_complete: bool,
    /// Digests that were compared.
    pub digests: u64,
}

/// How a log is replayed. Nothing of it may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayOptions {
    /// How the CPU is executed.
    pub tuning: Tuning,
    /// Stop at random positions and empty the caches there; the seed says where.
    pub flush: Option<u64>,
}

/// Replays the log in `path`; console output goes to `console`.
pub fn replay(
    path: &Path,
    options: ReplayOptions,
    console: &mut dyn Write,
) -> Result<Replayed, ReplayError> {
    let mut source = Source::open(path)?;
    let mut replayer = source.machine(options.tuning)?;
    replayer.flushes = options.flush.map(Flushes);
    let mut is_complete = false;
    while let Some(entries) = source.entries()? {
        for entry in &entries {
            is_complete |= replayer.follow(entry, console)?;
        }
    }
    console.flush().map_err(ReplayError::Show)?;
    let cpu = replayer.machine.save().cpu;
    log::debug!(
        "at the end RIP is {:#x}, the registers {:x?}",
        cpu.rip,
        cpu.gpr
    );
    Ok(Replayed {
        position: replayer.machine.position(),
        is_complete: is_complete && source.is_whole,
        digests: replayer.compared,
        digest: replayer.last_digest(),
    })
}

/// The file.
struct Source {
    file: File,
    reader: FileReader,
    chunk: Vec<u8>,
    at_end: bool,
    is_whole: bool,
}

impl Source {
    fn open(path: &Path) -> Result<Self, ReplayError> {
        let mut source = Source {
            file: File::open(path).map_err(ReplayError::Read)?,
            reader: FileReader::new(),
            chunk: vec![0; CHUNK],
            at_end: false,
            is_whole: true,
        };
        let theirs = loop {
            if let Some(header) = source.reader.header()? {
                break header.semantics.clone();
            }
            if !source.feed()? {
                source.reader.finish()?;
                return Err(ReplayError::NoMachine);
            }
        };
        let offered = digests::offered();
        if !offered.contains(&theirs) {
            let ours = digests::semantics(Profile::default());
            return Err(ReplayError::Semantics { theirs, ours });
        }
        Ok(source)
    }

    /// Reads on; false at the end.
    fn feed(&mut self) -> Result<bool, ReplayError> {
        let length = self.file.read(&mut self.chunk).map_err(ReplayError::Read)?;
        self.reader.feed(&self.chunk[..length]);
        Ok(length > 0)
    }

    fn next(&mut self) -> Result<Option<FileItem>, ReplayError> {
        while !self.at_end {
            match self.reader.next_item() {
                Ok(Some(item)) => return Ok(Some(item)),
                Ok(None) if self.feed()? => {}
                Ok(None) => {
                    self.at_end = true;
                    self.is_whole = self.reader.finish().is_ok();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// The machine at the beginning.
    fn machine(&mut self, tuning: Tuning) -> Result<Replayer, ReplayError> {
        let mut blobs = BlobAssembler::default();
        // The memory's size is known with the configuration, which comes first.
        let mut incoming: Option<IncomingClone> = None;
        let end = loop {
            match self.next()?.ok_or(ReplayError::NoMachine)? {
                FileItem::Blob(part) => {
                    let whole = blobs.push(part).map_err(CloneInError::from)?;
                    let Some((kind, bytes)) = whole else {
                        continue;
                    };
                    if incoming.is_none() {
                        let size = memory_size(&bytes)?;
                        incoming = Some(IncomingClone::new(size)?);
                    }
                    if let Some(incoming) = &mut incoming {
                        incoming.blob(kind, bytes)?;
                    }
                }
                FileItem::Pages(run) => incoming
                    .as_mut()
                    .ok_or(CloneInError::from(CloneError::TooEarly))?
                    .pages(&run)?,
                FileItem::CloneEnd(end) => break end,
                FileItem::Entries(_) => return Err(ReplayError::NoMachine),
            }
        };
        let whole = incoming.ok_or(ReplayError::NoMachine)?.finish()?;
        let machine = whole.into_machine(end.position, tuning)?;
        Replayer::begin(machine, &end)
    }

    /// The next batch.
    fn entries(&mut self) -> Result<Option<Vec<Entry>>, ReplayError> {
        match self.next()? {
            Some(FileItem::Entries(entries)) => Ok(Some(entries)),
            Some(_) => Err(CloneInError::from(CloneError::TooEarly).into()),
            None => Ok(None),
        }
    }
}

fn memory_size(config: &[u8]) -> Result<u64, CloneInError> {
    Ok(crate::config::VmConfig::from_json(config)?.memory.size)
}

/// The machine on its way.
struct Replayer {
    machine: Machine,
    /// Console bytes since the last output entry.
    shown: Vec<u8>,
    /// Requests of devices that the log has not told of yet.
    requests: VecDeque<OutputMark>,
    /// Digests whose values the log has not told yet.
    waiting: BTreeMap<u64, (Position, Vec<ComponentDigest>)>,
    last: Option<(Position, Vec<ComponentDigest>)>,
    compared: u64,
    flushes: Option<Flushes>,
    kick: AtomicBool,
}

/// A small generator of positions: splitmix64.
struct Flushes(u64);

impl Flushes {
    /// One of the positions from `from` to `to`.
    fn between(&mut self, from: Position, to: Position) -> Position {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        Position(from.0 + z % (to.0 - from.0).max(1))
    }
}

impl Replayer {
    fn begin(mut machine: Machine, end: &CloneEnd) -> Result<Self, ReplayError> {
        let found = digests::components(&machine.clone_digest());
        compare(machine.position(), &end.digest, &found)?;
        Ok(Replayer {
            last: Some((machine.position(), found)),
            machine,
            shown: Vec::new(),
            requests: VecDeque::new(),
            waiting: BTreeMap::new(),
            compared: 1,
            flushes: None,
            kick: AtomicBool::new(false),
        })
    }

    fn run_to(&mut self, position: Position) -> Result<(), ReplayError> {
        run_to(&mut self.machine, position, &self.kick)
            .map_err(|stuck| differs(self.machine.position(), stuck.component(), 0, 0))
    }

    /// Runs to an entry and does what it says; whether the log ends there.
    fn follow(&mut self, entry: &Entry, console: &mut dyn Write) -> Result<bool, ReplayError> {
        if let Some(flushes) = &mut self.flushes {
            let cut = flushes.between(self.machine.position(), entry.position);
            self.run_to(cut)?;
            self.machine.flush_caches();
        }
        self.run_to(entry.position)?;
        let machine = &mut self.machine;
        let at = machine.position();
        if at != entry.position {
            return Err(differs(at, "position", entry.position.0, at.0));
        }
        for output in machine.take_outputs() {
            match output {
                Output::Console { bytes, .. } => {
                    console.write_all(&bytes).map_err(ReplayError::Show)?;
                    self.shown.extend_from_slice(&bytes);
                }
                Output::Device { submission, .. } => {
                    if let Request::Console { bytes, .. } = &submission.request {
                        console.write_all(bytes).map_err(ReplayError::Show)?;
                    }
                    let mark = OutputMark::of_submission(&submission);
                    self.requests.push_back(mark);
                }
            }
        }
        match &entry.body {
            Body::Input(input) => machine.apply(input),
            Body::Output(OutputMark::Console { through, hash }) => {
                let written = machine.console().written;
                if written != *through {
                    return Err(differs(at, "console output count", *through, written));
                }
                let found = hash_of(&std::mem::take(&mut self.shown));
                if found != *hash {
                    return Err(differs(at, "console output", *hash, found));
                }
            }
            Body::Output(mark @ OutputMark::Device { id, hash, .. }) => {
                let found = match self.requests.pop_front() {
                    Some(ours) if ours == *mark => None,
                    Some(OutputMark::Device { hash, .. }) => Some(hash),
                    _ => Some(0),
                };
                if let Some(found) = found {
                    let what = format!("device request {id}");
                    return Err(differs(at, &what, *hash, found));
                }
            }
            Body::DigestHere { id } => {
                let digest = digests::components(&machine.digest());
                self.last = Some((at, digest.clone()));
                self.waiting.insert(*id, (at, digest));
            }
            Body::DigestValue { id, components } => {
                if let Some((taken, found)) = self.waiting.remove(id) {
                    compare(taken, components, &found)?;
                    self.compared += 1;
                }
            }
            Body::Control(Control::PowerOff | Control::EndOfLog(_)) => return Ok(true),
            Body::Watermark | Body::Control(Control::Pause | Control::Resume) => {}
        }
        Ok(false)
    }

    /// The digest at the end: the log's last one, if that is where it was taken.
    fn last_digest(&mut self) -> String {
        let at = self.machine.position();
        match &self.last {
            Some((position, digest)) if *position == at => digests::in_one(digest),
            _ => digests::in_one(&digests::components(&self.machine.digest())),
        }
    }
}

fn differs(position: Position, component: &str, expected: u64, found: u64) -> ReplayError {
    ReplayError::Differs(Mismatch {
        position,
        component: component.to_owned(),
        expected,
        found,
    })
}

fn compare(
    at: Position,
    expected: &[ComponentDigest],
    found: &[ComponentDigest],
) -> Result<(), ReplayError> {
    if expected.len() != found.len() {
        let (expected, found) = (expected.len() as u64, found.len() as u64);
        return Err(differs(at, "number of components", expected, found));
    }
    for (expected, found) in expected.iter().zip(found) {
        if expected != found {
            return Err(differs(at, &expected.name, expected.value, found.value));
        }
    }
    Ok(())
}
