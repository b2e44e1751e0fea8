//! The world: hosts, links, the arbiter, and what goes wrong with them.

use std::collections::BTreeMap;

use ft::Tick;
use ft::arbiter::{Answer, Arbiter, MemoryStore};
use ft::backup::{self, Backup, Offer};
use ft::channel::{Ack, BlobKind, Message};
use ft::flag::{Decision, Members};
use ft::frame::FrameReader;
use ft::identity::{Generation, Incarnation, Semantics, VmId};
use ft::log::{Body, Control};
use ft::primary::{self, Pairing, Primary};
use machine::{Input, Output, Position};

use super::Bug;
use super::checkers::{Client, History, Violation, speaker};
use super::prng::Prng;
use super::process::{Process, Role, settings};

const US: Tick = 1_000;
const MS: Tick = 1_000_000;
const FOREVER: Tick = Tick::MAX / 4;

#[derive(Clone, Debug)]
enum Event {
    /// The vCPU thread gets to run.
    Slice,
    /// The channel thread gets to run, at least.
    Tick,
    /// A connection brings bytes, or ends.
    Received(usize, Option<Vec<u8>>),
    Datagram(Vec<u8>),
    Begun(Generation, bool),
    Answer(Generation, Answer),
    /// Time to send the clone, or to check it.
    Clone,
    CheckClone(Generation),
    /// The call that emits an output returns.
    Wrote,
    /// A client types.
    Typed,
}

/// What goes on between hosts and at the arbiter, which nobody can freeze.
#[derive(Clone, Debug)]
enum Happening {
    At(usize, Event),
    Decide(usize, Generation, Decision),
    Thaw(usize),
}

#[derive(Debug)]
struct Connection {
    ends: [usize; 2],
    /// Nothing overtakes what was sent to that end before.
    arrival: [Tick; 2],
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Times that a fault was injected.
    pub faults: u64,
    /// Times that a backup went live.
    pub failovers: u64,
    /// Times that a primary went on alone.
    pub carried_on: u64,
    /// Times that a vCPU was stopped.
    pub stalls: u64,
    /// Console bytes that clients saw, repeats not counted.
    pub bytes_seen: u64,
    /// Console bytes that they saw again.
    pub bytes_repeated: u64,
}

struct World {
    prng: Prng,
    bug: Option<Bug>,
    now: Tick,
    order: u64,
    happenings: BTreeMap<(Tick, u64), Happening>,
    vm: VmId,
    processes: Vec<Process>,
    connections: Vec<Connection>,
    /// Until when nothing gets from one process to another.
    blocked: BTreeMap<(usize, usize), Tick>,
    datagrams_lost_until: Tick,
    arbiter: Arbiter<MemoryStore>,
    /// Who may let something out; `None` for anybody.
    speaker: Option<Incarnation>,
    arbiter_down_until: Tick,
    /// What frozen processes will find when they thaw.
    deferred: BTreeMap<usize, Vec<Event>>,
    client: Client,
    history: History,
    report: Report,
}

/// One run of the simulation. An error says what checker was violated.
pub fn run(seed: u64, bug: Option<Bug>) -> Result<Report, Violation> {
    let mut prng = Prng::new(seed);
    let vm = VmId(prng.id());
    let mut world = World {
        prng,
        bug,
        now: 0,
        order: 0,
        happenings: BTreeMap::new(),
        vm,
        processes: Vec::new(),
        connections: Vec::new(),
        blocked: BTreeMap::new(),
        datagrams_lost_until: 0,
        arbiter: Arbiter::new(MemoryStore::default()),
        speaker: None,
        arbiter_down_until: 0,
        deferred: BTreeMap::new(),
        client: Client::default(),
        history: History::default(),
        report: Report::default(),
    };
    let settings = settings(&mut world.prng);
    let first = Primary::new(settings, 0, Position(0));
    world.spawn(Role::Live(Box::new(first)));
    for _ in 0..world.prng.range(1, 6) {
        if !world.episode().map_err(|v| format!("seed {seed}: {v}"))? {
            break;
        }
    }
    world.report.bytes_seen = world.client.seen_bytes();
    world.report.bytes_repeated = world.client.repeated;
    Ok(world.report)
}

