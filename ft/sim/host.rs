//! What a host's threads do for a role, as the vmm's do.
//!
//! Does: move bytes, obey commands, take the role from backup to primary, emit outputs in parts.
//! Does not: decide anything that the protocol decides.
//!
//! Invariant: nothing leaves without the checkers having looked at it.

use ft::backup;
use ft::channel::{Ack, BlobKind, Hello, Message};
use ft::flag::Decision;
use ft::frame::FrameReader;
use ft::identity::Generation;
use ft::primary::{self, Primary};
use machine::{Lane, Output, Position};

use super::Bug;
use super::checkers::Violation;
use super::episode::TIMEOUT_FACTOR;
use super::process::{Emission, Role, settings};
use super::world::{Event, MS, US, World};

impl World {
    pub(super) fn pump(&mut self, p: usize) -> Result<(), Violation> {
        loop {
            self.read(p);
            let mut idle = true;
            while self.obey(p)? {
                idle = false;
            }
            self.write(p);
            self.check_leaving(p)?;
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

    pub(super) fn write(&mut self, p: usize) {
        let now = self.clock(p);
        let Some(connection) = self.processes[p].connection else {
            return;
        };
        loop {
            // What the socket takes in one call.
            let room = self.prng.range(1, 5000) as usize;
            let room = match self.bug {
                Some(Bug::EarlyAck | Bug::ForeignTimeout) => usize::MAX,
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
                Some(Bug::EarlyAck | Bug::ForeignTimeout) => self.lie(p, connection, &bytes),
                _ => bytes,
            };
            self.send(p, connection, Some(bytes));
        }
    }

    /// Rewrites what is sent, for bugs that are wrong promises.
    fn lie(&mut self, p: usize, connection: usize, bytes: &[u8]) -> Vec<u8> {
        let peer = self.other(connection, p);
        let next_seq = match &self.processes[peer].role {
            Role::Live(primary) => primary.next_seq(),
            _ => 0,
        };
        let mut frames = FrameReader::new();
        frames.feed(bytes);
        let mut out = Vec::new();
        while let Ok(Some(frame)) = frames.next_frame() {
            match (Message::decode(&frame), self.bug) {
                (Ok(Message::Ack(ack)), Some(Bug::EarlyAck)) => Message::Ack(Ack {
                    next_expected: next_seq,
                    ..ack
                })
                .encode(&mut out),
                (Ok(Message::HelloAck(hello)), Some(Bug::ForeignTimeout)) => {
                    Message::HelloAck(Hello {
                        timeout: hello.timeout * TIMEOUT_FACTOR,
                        ..hello
                    })
                    .encode(&mut out);
                }
                (Ok(message), _) => message.encode(&mut out),
                (Err(_), _) => {}
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
            // The toy's devices need nothing of a host.
            Command::RunVcpu | Command::BackupReady | Command::DeviceAnswer { .. } => {}
            Command::OutputsReady(Lane::Console) => self.emit(p)?,
            Command::OutputsReady(Lane::Device(_)) => self.store(p),
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
            | Command::DeviceQuery { .. }
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
        let old = self.old_side(p, generation);
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
        for write in &machine.in_flight {
            // Whether the old side carried it out is not known.
            primary.resume_output(now, write.output(position.0));
        }
        process.inputs.clear();
        process.role = Role::Live(Box::new(primary));
        self.take_over_disk(p, old);
        Ok(())
    }

    /// Who began a generation.
    fn old_side(&mut self, p: usize, generation: Generation) -> usize {
        let members = self.arbiter.members(self.vm, generation);
        let by = members.ok().flatten().map(|members| members.by);
        let found = self
            .processes
            .iter()
            .position(|process| Some(process.id) == by);
        found.unwrap_or(p)
    }

    /// Lets the next part of an output out, or the first one of the next, if no call is under way.
    pub(super) fn emit(&mut self, p: usize) -> Result<(), Violation> {
        let now = self.clock(p);
        let process = &mut self.processes[p];
        let Role::Live(primary) = &mut process.role else {
            return Ok(());
        };
        let asked_at = match self.bug {
            Some(Bug::StaleRelease) => process.looked,
            _ => now,
        };
        match &mut process.writing {
            Some(emission) if emission.calling > 0 => return Ok(()),
            Some(_) => {
                if !primary.may_emit(asked_at) && self.bug != Some(Bug::UnaskedParts) {
                    self.at(p, MS, Event::MayEmit);
                    return Ok(());
                }
            }
            None => {
                let output = primary.take_output(asked_at, Lane::Console);
                let Some(Output::Console { through, bytes, .. }) = output else {
                    return Ok(());
                };
                process.writing = Some(Emission {
                    through,
                    rest: bytes,
                    calling: 0,
                });
            }
        }
        let Some(emission) = &mut process.writing else {
            return Ok(());
        };
        emission.calling = self.prng.range(1, emission.rest.len() as u64) as usize;
        let through = emission.through;
        self.check_release(p, through)?;
        let delay = self.prng.range(0, 300) * US;
        self.at(p, delay, Event::Wrote);
        Ok(())
    }

    /// Whoever leaves a generation leaves it decided.
    fn check_leaving(&mut self, p: usize) -> Result<(), Violation> {
        let process = &mut self.processes[p];
        if !process.alive {
            return Ok(());
        }
        let phase = process.phase();
        match &process.role {
            Role::Live(primary)
                if matches!(
                    phase,
                    "verifying" | "protected" | "handing over" | "claiming"
                ) =>
            {
                process.in_generation = primary.generation();
            }
            Role::Live(_) | Role::Over => {
                if let Some(generation) = process.in_generation.take()
                    && self.arbiter.decision(self.vm, generation) == Ok(None)
                {
                    let id = process.id;
                    return Err(format!("{id} left generation {generation} undecided"));
                }
            }
            Role::Backup(_) => {}
        }
        Ok(())
    }

    /// The output rule and the exclusion of split brain, as the world can see them.
    pub(super) fn check_release(&mut self, p: usize, through: u64) -> Result<(), Violation> {
        let process = &self.processes[p];
        if matches!(process.phase(), "protected" | "verifying" | "handing over")
            && let Some(seq) = process.entries.get(&through)
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
}
