//! The world: hosts, links, the arbiter, and the order in which things happen to them.
//!
//! Does: keep time and what will happen, and let it happen. Does not: decide what goes wrong
//! (`episode`, `faults`), or what a host does about it (`host`).

use std::collections::BTreeMap;

use ft::Tick;
use ft::arbiter::{Answer, Arbiter, MemoryStore};
use ft::channel::BlobKind;
use ft::flag::Decision;
use ft::identity::{Generation, Incarnation, VmId};
use ft::primary::Primary;
use machine::{Input, Output, Position};

use super::Bug;
use super::checkers::{Client, History, Violation, speaker};
use super::machine::Write;
use super::prng::Prng;
use super::process::{Process, Role, settings};
use super::storage::Storage;

pub(super) const US: Tick = 1_000;
pub(super) const MS: Tick = 1_000_000;

#[derive(Clone, Debug)]
pub(super) enum Event {
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
    /// The call that emits a part of an output returns.
    Wrote,
    /// The console's thread asks again whether the rest of an output may leave.
    MayEmit,
    /// A write to the disk has ended.
    Stored(u64),
    /// A client types.
    Typed,
}

/// What goes on between hosts and at the arbiter, which nobody can freeze.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    At(usize, Event),
    Decide(usize, Generation, Decision),
    Thaw(usize),
    /// A write of a process arrives at the storage.
    Arrives(usize, Write),
    /// The storage drops a process.
    Fence(usize),
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ends: [usize; 2],
    /// Nothing overtakes what was sent to that end before.
    pub(super) arrival: [Tick; 2],
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
    /// Times that a primary was asked to hand the VM over.
    pub handed_over: u64,
    /// Times that a vCPU was stopped.
    pub stalls: u64,
    /// Console bytes that clients saw, repeats not counted.
    pub bytes_seen: u64,
    /// Console bytes that they saw again.
    pub bytes_repeated: u64,
}

pub(super) struct World {
    pub(super) prng: Prng,
    pub(super) bug: Option<Bug>,
    pub(super) now: Tick,
    pub(super) order: u64,
    pub(super) happenings: BTreeMap<(Tick, u64), Happening>,
    pub(super) vm: VmId,
    pub(super) processes: Vec<Process>,
    pub(super) connections: Vec<Connection>,
    /// Until when nothing gets from one process to another.
    pub(super) blocked: BTreeMap<(usize, usize), Tick>,
    /// Until when connections are stuck, though datagrams get through.
    pub(super) stuck_until: Tick,
    pub(super) datagrams_lost_until: Tick,
    pub(super) arbiter: Arbiter<MemoryStore>,
    /// Who may let something out; `None` for anybody.
    pub(super) speaker: Option<Incarnation>,
    pub(super) arbiter_down_until: Tick,
    /// What frozen processes will find when they thaw.
    pub(super) deferred: BTreeMap<usize, Vec<Event>>,
    pub(super) storage: Storage,
    pub(super) client: Client,
    pub(super) history: History,
    pub(super) report: Report,
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
        stuck_until: 0,
        datagrams_lost_until: 0,
        arbiter: Arbiter::new(MemoryStore::default()),
        speaker: None,
        arbiter_down_until: 0,
        deferred: BTreeMap::new(),
        storage: Storage::default(),
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
    pub(super) fn advance(&mut self, duration: Tick) -> Result<(), Violation> {
        self.advance_until(duration, |_| false)
    }

    pub(super) fn advance_until(
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

    pub(super) fn clock(&self, p: usize) -> Tick {
        self.now + self.processes[p].clock_offset
    }

    pub(super) fn schedule(&mut self, at: Tick, happening: Happening) {
        self.order += 1;
        self.happenings.insert((at, self.order), happening);
    }

    pub(super) fn at(&mut self, p: usize, delay: Tick, event: Event) {
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
                        Event::Wrote | Event::MayEmit | Event::Stored(_) => 2,
                        Event::Begun(..) | Event::Answer(..) | Event::Typed => 3,
                    };
                    self.at(p, delays[thread], event);
                }
                Ok(())
            }
            Happening::Arrives(p, write) => {
                self.arrives(p, write);
                Ok(())
            }
            Happening::Fence(p) => {
                self.fence(p);
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
                    let Output::Console { through, bytes, .. } = output else {
                        continue;
                    };
                    self.check_release(p, through)?;
                    let id = self.processes[p].id;
                    self.client.write(id, through, &bytes)?;
                }
                self.look_at_fence(p);
                self.check_disk(p)?;
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
                let id = process.id;
                if let Some((through, part)) = process.written() {
                    process.inputs.push_back(Input::ConsoleEmitted { through });
                    self.client.write(id, through, &part)?;
                    if self.speaker.is_some_and(|speaker| speaker != id) {
                        self.client.late_write(id)?;
                    }
                    self.emit(p)?;
                }
            }
            Event::MayEmit => self.emit(p)?,
            Event::Stored(id) => self.stored(p, id),
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
}
