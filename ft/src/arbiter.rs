//! The arbiter: one place that both sides can ask who may go on.
//!
//! Does: begin generations, take the decision that ends one (the test-and-set), and follow the
//! chain of decisions to the current authority, all on top of a store that can create a record if
//! there is none. Does not: reach that store (a shared directory, a consensus store: `FlagStore`
//! is implemented on the host side), or retry.
//!
//! Invariant: of all decisions asked for one generation, exactly one stands, for ever; whoever asks
//! again gets the same answer; who cannot be sure gets none (paper §2.3).

use std::collections::BTreeMap;

use thiserror::Error;

use crate::flag::{Decision, Members, RecordError, flag_name, members_name};
use crate::identity::{Generation, Incarnation, VmId};

/// A place for records. The names it is given are plain file names.
pub trait FlagStore {
    /// Creates the record, if there is none of that name, durably and in one atomic step. `false`
    /// if there is one already. An error means that nothing is known.
    fn create(&mut self, name: &str, text: &str) -> Result<bool, StoreError>;

    /// The record of that name, if there is one.
    fn read(&mut self, name: &str) -> Result<Option<String>, StoreError>;
}

impl<S: FlagStore + ?Sized> FlagStore for Box<S> {
    fn create(&mut self, name: &str, text: &str) -> Result<bool, StoreError> {
        (**self).create(name, text)
    }

    fn read(&mut self, name: &str) -> Result<Option<String>, StoreError> {
        (**self).read(name)
    }
}

/// The store did not answer, or not intelligibly.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ArbiterError {
    /// The store did not answer.
    #[error("the arbiter cannot be reached")]
    Unreachable(#[from] StoreError),
    /// The store holds something that is no record of ours.
    #[error("the arbiter's record {name} is damaged")]
    Damaged {
        /// The record's name.
        name: String,
        /// What is wrong with it.
        source: RecordError,
    },
    /// The store does not know this generation, or not with this member: it is not the arbiter that
    /// the pairing was begun in (a directory where nothing is mounted, say).
    #[error("the arbiter knows no generation {generation} of {vm} with {member}")]
    NotAMember {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
        /// Who asked.
        member: Incarnation,
    },
    /// Somebody else speaks for the VM.
    #[error("generation {generation} of {vm} was {decision}")]
    NotOurs {
        /// The VM.
        vm: VmId,
        /// The last generation.
        generation: Generation,
        /// What ended it.
        decision: Decision,
    },
    /// Somebody else began that generation.
    #[error("generation {generation} of {vm} was begun by {by}")]
    Taken {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
        /// Who began it.
        by: Incarnation,
    },
}

/// The answer to a role that asked for a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The decision asked for is the one that stands.
    Won,
    /// Another one stands.
    Lost {
        /// It.
        to: Decision,
    },
    /// It is not known which one stands. Wait, and ask again.
    Unreachable,
}

/// Who speaks for a VM, as far as its arbiter knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There was never a pairing.
    Never,
    /// One of these members, undecided.
    Open(Members),
    /// This generation was decided, and no other was begun since.
    Decided(Generation, Decision),
}

/// The rules of the flag on top of a store.
#[derive(Debug)]
pub struct Arbiter<S> {
    store: S,
}

impl<S: FlagStore> Arbiter<S> {
    /// An arbiter on `store`.
    pub fn new(store: S) -> Self {
        Arbiter { store }
    }

    /// The store.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Writes the members of a new generation, whose number `next_generation` gave.
    pub fn begin(&mut self, record: &Members) -> Result<(), ArbiterError> {
        let name = members_name(record.vm, record.generation);
        if self.store.create(&name, &record.to_text())? {
            return Ok(());
        }
        match self.members(record.vm, record.generation)? {
            Some(standing) if standing == *record => Ok(()),
            Some(standing) => Err(ArbiterError::Taken {
                vm: record.vm,
                generation: record.generation,
                by: standing.by,
            }),
            None => Err(StoreError(format!("{name} exists and cannot be read")).into()),
        }
    }

    /// Asks, as `member`, that `decision` ends the generation; gives the one that stands.
    pub fn decide(
        &mut self,
        vm: VmId,
        generation: Generation,
        member: Incarnation,
        decision: &Decision,
    ) -> Result<Decision, ArbiterError> {
        match self.members(vm, generation)? {
            Some(record) if record.members.contains(&member) => {}
            _ => {
                return Err(ArbiterError::NotAMember {
                    vm,
                    generation,
                    member,
                });
            }
        }
        let name = flag_name(vm, generation);
        if self
            .store
            .create(&name, &decision.to_text(vm, generation))?
        {
            return Ok(decision.clone());
        }
        self.decision(vm, generation)?
            .ok_or_else(|| StoreError(format!("{name} exists and cannot be read")).into())
    }