impl World {
    // --- Episodes: protect, break something, see who is left.

    /// Whether the VM goes on after it.
    fn episode(&mut self) -> Result<bool, Violation> {
        let Some(live) = (0..self.processes.len()).find(|p| self.processes[*p].is_live()) else {
            return Err("nobody runs the VM".into());
        };
        if self.processes[live].phase() == "unprotected" {
            self.protect(live)?;
        }
        // Mostly strike a protected VM, sometimes one that is being cloned.
        if self.prng.chance(80) {
            self.advance_until(500 * MS, |world| {
                world.processes[live].phase() == "protected"
            })?;
        }
        let wait = self.prng.range(0, 150) * MS;
        self.advance(wait)?;
        let (may_be_lost, ends) = self.strike(live)?;
        self.report.faults += 1;
        self.advance(1200 * MS)?;
        let survivors: Vec<usize> = (0..self.processes.len())
            .filter(|p| self.processes[*p].is_live())
            .collect();
        let phases: Vec<_> = self.processes.iter().map(Process::phase).collect();
        match survivors[..] {
            [] if may_be_lost || ends => Ok(false),
            [] => Err(format!("the VM is lost: {phases:?}")),
            [survivor] => {
                if ends {
                    return Err(format!("a VM that was powered off runs: {phases:?}"));
                }
                if self.processes[survivor].phase() == "claiming" {
                    return Err(format!("the survivor still waits: {phases:?}"));
                }
                let seen = self.client.seen_bytes();
                self.advance(300 * MS)?;
                if self.client.seen_bytes() == seen {
                    return Err(format!("the survivor is silent: {phases:?}"));
                }
                Ok(true)
            }
            _ => Err(format!("several run the VM: {phases:?}")),
        }
    }

    /// A fault, or several. Whether the VM may be lost by it, and whether it must end.
    fn strike(&mut self, live: usize) -> Result<(bool, bool), Violation> {
        let peer = self.processes[live].connection.map(|c| self.other(c, live));
        let is_ready = self.processes[live].phase() == "protected";
        let duration = self.prng.range(5, 400) * MS;
        let until = self.now + duration;
        let Some(peer) = peer else {
            return Ok((false, false));
        };
        let kind = self.prng.range(0, 17);
        if matches!(kind, 8..=10) || self.prng.chance(10) {
            self.arbiter_down_until = self.now + self.prng.range(5, 500) * MS;
        }
        let mut may_be_lost = false;
        match kind {
            0 => {}
            1 | 2 | 8 => {
                self.crash(live);
                may_be_lost = !is_ready;
            }
            3 => self.crash(peer),
            4 | 9 => self.freeze(live, until),
            5 => self.freeze(peer, until),
            6 | 10 => {
                self.blocked.insert((live, peer), until);
                self.blocked.insert((peer, live), until);
            }
            7 => {
                let pair = if self.prng.chance(50) {
                    (live, peer)
                } else {
                    (peer, live)
                };
                let until = if self.prng.chance(30) {
                    self.now + FOREVER
                } else {
                    until
                };
                self.blocked.insert(pair, until);
            }
            11 => {
                self.crash(live);
                self.crash(peer);
                may_be_lost = true;
            }
            12 => {
                self.blocked.insert((live, peer), until);
                self.blocked.insert((peer, live), until);
                self.advance(duration / 2)?;
                let victim = if self.prng.chance(50) { live } else { peer };
                self.crash(victim);
                may_be_lost = true;
            }
            13 => {
                let now = self.clock(live);
                if let Role::Live(primary) = &mut self.processes[live].role {
                    // Refused if the pairing ended by itself.
                    let _ = primary.disable(now);
                }
                self.pump(live)?;
            }
            14 => {
                let now = self.clock(live);
                let process = &mut self.processes[live];
                let position = Position(process.machine.position);
                if let Role::Live(primary) = &mut process.role
                    && !process.paused
                    && primary.may_run()
                {
                    primary
                        .append(now, position, Body::Control(Control::PowerOff))
                        .map_err(|error| error.to_string())?;
                    process.paused = true;
                    self.pump(live)?;
                    if self.prng.chance(30) {
                        self.crash(live);
                        // Then the backup may not have heard of it.
                        return Ok((true, false));
                    }
                    return Ok((true, true));
                }
            }
            15 => self.datagrams_lost_until = until,
            16 => {
                self.processes[peer].speed = 5;
                self.advance(duration)?;
                self.processes[peer].speed = 100;
            }
            _ => {
                self.freeze(live, until);
                let until = self.now + self.prng.range(5, 400) * MS;
                self.freeze(peer, until);
            }
        }
        Ok((may_be_lost, false))
    }

