//! One process on one host: a role, a machine, and the little that the vmm does between them.

use std::collections::{BTreeMap, VecDeque};

use ft::backup::{Backup, Replay};
use ft::identity::{Generation, Incarnation};
use ft::log::{Body, ComponentDigest, Control};
use ft::primary::Primary;
use ft::{Settings, Tick};
use machine::{Input, Output, Position};

use super::Bug;
use super::checkers::{History, Violation};
use super::machine::Machine;
use super::prng::Prng;
use super::storage::DiskThread;

/// Nothing of a process survives it but what clients saw.
#[derive(Debug)]
pub struct Process {
    pub id: Incarnation,
    /// Its host's clock is ahead of the simulation's by this much.
    pub clock_offset: Tick,
    pub alive: bool,
    pub frozen: bool,
    pub role: Role,
    pub machine: Machine,
    pub connection: Option<usize>,
    /// What the kernel holds for it: bytes, and `None` for the end of the connection.
    pub received: VecDeque<Option<Vec<u8>>>,
    /// Inputs that wait for the next boundary.
    pub inputs: VecDeque<Input>,
    /// The output that is being emitted.
    pub writing: Option<Emission>,
    /// What carries out its writes.
    pub disk: DiskThread,
    /// When it last looked protected: the generation that it may only leave by a decision.
    pub in_generation: Option<Generation>,
    /// The entry of each output, by its last byte.
    pub entries: BTreeMap<u64, u64>,
    /// The vCPU is paused for a clone.
    pub paused: bool,
    /// A backup's steps for each slice, in percent of the usual.
    pub speed: u64,
    /// The last look at the clock.
    pub looked: Tick,
    slices: u64,
    digests: VecDeque<(u64, u64, Vec<ComponentDigest>)>,
    /// A moment before, for `Bug::LiveTooEarly`.
    pub before: Option<Machine>,
}

/// An output on its way out, in parts.
#[derive(Debug)]
pub struct Emission {
    /// The count of console bytes with its last one.
    pub through: u64,
    /// What has not left.
    pub rest: Vec<u8>,
    /// How much of that the call takes that is under way; 0 if there is none.
    pub calling: usize,
}

#[derive(Debug)]
pub enum Role {
    Live(Box<Primary>),
    Backup(Box<Backup>),
    Over,
}

impl Process {
    pub fn new(id: Incarnation, clock_offset: Tick, role: Role) -> Self {
        Process {
            id,
            clock_offset,
            alive: true,
            frozen: false,
            role,
            machine: Machine::new(),
            connection: None,
            received: VecDeque::new(),
            inputs: VecDeque::new(),
            writing: None,
            disk: DiskThread::default(),
            in_generation: None,
            entries: BTreeMap::new(),
            paused: false,
            speed: 100,
            looked: 0,
            slices: 0,
            digests: VecDeque::new(),
            before: None,
        }
    }

    /// Whether it runs the guest for the world.
    pub fn is_live(&self) -> bool {
        match &self.role {
            Role::Live(primary) => {
                self.alive && !matches!(primary.status(0).phase, "halted" | "ended")
            }
            _ => false,
        }
    }

    /// The call that is under way has returned: what it wrote, and the count with its last byte.
    pub fn written(&mut self) -> Option<(u64, Vec<u8>)> {
        let emission = self.writing.as_mut()?;
        let part: Vec<u8> = emission.rest.drain(..emission.calling).collect();
        emission.calling = 0;
        let through = emission.through - emission.rest.len() as u64;
        if emission.rest.is_empty() {
            self.writing = None;
        }
        Some((through, part))
    }