    /// `decide`, in the form in which a role wants to be told.
    pub fn answer(
        &mut self,
        vm: VmId,
        generation: Generation,
        member: Incarnation,
        decision: &Decision,
    ) -> Answer {
        match self.decide(vm, generation, member, decision) {
            Ok(standing) if standing == *decision => Answer::Won,
            Ok(to) => Answer::Lost { to },
            Err(error) => {
                log::warn!("no answer from the arbiter: {error}");
                Answer::Unreachable
            }
        }
    }

    /// The members of a generation.
    pub fn members(
        &mut self,
        vm: VmId,
        generation: Generation,
    ) -> Result<Option<Members>, ArbiterError> {
        let name = members_name(vm, generation);
        self.store
            .read(&name)?
            .map(|text| Members::from_text(vm, generation, &text))
            .transpose()
            .map_err(|source| ArbiterError::Damaged { name, source })
    }

    /// What ended a generation.
    pub fn decision(
        &mut self,
        vm: VmId,
        generation: Generation,
    ) -> Result<Option<Decision>, ArbiterError> {
        let name = flag_name(vm, generation);
        self.store
            .read(&name)?
            .map(|text| Decision::from_text(vm, generation, &text))
            .transpose()
            .map_err(|source| ArbiterError::Damaged { name, source })
    }

    /// Follows the chain to its end.
    pub fn standing(&mut self, vm: VmId) -> Result<Standing, ArbiterError> {
        let mut standing = Standing::Never;
        let mut generation = Generation(1);
        while let Some(members) = self.members(vm, generation)? {
            match self.decision(vm, generation)? {
                None => return Ok(Standing::Open(members)),
                Some(decision) => standing = Standing::Decided(generation, decision),
            }
            generation = generation.next();
        }
        Ok(standing)
    }

    /// The number for a new pairing of a VM that runs unprotected in the process `us`. Ends a
    /// generation that `us` began and whose protection never did. Must not be asked while `us` is
    /// protected: that generation would be ended too.
    pub fn next_generation(
        &mut self,
        vm: VmId,
        us: Incarnation,
    ) -> Result<Generation, ArbiterError> {
        let (generation, decision) = match self.standing(vm)? {
            Standing::Never => return Ok(Generation(1)),
            Standing::Open(members) => {
                let generation = members.generation;
                let won = Decision::Won { by: us };
                (generation, self.decide(vm, generation, us, &won)?)
            }
            Standing::Decided(generation, decision) => (generation, decision),
        };
        match decision {
            Decision::Won { by } if by == us => Ok(generation.next()),
            Decision::Succeeded { ref members } if members.contains(&us) => Ok(generation.next()),
            Decision::Ended => Ok(generation.next()),
            decision => Err(ArbiterError::NotOurs {
                vm,
                generation,
                decision,
            }),
        }
    }

    /// Records that the VM, which ran unprotected in the process `us`, is over, so that its id may
    /// be started again by anybody. A VM that was never in a pairing needs no record.
    pub fn end(&mut self, vm: VmId, us: Incarnation) -> Result<(), ArbiterError> {
        if let Standing::Never | Standing::Decided(_, Decision::Ended) = self.standing(vm)? {
            return Ok(());
        }
        let generation = self.next_generation(vm, us)?;
        self.begin(&Members {
            vm,
            generation,
            by: us,
            members: vec![us],
        })?;
        self.decide(vm, generation, us, &Decision::Ended)?;
        Ok(())
    }
}

/// A store in memory, for tests and simulation.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    records: BTreeMap<String, String>,
    unreachable: bool,
}

impl MemoryStore {
    /// Whether it answers from now on.
    pub fn set_reachable(&mut self, reachable: bool) {
        self.unreachable = !reachable;
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.unreachable {
            return Err(StoreError("switched off".into()));
        }
        Ok(())
    }
}

impl FlagStore for MemoryStore {
    fn create(&mut self, name: &str, text: &str) -> Result<bool, StoreError> {
        self.check()?;
        if self.records.contains_key(name) {
            return Ok(false);
        }
        self.records.insert(name.into(), text.into());
        Ok(true)
    }