    fn protect(&mut self, live: usize) -> Result<(), Violation> {
        let us = self.processes[live].id;
        let generation = self
            .arbiter
            .next_generation(self.vm, us)
            .map_err(|error| format!("the survivor cannot be protected: {error}"))?;
        self.speaker = speaker(&mut self.arbiter, self.vm);
        let offer = Offer {
            semantics: vec![semantics()],
            us: Incarnation(self.prng.id()),
            vm: None,
            heartbeat_port: 7,
        };
        let id = offer.us;
        let settings = settings(&mut self.prng);
        let backup = self.spawn(Role::Backup(Box::new(Backup::new(settings, offer))));
        self.processes[backup].id = id;
        let connection = self.connections.len();
        self.connections.push(Connection {
            ends: [live, backup],
            arrival: [0; 2],
        });
        self.processes[live].connection = Some(connection);
        self.processes[backup].connection = Some(connection);
        let now = self.clock(live);
        let pairing = Pairing {
            semantics: semantics(),
            vm: self.vm,
            generation,
            us,
            ram_size: self.processes[live].machine.ram.len() as u64,
            heartbeat_port: 7,
        };
        if let Role::Live(primary) = &mut self.processes[live].role {
            primary
                .connect(now, pairing)
                .map_err(|error| error.to_string())?;
        }
        self.pump(live)
    }

    fn spawn(&mut self, role: Role) -> usize {
        let id = Incarnation(self.prng.id());
        let offset = self.prng.range(0, 1000) * MS;
        self.processes.push(Process::new(id, offset, role));
        let p = self.processes.len() - 1;
        self.at(p, 0, Event::Slice);
        self.at(p, 0, Event::Tick);
        self.at(p, MS, Event::Typed);
        p
    }

    fn crash(&mut self, p: usize) {
        self.processes[p].alive = false;
        // A killed process's kernel says so; a host without power says nothing.
        if let Some(connection) = self.processes[p].connection
            && self.prng.chance(70)
        {
            self.send(p, connection, None);
        }
    }

    fn freeze(&mut self, p: usize, until: Tick) {
        self.processes[p].frozen = true;
        self.schedule(until, Happening::Thaw(p));
    }

    // --- Time.

    fn advance(&mut self, duration: Tick) -> Result<(), Violation> {
        self.advance_until(duration, |_| false)
    }

    fn advance_until(
        &mut self,
        duration: Tick,
        done: impl Fn(&World) -> bool,
    ) -> Result<(), Violation> {
        let end = self.now + duration;
        while let Some(entry) = self.happenings.first_entry()
            && entry.key().0 <= end
            && !done(self)
        {
            let Some(((at, _), happening)) = self.happenings.pop_first() else {
                break;
            };
            self.now = at;
            self.happen(happening)?;
        }
        if !done(self) {
            self.now = end;
        }
        Ok(())
    }

    fn clock(&self, p: usize) -> Tick {
        self.now + self.processes[p].clock_offset
    }

    fn schedule(&mut self, at: Tick, happening: Happening) {
        self.order += 1;
        self.happenings.insert((at, self.order), happening);
    }

