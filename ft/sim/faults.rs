//! What goes wrong with hosts, links and the arbiter, and what operators do meanwhile.

use ft::Tick;
use ft::log::{Body, Control};
use machine::Position;

use super::Bug;
use super::checkers::Violation;
use super::process::{Role, settings};
use super::world::{Happening, MS, World};

const FOREVER: Tick = Tick::MAX / 4;

/// What a strike may come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Strike {
    /// The VM may be gone after it: more failed than one side.
    pub(super) may_be_lost: bool,
    /// It must be over after it: it was powered off.
    pub(super) ends: bool,
}

impl World {
    /// A fault, or several; or an operator's order, with or without one.
    pub(super) fn strike(&mut self, live: usize) -> Result<Strike, Violation> {
        let peer = self.processes[live].connection.map(|c| self.other(c, live));
        let is_ready = self.processes[live].phase() == "protected";
        let duration = self.prng.range(5, 400) * MS;
        let until = self.now + duration;
        let mut strike = Strike::default();
        let Some(peer) = peer else {
            return Ok(strike);
        };
        let kind = self.prng.range(0, 25);
        if matches!(kind, 8..=10) || self.prng.chance(10) {
            self.arbiter_down_until = self.now + self.prng.range(5, 500) * MS;
        }
        match kind {
            0 => {}
            1 | 2 | 8 => {
                self.crash(live);
                strike.may_be_lost = !is_ready;
            }
            3 => self.crash(peer),
            4 | 9 => self.freeze(live, until),
            5 => self.freeze(peer, until),
            6 | 10 => self.part(live, peer, until),
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
                strike.may_be_lost = true;
            }
            12 => {
                self.part(live, peer, until);
                self.advance(duration / 2)?;
                let victim = if self.prng.chance(50) { live } else { peer };
                self.crash(victim);
                strike.may_be_lost = true;
            }
            13 => {
                let now = self.clock(live);
                if let Role::Live(primary) = &mut self.processes[live].role {
                    // Refused if the pairing ended by itself.
                    let _ = primary.disable(now);
                }
                self.pump(live)?;
            }
            14 | 15 => return self.power_off(live, peer, until),
            16 => self.datagrams_lost_until = until,
            17 => {
                self.processes[peer].speed = 5;
                self.advance(duration)?;
                self.processes[peer].speed = 100;
            }
            18..=20 => self.hand_over(live, peer, until)?,
            21 => self.take_backup_away(peer)?,
            22 => self.reconfigure(live)?,
            23 => {
                self.stuck_until = if self.prng.chance(50) {
                    self.now + 2000 * MS
                } else {
                    until
                }
            }
            _ => {
                self.freeze(live, until);
                let until = self.now + self.prng.range(5, 400) * MS;
                self.freeze(peer, until);
            }
        }
        Ok(strike)
    }

    /// The guest, or an operator, powers the VM off; and sometimes more happens.
    fn power_off(&mut self, live: usize, peer: usize, until: Tick) -> Result<Strike, Violation> {
        let now = self.clock(live);
        let process = &mut self.processes[live];
        let position = Position(process.machine.position);
        let Role::Live(primary) = &mut process.role else {
            return Ok(Strike::default());
        };
        if process.paused || !primary.may_run() {
            return Ok(Strike::default());
        }
        process.paused = true;
        if self.bug == Some(Bug::SilentPowerOff) {
            self.crash(live);
            return Ok(Strike {
                may_be_lost: true,
                ends: true,
            });
        }
        primary
            .append(now, position, Body::Control(Control::PowerOff))
            .map_err(|error| error.to_string())?;
        // Nobody is handed a VM that is over.
        if primary.hand_over(now).is_ok() {
            return Err("a VM that was powered off is handed over".into());
        }
        self.pump(live)?;
        let mut ends = true;
        match self.prng.range(0, 9) {
            0..=2 => {
                self.crash(live);
                // The backup may not have heard of it.
                ends = false;
            }
            3 => self.crash(peer),
            4 => {
                self.part(live, peer, until);
                ends = false;
            }
            _ => {}
        }
        Ok(Strike {
            may_be_lost: true,
            ends,
        })
    }

    /// An operator wants the backup to take over; and sometimes more happens.
    fn hand_over(&mut self, live: usize, peer: usize, until: Tick) -> Result<(), Violation> {
        let now = self.clock(live);
        let Role::Live(primary) = &mut self.processes[live].role else {
            return Ok(());
        };
        // Refused if nobody is there who could.
        if primary.hand_over(now).is_err() {
            return Ok(());
        }
        self.report.handed_over += 1;
        self.pump(live)?;
        if self.bug == Some(Bug::LeaveWithoutAsking) {
            self.write(live);
            self.processes[live].role = Role::Over;
        }
        let wait = self.prng.range(0, 60) * MS;
        match self.prng.range(0, 9) {
            0 => self.crash(peer),
            1 => {
                self.advance(wait)?;
                self.crash(peer);
            }
            2 => {
                self.advance(wait)?;
                self.crash(live);
            }
            3 => {
                self.advance(wait)?;
                self.part(live, peer, until);
            }
            4 => self.freeze(peer, until),
            5 => {
                self.advance(wait)?;
                self.freeze(live, until);
            }
            6 => self.arbiter_down_until = until,
            _ => {}
        }
        Ok(())
    }

    /// An operator takes the backup's process away.
    fn take_backup_away(&mut self, peer: usize) -> Result<(), Violation> {
        let left = match &mut self.processes[peer].role {
            Role::Backup(backup) => backup.leave("told to"),
            _ => false,
        };
        if left {
            self.pump(peer)?;
        }
        Ok(())
    }

    /// Somebody wants other times, which are for the next pairing only.
    fn reconfigure(&mut self, live: usize) -> Result<(), Violation> {
        let settings = settings(&mut self.prng);
        if let Role::Live(primary) = &mut self.processes[live].role
            && primary.status(0).phase != "unprotected"
            && primary.configure(settings).is_ok()
        {
            return Err("the times of a pairing changed under way".into());
        }
        Ok(())
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

    fn part(&mut self, a: usize, b: usize, until: Tick) {
        self.blocked.insert((a, b), until);
        self.blocked.insert((b, a), until);
    }
}