    fn read(&mut self, name: &str) -> Result<Option<String>, StoreError> {
        self.check()?;
        Ok(self.records.get(name).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: VmId = VmId([9; 16]);
    const A: Incarnation = Incarnation([1; 16]);
    const B: Incarnation = Incarnation([2; 16]);
    const C: Incarnation = Incarnation([3; 16]);

    fn members(generation: u64, by: Incarnation, members: &[Incarnation]) -> Members {
        Members {
            vm: VM,
            generation: Generation(generation),
            by,
            members: members.to_vec(),
        }
    }

    fn won(by: Incarnation) -> Decision {
        Decision::Won { by }
    }

    #[test]
    fn one_decision_stands_for_ever() {
        let mut arbiter = Arbiter::new(MemoryStore::default());
        let g = arbiter.next_generation(VM, A).unwrap();
        assert_eq!(g, Generation(1));
        let pair = members(1, A, &[A, B]);
        arbiter.begin(&pair).unwrap();
        arbiter.begin(&pair).unwrap();
        assert_eq!(
            arbiter.begin(&members(1, C, &[C])),
            Err(ArbiterError::Taken {
                vm: VM,
                generation: g,
                by: A
            })
        );
        assert_eq!(arbiter.standing(VM), Ok(Standing::Open(pair)));
        assert_eq!(arbiter.answer(VM, g, B, &won(B)), Answer::Won);
        assert_eq!(
            arbiter.answer(VM, g, A, &won(A)),
            Answer::Lost { to: won(B) }
        );
        assert_eq!(
            arbiter.answer(VM, g, A, &Decision::Ended),
            Answer::Lost { to: won(B) }
        );
        assert_eq!(arbiter.answer(VM, g, B, &won(B)), Answer::Won);
        // The chain goes on with the winner only.
        assert!(matches!(
            arbiter.next_generation(VM, A),
            Err(ArbiterError::NotOurs { .. })
        ));
        let g = arbiter.next_generation(VM, B).unwrap();
        assert_eq!(g, Generation(2));
        arbiter.begin(&members(2, B, &[B, C])).unwrap();
        assert_eq!(arbiter.answer(VM, g, B, &Decision::Ended), Answer::Won);
        assert_eq!(arbiter.answer(VM, g, C, &Decision::Ended), Answer::Won);
        assert_eq!(
            arbiter.standing(VM),
            Ok(Standing::Decided(g, Decision::Ended))
        );
        assert_eq!(arbiter.next_generation(VM, A), Ok(Generation(3)));
    }

    #[test]
    fn a_clean_end_frees_the_id() {
        let mut arbiter = Arbiter::new(MemoryStore::default());
        arbiter.end(VM, A).unwrap();
        assert_eq!(arbiter.standing(VM), Ok(Standing::Never));
        arbiter.begin(&members(1, A, &[A, B])).unwrap();
        assert_eq!(arbiter.answer(VM, Generation(1), A, &won(A)), Answer::Won);
        assert!(arbiter.end(VM, C).is_err());
        arbiter.end(VM, A).unwrap();
        assert_eq!(arbiter.next_generation(VM, C), Ok(Generation(3)));
    }

    #[test]
    fn an_abandoned_generation_is_ended_before_the_next() {
        let mut arbiter = Arbiter::new(MemoryStore::default());
        arbiter.begin(&members(1, A, &[A, B])).unwrap();
        assert_eq!(arbiter.next_generation(VM, A), Ok(Generation(2)));
        assert_eq!(
            arbiter.answer(VM, Generation(1), B, &won(B)),
            Answer::Lost { to: won(A) }
        );
    }

    #[test]
    fn doubt_is_no_answer() {
        let mut arbiter = Arbiter::new(MemoryStore::default());
        let g = Generation(1);
        // An empty place is not the arbiter.
        assert_eq!(arbiter.answer(VM, g, A, &won(A)), Answer::Unreachable);
        arbiter.begin(&members(1, A, &[A, B])).unwrap();
        assert_eq!(arbiter.answer(VM, g, C, &won(C)), Answer::Unreachable);
        arbiter.store_mut().set_reachable(false);
        assert_eq!(arbiter.answer(VM, g, A, &won(A)), Answer::Unreachable);
        arbiter.store_mut().set_reachable(true);
        let name = flag_name(VM, g);
        arbiter.store_mut().create(&name, "ft-flag").unwrap();
        assert_eq!(arbiter.answer(VM, g, A, &won(A)), Answer::Unreachable);
        assert!(matches!(
            arbiter.standing(VM),
            Err(ArbiterError::Damaged { .. })
        ));
    }
}