    fn at(&mut self, p: usize, delay: Tick, event: Event) {
        self.schedule(self.now + delay, Happening::At(p, event));
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::At(p, _) if !self.processes[p].alive => Ok(()),
            Happening::At(p, event) if self.processes[p].frozen => {
                self.deferred.entry(p).or_default().push(event);
                Ok(())
            }
            Happening::At(p, event) => {
                self.on_event(p, event)?;
                self.pump(p)
            }
            Happening::Thaw(p) => {
                self.processes[p].frozen = false;
                // Its threads wake up in any order, but a socket keeps its own.
                let delays: [Tick; 4] = std::array::from_fn(|_| self.prng.range(0, 500) * US);
                for event in self.deferred.remove(&p).unwrap_or_default() {
                    let thread = match event {
                        Event::Slice | Event::Clone | Event::CheckClone(_) => 0,
                        Event::Tick | Event::Received(..) | Event::Datagram(_) => 1,
                        Event::Wrote => 2,
                        Event::Begun(..) | Event::Answer(..) | Event::Typed => 3,
                    };
                    self.at(p, delays[thread], event);
                }
                Ok(())
            }
            Happening::Decide(p, generation, decision) => {
                let answer = self.decide(p, generation, &decision);
                let delay = self.prng.range(1, 10) * MS;
                self.at(p, delay, Event::Answer(generation, answer));
                Ok(())
            }
        }
    }

    fn decide(&mut self, p: usize, generation: Generation, decision: &Decision) -> Answer {
        if self.bug == Some(Bug::EverybodyWins) {
            return Answer::Won;
        }
        let id = self.processes[p].id;
        let answer = if self.now < self.arbiter_down_until {
            Answer::Unreachable
        } else {
            self.arbiter.answer(self.vm, generation, id, decision)
        };
        self.speaker = speaker(&mut self.arbiter, self.vm);
        // Sometimes it is done and the answer is lost.
        match answer {
            Answer::Unreachable if self.bug == Some(Bug::LiveWithoutArbiter) => Answer::Won,
            _ if self.prng.chance(5) => Answer::Unreachable,
            answer => answer,
        }
    }

    fn on_event(&mut self, p: usize, event: Event) -> Result<(), Violation> {
        let now = self.clock(p);
        let process = &mut self.processes[p];
        match event {
            Event::Slice => {
                let early = process.slice(now, &mut self.prng, &mut self.history, self.bug)?;
                for output in early {
                    self.check_release(p, &output)?;
                    let Output::Console { through, bytes, .. } = &output;
                    let id = self.processes[p].id;
                    self.client.write(id, *through, bytes)?;
                }
                if !matches!(self.processes[p].role, Role::Over) {
                    let delay = MS + self.prng.range(0, 400) * US;
                    self.at(p, delay, Event::Slice);
                }
            }
            Event::Tick => {
                process.looked = now;
                match &mut process.role {
                    Role::Live(primary) => primary.on_tick(now),
                    Role::Backup(backup) => backup.on_tick(now),
                    Role::Over => return Ok(()),
                }
                let delay = 2 * MS + self.prng.range(0, 3000) * US;
                self.at(p, delay, Event::Tick);
            }
            Event::Received(connection, bytes) => {
                if process.connection == Some(connection) {
                    process.received.push_back(bytes);
                }
            }
            Event::Datagram(bytes) => match &mut process.role {
                Role::Live(primary) => primary.on_datagram(now, &bytes),
                Role::Backup(backup) => backup.on_datagram(now, &bytes),
                Role::Over => {}
            },
            Event::Begun(generation, begun) => {
                if let Role::Live(primary) = &mut process.role
                    && primary.generation() == Some(generation)
                {
                    let result = begun.then_some(()).ok_or("unreachable".to_owned());
                    primary.on_generation_begun(now, result);
                }
            }
            Event::Answer(generation, answer) => match &mut process.role {
                Role::Live(primary) => primary.on_answer(now, generation, answer),
                Role::Backup(backup) => backup.on_answer(now, generation, answer),
                Role::Over => {}
            },
            Event::Clone => {
                process.paused = false;
                if let Role::Live(primary) = &mut process.role {
                    let machine = &process.machine;
                    let state = machine.save();
                    let total = state.len() as u64;
                    // Refused if the peer was lost meanwhile.
                    let _ = primary
                        .send_blob(BlobKind::Config, 2, b"{}")
                        .and_then(|()| primary.send_pages(0, &machine.ram, true))
                        .and_then(|()| primary.send_blob(BlobKind::State, total, &state))
                        .and_then(|()| {
                            let position = Position(machine.position);
                            primary.finish_clone(now, position, machine.digest())
                        });
                }
            }
            Event::CheckClone(generation) => {
                let members = if self.now < self.arbiter_down_until {
                    None
                } else {
                    self.arbiter.members(self.vm, generation).ok().flatten()
                };
                if let Role::Backup(backup) = &mut process.role {
                    let digest = process.machine.digest();
                    backup.on_clone_checked(&digest, members.as_ref());
                }
            }
            Event::Wrote => {
                if let Some(Output::Console { through, bytes, .. }) = process.writing.take() {
                    let id = process.id;
                    process.inputs.push_back(Input::ConsoleEmitted { through });
                    self.client.write(id, through, &bytes)?;
                    if self.speaker.is_some_and(|speaker| speaker != id) {
                        self.client.late_write(id)?;
                    }
                    self.emit(p)?;
                }
            }
            Event::Typed => {
                let byte = self.prng.next() as u8;
                process.inputs.push_back(match byte {
                    0..=9 => Input::PowerButton,
                    10..=14 => Input::Reset,
                    _ => Input::SerialInput(vec![byte; usize::from(byte % 16)]),
                });
                let delay = self.prng.range(1, 40) * MS;
                self.at(p, delay, Event::Typed);
            }
        }
        Ok(())
    }

    // --- What the vmm's threads do for a role.

    fn pump(&mut self, p: usize) -> Result<(), Violation> {
        loop {
            self.read(p);
            let mut idle = true;
            while self.obey(p)? {
                idle = false;
            }
            self.write(p);
            let has_commands = match &self.processes[p].role {
                Role::Live(primary) => primary.has_commands(),
                Role::Backup(backup) => backup.has_commands(),
                Role::Over => false,
            };
            if idle && !has_commands {
                return Ok(());
            }
        }
    }

    fn read(&mut self, p: usize) {
        let now = self.clock(p);
        let process = &mut self.processes[p];
        loop {
            let wants = match &process.role {
                Role::Live(_) => true,
                Role::Backup(backup) => backup.wants_bytes(),
                Role::Over => return,
            };
            if !wants {
                return;
            }
            let Some(bytes) = process.received.pop_front() else {
                return;
            };
            match (&mut process.role, bytes) {
                (Role::Live(primary), Some(bytes)) => primary.on_bytes(now, &bytes),
                (Role::Live(primary), None) => primary.on_disconnect(now),
                (Role::Backup(backup), Some(bytes)) => backup.on_bytes(now, &bytes),
                (Role::Backup(backup), None) => backup.on_disconnect(now),
                (Role::Over, _) => {}
            }
        }
    }

    fn write(&mut self, p: usize) {
        let now = self.clock(p);
        let Some(connection) = self.processes[p].connection else {
            return;
        };
        loop {
            // What the socket takes in one call.
            let room = self.prng.range(1, 5000) as usize;
            let room = match self.bug {
                Some(Bug::EarlyAck) => usize::MAX,
                _ => room,
            };
            let bytes = match &mut self.processes[p].role {
                Role::Live(primary) => {
                    let waiting = primary.transmit(now);
                    let bytes = waiting[..room.min(waiting.len())].to_vec();
                    primary.transmitted(now, bytes.len());
                    bytes
                }
                Role::Backup(backup) => {
                    let waiting = backup.transmit(now);
                    let bytes = waiting[..room.min(waiting.len())].to_vec();
                    backup.transmitted(bytes.len());
                    bytes
                }
                Role::Over => return,
            };
            if bytes.is_empty() {
                return;
            }
            let bytes = match self.bug {
                Some(Bug::EarlyAck) => self.promise_more(p, connection, &bytes),
                _ => bytes,
            };
            self.send(p, connection, Some(bytes));
        }
    }

    /// `Bug::EarlyAck`: rewrites acknowledgements.
    fn promise_more(&mut self, p: usize, connection: usize, bytes: &[u8]) -> Vec<u8> {
        let peer = self.other(connection, p);
        let Role::Live(primary) = &self.processes[peer].role else {
            return bytes.to_vec();
        };
        let mut frames = FrameReader::new();
        frames.feed(bytes);
        let mut out = Vec::new();
        while let Ok(Some(frame)) = frames.next_frame() {
            match Message::decode(&frame) {
                Ok(Message::Ack(ack)) => Message::Ack(Ack {
                    next_expected: primary.next_seq(),
                    ..ack
                })
                .encode(&mut out),
                Ok(message) => message.encode(&mut out),
                Err(_) => {}
            }
        }
        out
    }

    /// Obeys one command, if there is one.
    fn obey(&mut self, p: usize) -> Result<bool, Violation> {
        match &mut self.processes[p].role {
            Role::Live(primary) => match primary.next_command() {
                Some(command) => self.obey_primary(p, command).map(|()| true),
                None => Ok(false),
            },
            Role::Backup(backup) => match backup.next_command() {
                Some(command) => self.obey_backup(p, command).map(|()| true),
                None => Ok(false),
            },
            Role::Over => Ok(false),
        }
    }

    fn obey_primary(&mut self, p: usize, command: primary::Command) -> Result<(), Violation> {
        use primary::Command;
        match command {
            Command::StallVcpu => self.report.stalls += 1,
            Command::RunVcpu | Command::BackupReady => {}
            Command::OutputsReady => self.emit(p)?,
            Command::Heartbeat(datagram) => self.send_datagram(p, &datagram),
            Command::BeginGeneration(members) => {
                let generation = members.generation;
                let begun = self.begin(&members);
                let delay = self.prng.range(1, 5) * MS;
                self.at(p, delay, Event::Begun(generation, begun));
            }
            Command::StartClone => {
                self.processes[p].paused = true;
                let delay = self.prng.range(0, 20) * MS;
                self.at(p, delay, Event::Clone);
            }
            Command::Decide {
                generation,
                decision,
            } => self.ask(p, generation, decision),
            Command::CloseChannel => self.close(p),
            Command::Unprotected(_) => self.report.carried_on += 1,
            Command::Ended => {}
            Command::Halt(_) => self.processes[p].role = Role::Over,
        }
        Ok(())
    }

    fn obey_backup(&mut self, p: usize, command: backup::Command) -> Result<(), Violation> {
        use backup::Command;
        let machine = &mut self.processes[p].machine;
        match command {
            Command::Accepted(_)
            | Command::Replay
            | Command::PrimaryLost(_)
            | Command::Blob(BlobKind::Config | BlobKind::Payload, _) => {}
            Command::Blob(BlobKind::State, state) => machine.restore(&state),
            Command::Pages(run) => {
                let start = run.first as usize * ft::channel::PAGE_BYTES;
                machine.ram[start..start + run.bytes.len()].copy_from_slice(&run.bytes);
            }
            Command::CheckClone { generation, .. } => {
                let delay = self.prng.range(0, 30) * MS;
                self.at(p, delay, Event::CheckClone(generation));
            }
            Command::Heartbeat(datagram) => self.send_datagram(p, &datagram),
            Command::Decide {
                generation,
                decision,
            } => self.ask(p, generation, decision),
            Command::GoLive {
                generation,
                next_seq,
                position,
            } => self.go_live(p, generation, next_seq, position)?,
            Command::DigestMismatch(mismatch) => {
                let Role::Backup(backup) = &self.processes[p].role else {
                    return Ok(());
                };
                let status = backup.status();
                return Err(format!("the machines differ: {mismatch:?}, {status:?}"));
            }
            Command::CloseChannel => self.close(p),
            Command::Halt(_) | Command::Ended(_) => {
                // The process leaves, once its last words are out.
                self.write(p);
                self.close(p);
                self.processes[p].role = Role::Over;
            }
        }
        Ok(())
    }

    fn go_live(
        &mut self,
        p: usize,
        generation: Generation,
        next_seq: u64,
        position: Position,
    ) -> Result<(), Violation> {
        let now = self.clock(p);
        let process = &mut self.processes[p];
        let won = Decision::Won { by: process.id };
        let decision = self.arbiter.decision(self.vm, generation);
        if decision != Ok(Some(won)) {
            return Err(format!("live without the flag: {decision:?}"));
        }
        if position.0 != process.machine.position {
            return Err(format!(
                "live at {position}, the machine is at {}",
                process.machine.position
            ));
        }
        self.report.failovers += 1;
        let mut position = position;
        if let Some(before) = process.before.take() {
            position = Position(before.position);
            process.machine = before;
        }
        self.history.continue_from(position.0);
        let mut primary = Primary::new(settings(&mut self.prng), next_seq, position);
        let machine = &process.machine;
        if !machine.pending.is_empty() && self.bug != Some(Bug::ForgottenOutput) {
            let output = Output::Console {
                position,
                through: machine.through,
                bytes: machine.pending.clone(),
            };
            primary.resume_output(now, output);
        }
        process.inputs.clear();
        process.role = Role::Live(Box::new(primary));
        Ok(())
    }

    /// Lets the next output out, if there is one and no call is under way.
    fn emit(&mut self, p: usize) -> Result<(), Violation> {
        let now = self.clock(p);
        let process = &mut self.processes[p];
        let asked_at = match self.bug {
            Some(Bug::StaleRelease) => process.looked,
            _ => now,
        };
        if process.writing.is_none()
            && let Role::Live(primary) = &mut process.role
            && let Some(output) = primary.take_output(asked_at)
        {
            self.check_release(p, &output)?;
            self.processes[p].writing = Some(output);
            let delay = self.prng.range(0, 300) * US;
            self.at(p, delay, Event::Wrote);
        }
        Ok(())
    }

    /// The output rule and the exclusion of split brain, as the world can see them.
    fn check_release(&mut self, p: usize, output: &Output) -> Result<(), Violation> {
        let Output::Console { through, .. } = output;
        let process = &self.processes[p];
        if matches!(process.phase(), "protected" | "verifying")
            && let Some(seq) = process.entries.get(through)
            && let Some(connection) = process.connection
            && let Role::Backup(backup) = &self.processes[self.other(connection, p)].role
        {
            let received = backup.status().next_expected;
            let first = backup.status().phase == "receiving";
            if *seq >= received && !first {
                return Err(format!("entry {seq} is out, the backup has {received}"));
            }
        }
        let id = process.id;
        if self.speaker.is_some_and(|speaker| speaker != id) {
            return Err(format!("{id} released {through} without the flag"));
        }
        Ok(())
    }

    // --- The links.

    fn other(&self, connection: usize, p: usize) -> usize {
        let [a, b] = self.connections[connection].ends;
        if a == p { b } else { a }
    }

    fn begin(&mut self, members: &Members) -> bool {
        let begun = self.now >= self.arbiter_down_until && self.arbiter.begin(members).is_ok();
        self.speaker = speaker(&mut self.arbiter, self.vm);
        begun
    }

    fn ask(&mut self, p: usize, generation: Generation, decision: Decision) {
        let delay = self.prng.range(0, 10) * MS;
        self.schedule(self.now + delay, Happening::Decide(p, generation, decision));
    }

    fn transit(&mut self, from: usize, to: usize) -> Tick {
        let open = self.blocked.get(&(from, to)).copied().unwrap_or(0);
        let jitter = match self.prng.range(0, 99) {
            0 => self.prng.range(0, 30) * MS,
            _ => self.prng.range(50, 2000) * US,
        };
        self.now.max(open) + jitter
    }

    /// In order and without loss, but for as long as it takes.
    fn send(&mut self, from: usize, connection: usize, bytes: Option<Vec<u8>>) {
        let to = self.other(connection, from);
        let arrival = self.transit(from, to);
        let link = &mut self.connections[connection];
        let end = usize::from(link.ends[1] == to);
        link.arrival[end] = link.arrival[end].max(arrival);
        let at = link.arrival[end];
        let event = Event::Received(connection, bytes);
        self.schedule(at, Happening::At(to, event));
    }

    fn send_datagram(&mut self, from: usize, datagram: &[u8]) {
        let Some(connection) = self.processes[from].connection else {
            return;
        };
        let to = self.other(connection, from);
        let is_blocked = self
            .blocked
            .get(&(from, to))
            .is_some_and(|until| self.now < *until);
        if is_blocked || self.now < self.datagrams_lost_until || self.prng.chance(5) {
            return;
        }
        let at = self.transit(from, to);
        let event = Event::Datagram(datagram.to_vec());
        self.schedule(at, Happening::At(to, event));
    }

    fn close(&mut self, p: usize) {
        let process = &mut self.processes[p];
        process.received.clear();
        if let Some(connection) = process.connection.take() {
            self.send(p, connection, None);
        }
    }
}

fn semantics() -> Semantics {
    Semantics {
        engine: "toy".into(),
        cpu_model: "none".into(),
        number: 1,
    }
}
