//! Whether this process may start a VM, and the operator's word that it may.
//!
//! Does: follow the chain of generations in a VM's arbiter before a cold boot, and end the chain on
//! an operator's order. Does not: take part in a pairing; `ft`'s roles do.
//!
//! Invariant: a VM that was in a generation is not started here unless that chain has ended. A
//! restarted process has lost its incarnation, so it is nobody's member any more, even if it was
//! one in its last life (paper §2.3). An arbiter that does not answer allows nothing.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ft::arbiter::{Arbiter, ArbiterError, Standing};
use ft::flag::{Decision, Members};
use ft::identity::{Generation, Incarnation};
use thiserror::Error;

use crate::config::{Lease, VmId};
use crate::host::file_arbiter::FileStore;
use crate::host::random;

/// How long an operator's question waits for the arbiter.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a VM may not be started here.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// Somebody else may be running it.
    #[error(
        "the arbiter {lease} says that generation {generation} of VM {vm} {state}: another host \
         may be running it; if none is, say so with: ch-remote ft-override --id {vm} --lease {lease}"
    )]
    Elsewhere {
        /// The VM.
        vm: VmId,
        /// Its arbiter.
        lease: Lease,
        /// The last generation.
        generation: Generation,
        /// What is known of it.
        state: String,
    },
    /// Nobody knows.
    #[error("the arbiter {lease} does not answer; VM {vm} is not started")]
    Unreachable {
        /// The VM.
        vm: VmId,
        /// Its arbiter.
        lease: Lease,
        /// Why there is no answer, if it came to that.
        source: Option<ArbiterError>,
    },
    /// The host could not help.
    #[error("cannot ask the arbiter")]
    Host(#[from] std::io::Error),
}

/// Asks whether VM `vm` may be booted here from nothing.
pub fn may_boot(vm: VmId, lease: &Lease) -> Result<(), AuthorityError> {
    let (generation, state) = match ask(vm, lease, move |arbiter| arbiter.standing(ft_id(vm)))? {
        Standing::Never | Standing::Decided(_, Decision::Ended) => return Ok(()),
        Standing::Open(members) => (members.generation, "is still open".to_owned()),
        Standing::Decided(generation, decision) => (generation, format!("was {decision}")),
    };
    Err(AuthorityError::Elsewhere {
        vm,
        lease: lease.clone(),
        generation,
        state,
    })
}

/// Ends the chain of VM `vm`: an operator says that no other host runs it.
pub fn end_chain(vm: VmId, lease: &Lease) -> Result<(), AuthorityError> {
    let operator = Incarnation(random::bytes()?);
    log::warn!("an operator ends the chain of VM {vm} in {lease}");
    ask(vm, lease, move |arbiter| {
        // Whoever still is a member may decide a generation meanwhile; the next round ends that.
        loop {
            let (generation, asks) = match arbiter.standing(ft_id(vm))? {
                Standing::Never | Standing::Decided(_, Decision::Ended) => return Ok(()),
                Standing::Open(members) => (members.generation, members.by),
                Standing::Decided(generation, _) => {
                    let generation = generation.next();
                    arbiter.begin(&Members {
                        vm: ft_id(vm),
                        generation,
                        by: operator,
                        members: vec![operator],
                    })?;
                    (generation, operator)
                }
            };
            arbiter.decide(ft_id(vm), generation, asks, &Decision::Ended)?;
        }
    })
}

/// The same id, as `ft` has it.
fn ft_id(vm: VmId) -> ft::identity::VmId {
    ft::identity::VmId(vm.0)
}

/// Does `work` on a thread of its own, which may hang on a dead mount, and waits a while for it.
fn ask<T: Send + 'static>(
    vm: VmId,
    lease: &Lease,
    work: impl FnOnce(&mut Arbiter<FileStore>) -> Result<T, ArbiterError> + Send + 'static,
) -> Result<T, AuthorityError> {
    let (sender, receiver) = mpsc::channel();
    let store = FileStore::new(lease);
    thread::Builder::new()
        .name("arbiter".to_owned())
        .spawn(move || {
            // If nobody waits any more, nobody needs the answer.
            let _ = sender.send(work(&mut Arbiter::new(store)));
        })?;
    let unreachable = |source| AuthorityError::Unreachable {
        vm,
        lease: lease.clone(),
        source,
    };
    match receiver.recv_timeout(PATIENCE) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(unreachable(Some(error))),
        Err(_) => Err(unreachable(None)),
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    const VM: VmId = VmId([9; 16]);
    const A: Incarnation = Incarnation([1; 16]);
    const B: Incarnation = Incarnation([2; 16]);

    fn pair(generation: u64) -> Members {
        let generation = Generation(generation);
        Members {
            vm: ft_id(VM),
            generation,
            by: A,
            members: vec![A, B],
        }
    }

    #[test]
    fn a_vm_that_was_paired_is_not_started_behind_its_members_backs() {
        let directory = TempDir::new().unwrap();
        let lease = Lease::File(directory.as_path().join("lease"));
        let mut arbiter = Arbiter::new(FileStore::new(&lease));
        may_boot(VM, &lease).unwrap();
        arbiter.begin(&pair(1)).unwrap();
        let error = may_boot(VM, &lease).unwrap_err();
        assert!(error.to_string().contains("is still open"), "{error}");
        let won = Decision::Won { by: B };
        assert_eq!(
            arbiter.decide(ft_id(VM), Generation(1), B, &won).unwrap(),
            won
        );
        let error = may_boot(VM, &lease).unwrap_err();
        assert!(error.to_string().contains("ft-override"), "{error}");
        end_chain(VM, &lease).unwrap();
        may_boot(VM, &lease).unwrap();
        // Whoever had won does not speak for the VM any more.
        let standing = arbiter.standing(ft_id(VM)).unwrap();
        assert_eq!(standing, Standing::Decided(Generation(2), Decision::Ended));
        end_chain(VM, &lease).unwrap();
    }

    #[test]
    fn an_open_generation_is_ended() {
        let directory = TempDir::new().unwrap();
        let lease = Lease::File(directory.as_path().join("lease"));
        let mut arbiter = Arbiter::new(FileStore::new(&lease));
        arbiter.begin(&pair(1)).unwrap();
        end_chain(VM, &lease).unwrap();
        may_boot(VM, &lease).unwrap();
        let won = Decision::Won { by: B };
        let standing = arbiter.decide(ft_id(VM), Generation(1), B, &won).unwrap();
        assert_eq!(standing, Decision::Ended);
    }

    #[test]
    fn no_answer_is_no_permission() {
        let lease = Lease::File("/dev/null/lease".into());
        let error = may_boot(VM, &lease).unwrap_err();
        assert!(
            matches!(error, AuthorityError::Unreachable { .. }),
            "{error}"
        );
    }
}
