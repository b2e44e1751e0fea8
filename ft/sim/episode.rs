//! Episodes: protect the VM, let something happen to it, see who is left.

use ft::arbiter::Standing;
use ft::backup::{Backup, Offer};
use ft::flag::Decision;
use ft::identity::{Incarnation, Semantics};
use ft::primary::Pairing;

use super::Bug;
use super::checkers::{Violation, speaker};
use super::faults::Strike;
use super::process::{Process, Role, settings};
use super::world::{Connection, Event, MS, World};

/// How much longer `Bug::ForeignTimeout` makes the detection timeout seem.
pub(super) const TIMEOUT_FACTOR: u64 = 10;

impl World {
    /// Whether the VM goes on after it.
    pub(super) fn episode(&mut self) -> Result<bool, Violation> {
        let Some(live) = (0..self.processes.len()).find(|p| self.processes[*p].is_live()) else {
            return Err("nobody runs the VM".into());
        };
        if self.processes[live].phase() == "unprotected" {
            self.advance_until(2000 * MS, |world| !world.processes[live].disk.is_unfenced())?;
            if self.processes[live].disk.is_unfenced() {
                return Err("the old side is never fenced".into());
            }
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
        let Strike { may_be_lost, ends } = self.strike(live)?;
        self.report.faults += 1;
        self.advance(1500 * MS)?;
        let survivors: Vec<usize> = (0..self.processes.len())
            .filter(|p| self.processes[*p].is_live())
            .collect();
        let phases: Vec<_> = self.processes.iter().map(Process::phase).collect();
        match survivors[..] {
            [] if may_be_lost || ends || self.is_winner_dead() => Ok(false),
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

    /// Whether the flag was won by somebody who crashed then: nobody else may go on.
    fn is_winner_dead(&mut self) -> bool {
        let Ok(Standing::Decided(_, Decision::Won { by })) = self.arbiter.standing(self.vm) else {
            return false;
        };
        let mut dead = self.processes.iter().filter(|process| !process.alive);
        dead.any(|process| process.id == by)
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
        let theirs = settings(&mut self.prng);
        let backup = self.spawn(Role::Backup(Box::new(Backup::new(theirs, offer))));
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
        // Each pairing has its own times and sizes.
        let mut ours = settings(&mut self.prng);
        if self.bug == Some(Bug::ForeignTimeout) {
            ours.timeout *= TIMEOUT_FACTOR;
        }
        if let Role::Live(primary) = &mut self.processes[live].role {
            primary
                .configure(ours)
                .and_then(|()| primary.connect(now, pairing))
                .map_err(|error| error.to_string())?;
        }
        self.pump(live)
    }

    pub(super) fn spawn(&mut self, role: Role) -> usize {
        let id = Incarnation(self.prng.id());
        let offset = self.prng.range(0, 1000) * MS;
        self.processes.push(Process::new(id, offset, role));
        let p = self.processes.len() - 1;
        self.at(p, 0, Event::Slice);
        self.at(p, 0, Event::Tick);
        self.at(p, MS, Event::Typed);
        p
    }
}

fn semantics() -> Semantics {
    Semantics {
        engine: "toy".into(),
        cpu_model: "none".into(),
        number: 1,
    }
}
