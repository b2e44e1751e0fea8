//! Why something happened, for people.
//!
//! Does: turn errors and the roles' reasons into texts, the outermost first. Does not: decide.
//!
//! Invariant: what a peer sent is shown as data, cut to a length.

use std::error::Error;

use ft::backup::{self, EndedReason, HaltReason};
use ft::channel::{GoodbyeReason, Mismatch};
use ft::flag::Decision;
use ft::primary;

use crate::config::Lease;

/// An error and its causes.
pub fn chain(error: &dyn Error) -> Vec<String> {
    let mut messages = vec![error.to_string()];
    let mut next = error.source();
    while let Some(error) = next {
        messages.push(error.to_string());
        next = error.source();
    }
    messages
}

fn after(text: &str, error: &dyn Error) -> Vec<String> {
    let mut messages = vec![text.to_owned()];
    messages.extend(chain(error));
    messages
}

fn one(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

/// A difference between two machines.
pub fn of_mismatch(mismatch: &Mismatch) -> String {
    format!(
        "component {} differs at position {}: {:#018x} on the primary, {:#018x} on the backup",
        mismatch.component, mismatch.position, mismatch.expected, mismatch.found
    )
}

fn of_goodbye(who: &str, reason: GoodbyeReason, text: &str) -> Vec<String> {
    let what = match reason {
        GoodbyeReason::Disabled => "says that protection is off",
        GoodbyeReason::PowerOff => "says that the VM is off",
        GoodbyeReason::Shutdown => "is shutting down",
        GoodbyeReason::Refused => "refused",
    };
    let mut messages = vec![format!("the {who} {what}")];
    if !text.is_empty() {
        messages.push(text.to_owned());
    }
    messages
}

/// Why a primary has no backup.
pub fn of_primary_loss(reason: &primary::LossReason) -> Vec<String> {
    use primary::LossReason;
    match reason {
        LossReason::Disconnected => one("the connection to the backup ended"),
        LossReason::Silent => one("the backup was silent for too long"),
        LossReason::Failed(error) => after("the backup did something wrong", error),
        LossReason::Left(reason, text) => of_goodbye("backup", *reason, text),
        LossReason::Diverged(mismatch) => {
            vec!["the backup diverged".to_owned(), of_mismatch(mismatch)]
        }
        LossReason::NotBegun(text) => {
            let begun = "the generation could not be begun in the arbiter";
            vec![begun.to_owned(), text.clone()]
        }
        LossReason::Disabled => one("protection was switched off"),
        LossReason::NotTakenOver => one("the backup was handed the VM and did not take over"),
    }
}

/// Why a backup has no primary.
pub fn of_backup_loss(reason: &backup::LossReason) -> Vec<String> {
    use backup::LossReason;
    match reason {
        LossReason::Disconnected => one("the connection to the primary ended"),
        LossReason::Silent => one("the primary was silent for too long"),
        LossReason::Failed(error) => after("the primary did something wrong", error),
        LossReason::Left(reason, text) => of_goodbye("primary", *reason, text),
    }
}

/// Why a backup is of no use.
pub fn of_halt(reason: &HaltReason) -> Vec<String> {
    match reason {
        HaltReason::Incomplete(reason) => {
            let mut messages = one("the primary was lost before the clone was complete");
            messages.extend(of_backup_loss(reason));
            messages
        }
        HaltReason::Refused(text) => vec!["the clone was refused".to_owned(), text.clone()],
        HaltReason::Diverged(mismatch) => {
            vec!["the machines differ".to_owned(), of_mismatch(mismatch)]
        }
        HaltReason::Lost(decision) => of_decision(decision),
    }
}

/// Why a side does not speak for the VM any more.
pub fn of_decision(decision: &Decision) -> Vec<String> {
    vec![
        "another side speaks for the VM".to_owned(),
        format!("the flag of this generation was {decision}"),
    ]
}

/// Why nothing is decided yet.
pub fn of_silence(arbiter: &Lease) -> String {
    format!(
        "the arbiter {arbiter} does not answer, and is asked again and again; until it does, nobody goes on"
    )
}

/// Why there is nothing to follow any more.
pub fn of_end(reason: EndedReason) -> Vec<String> {
    match reason {
        EndedReason::PowerOff => one("the VM was powered off"),
        EndedReason::Disabled => one("the primary switched protection off"),
        EndedReason::EndOfLog(_) => one("the primary's log ended"),
        EndedReason::Left => one("this backup was shut down"),
    }
}