    pub fn phase(&self) -> &'static str {
        match &self.role {
            _ if !self.alive => "dead",
            Role::Live(primary) => primary.status(0).phase,
            Role::Backup(backup) => backup.status().phase,
            Role::Over => "over",
        }
    }

    /// A slice of the vCPU thread. Gives outputs that a bug lets out at once.
    pub fn slice(
        &mut self,
        now: Tick,
        prng: &mut Prng,
        history: &mut History,
        bug: Option<Bug>,
    ) -> Result<Vec<Output>, Violation> {
        self.slices += 1;
        match &mut self.role {
            Role::Live(_) => Ok(self.live_slice(now, prng, history, bug)),
            Role::Backup(_) => {
                self.replay_slice(prng, history, bug)?;
                Ok(Vec::new())
            }
            Role::Over => Ok(Vec::new()),
        }
    }

    fn live_slice(
        &mut self,
        now: Tick,
        prng: &mut Prng,
        history: &mut History,
        bug: Option<Bug>,
    ) -> Vec<Output> {
        let mut early = Vec::new();
        let Role::Live(primary) = &mut self.role else {
            return early;
        };
        if self.paused || !primary.may_run() {
            return early;
        }
        let is_protected = primary.status(now).phase == "protected";
        let machine = &mut self.machine;
        let mut append = |position: u64, body: Body| {
            let position = Position(position);
            primary
                .append(now, position, body)
                .expect("a running machine's entries are in order")
        };
        for input in self.inputs.drain(..) {
            append(machine.position, Body::Input(input.clone()));
            machine.apply(&input);
        }
        if self.slices.is_multiple_of(16) {
            let id = self.slices;
            append(machine.position, Body::DigestHere { id });
            let due = self.slices + prng.range(1, 6);
            self.digests.push_back((due, id, machine.digest()));
        }
        if let Some((due, _, _)) = self.digests.front()
            && *due <= self.slices
            && let Some((_, id, components)) = self.digests.pop_front()
        {
            append(machine.position, Body::DigestValue { id, components });
        }
        let until = machine.position + prng.range(50, 400);
        while machine.position < until {
            if let Some(output) = machine.run(until) {
                let entry = primary
                    .append_output(now, output.clone())
                    .expect("an output is in order");
                if let Output::Console { through, .. } = &output {
                    self.entries.insert(*through, entry.seq);
                }
                if bug == Some(Bug::EarlyRelease) && is_protected {
                    early.push(output);
                }
            }
        }
        primary
            .append(now, Position(machine.position), Body::Watermark)
            .expect("a watermark is in order");
        history.lived(machine);
        early
    }

    fn replay_slice(
        &mut self,
        prng: &mut Prng,
        history: &History,
        bug: Option<Bug>,
    ) -> Result<(), Violation> {
        let Role::Backup(backup) = &mut self.role else {
            return Ok(());
        };
        let machine = &mut self.machine;
        let mut steps = prng.range(0, 800) * self.speed / 100;
        while let Some((_, id, components)) = self.digests.pop_front() {
            backup.own_digest(id, components);
        }
        loop {
            let next = backup
                .replay(Position(machine.position))
                .map_err(|overrun| overrun.to_string())?;
            match next {
                Replay::Apply(entry) => match entry.body {
                    Body::Input(Input::Reset) if bug == Some(Bug::LostReset) => {}
                    Body::Input(input) => machine.apply(&input),
                    Body::DigestHere { id } => {
                        if prng.chance(50) {
                            backup.own_digest(id, machine.digest());
                        } else {
                            self.digests.push_back((0, id, machine.digest()));
                        }
                    }
                    Body::Control(Control::PowerOff) => return Ok(()),
                    body => return Err(format!("{body:?} came to the replayer")),
                },
                Replay::RunTo(Position(to)) => {
                    if steps == 0 {
                        return Ok(());
                    }
                    if bug == Some(Bug::WrongReplay) && prng.chance(1) {
                        machine.flip_a_bit();
                    }
                    let to = to.min(machine.position + steps);
                    steps -= to - machine.position;
                    if bug == Some(Bug::LiveTooEarly) {
                        self.before = Some(machine.clone());
                    }
                    while machine.position < to {
                        if let Some(output) = machine.run(to) {
                            backup.own_output(&output);
                        }
                    }
                    if !matches!(bug, Some(Bug::WrongReplay | Bug::LostReset)) {
                        history.replayed(machine)?;
                    }
                }
                Replay::Wait | Replay::GoLive | Replay::Stop => return Ok(()),
            }
        }
    }
}

/// Times a tenth of the real ones, and buffers small enough to fill.
pub fn settings(prng: &mut Prng) -> Settings {
    const MS: Tick = 1_000_000;
    Settings {
        timeout: prng.range(60, 160) * MS,
        heartbeat_interval: 10 * MS,
        flush_interval: prng.range(1, 4) * MS,
        flush_bytes: 1 << prng.range(6, 12),
        send_buffer_bytes: 1 << prng.range(10, 16),
        gate_bytes: 1 << prng.range(9, 14),
        receive_buffer_bytes: 1 << prng.range(11, 18),
        progress_interval: 5 * MS,
        hand_over_timeout: prng.range(20, 300) * MS,
        retry_interval: 50 * MS,
        max_ram_bytes: 1 << 20,
    }
}
