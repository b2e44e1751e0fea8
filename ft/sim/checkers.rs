//! What must hold, told without the protocol's help: from what a client sees, what the arbiter's
//! store really holds, and the states that primaries were really in.

use std::collections::BTreeMap;

use ft::arbiter::{Arbiter, MemoryStore, Standing};
use ft::flag::Decision;
use ft::identity::{Incarnation, VmId};

use super::machine::Machine;

/// Something that must not happen, happened.
pub type Violation = String;

/// What clients saw so far.
#[derive(Debug, Default)]
pub struct Client {
    seen: Vec<u8>,
    /// For each process that ever wrote, where its next write must begin.
    next_of: BTreeMap<Incarnation, u64>,
    /// Processes that wrote once after they had lost the flag.
    late: BTreeMap<Incarnation, u64>,
    pub repeated: u64,
}

impl Client {
    pub fn seen_bytes(&self) -> u64 {
        self.seen.len() as u64
    }

    /// `by` wrote console bytes that end at `through`.
    pub fn write(&mut self, by: Incarnation, through: u64, bytes: &[u8]) -> Result<(), Violation> {
        let start = through - bytes.len() as u64;
        if let Some(next) = self.next_of.insert(by, through)
            && next != start
        {
            return Err(format!("{by} wrote from {start} where {next} was next"));
        }
        if start > self.seen.len() as u64 {
            let seen = self.seen.len();
            return Err(format!("gap: {by} wrote from {start}, seen were {seen}"));
        }
        for (i, byte) in bytes.iter().enumerate() {
            let at = start as usize + i;
            match self.seen.get(at) {
                None => self.seen.push(*byte),
                Some(seen) if seen == byte => self.repeated += 1,
                Some(_) => return Err(format!("two histories: {by} differs at byte {at}")),
            }
        }
        Ok(())
    }

    /// `by` completed a write though it had lost the flag: at most the one that was past its check.
    pub fn late_write(&mut self, by: Incarnation) -> Result<(), Violation> {
        let count = self.late.entry(by).or_default();
        *count += 1;
        if *count > 1 {
            return Err(format!("{by} wrote {count} times after it had lost"));
        }
        Ok(())
    }
}

/// Who may let something out, as the store says; `None` for anybody.
pub fn speaker(arbiter: &mut Arbiter<MemoryStore>, vm: VmId) -> Option<Incarnation> {
    match arbiter.standing(vm) {
        Ok(Standing::Open(members)) => Some(members.by),
        Ok(Standing::Decided(_, Decision::Won { by })) => Some(by),
        Ok(Standing::Never | Standing::Decided(_, _)) => None,
        Err(error) => panic!("the store itself is always reachable: {error}"),
    }
}

/// The states that the machine was in, in the history that counts.
#[derive(Debug, Default)]
pub struct History {
    states: BTreeMap<u64, u64>,
}

impl History {
    fn fingerprint(machine: &Machine) -> u64 {
        machine.digest().iter().fold(0, |sum, component| {
            super::prng::scramble(sum ^ component.value)
        })
    }

    /// A live machine is at the end of a slice.
    pub fn lived(&mut self, machine: &Machine) {
        let fingerprint = Self::fingerprint(machine);
        self.states.insert(machine.position, fingerprint);
    }

    /// A machine went live here: whatever was lived beyond never happened.
    pub fn continue_from(&mut self, position: u64) {
        self.states.split_off(&(position + 1));
    }

    /// A replaying machine ran to this position, before anything at it was applied.
    pub fn replayed(&self, machine: &Machine) -> Result<(), Violation> {
        match self.states.get(&machine.position) {
            Some(state) if *state != Self::fingerprint(machine) => Err(format!(
                "the replay differs at position {}",
                machine.position
            )),
            _ => Ok(()),
        }
    }
}
