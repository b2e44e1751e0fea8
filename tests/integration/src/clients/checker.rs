//! Is a history of registers linearizable?
//!
//! It is if each operation can be given one moment between its invocation and its return, such
//! that done one after the other in that order they read what they did read (Herlihy and Wing,
//! 1990). Operations on several registers are transactions, and for them this is strict
//! serializability.
//!
//! Does: walk through the history in the order of time, with all the ways in which the operations
//! so far can have been ordered. At each return, the operation must have had its moment: every way
//! is continued by each sequence of open operations that ends with it (as Lowe's "just-in-time
//! linearization" does). Registers that no operation joins are judged by themselves.
//!
//! Does not: guess about operations that never returned. No two operations write the same value,
//! so that one can see which of them had an effect: one whose values nobody read can be left out
//! (no operation then stands between it and the next write of those registers, or it would have
//! read them), and one whose values were read had its moment before the first of those that read
//! them returned.
//!
//! Invariant: a way that is given up can be continued by nothing that the history allows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::history::{Key, Operation, Value};

/// Ways of ordering at one moment, beyond which the check gives up. Some eight clients need
/// hundreds.
const MOST_WAYS: usize = 100_000;

/// Why a history is refused. Operations are given as their lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two operations write this value, or one writes and reads it.
    ValueTwice {
        /// The value.
        value: Value,
    },
    /// An operation returned before it was invoked.
    TimeRunsBack {
        /// The operation.
        operation: String,
    },
    /// Somebody read a value that nobody wrote.
    NeverWritten {
        /// Who read it.
        reader: String,
        /// The register.
        key: Key,
        /// What was read.
        value: Value,
    },
    /// However the operations so far are ordered, this one cannot have read what it read.
    NoOrder {
        /// The operation that returned.
        operation: String,
        /// The operations that were open at its return or in between.
        open: Vec<String>,
        /// What its registers may have held, in one of the orders.
        registers: BTreeMap<Key, Option<Value>>,
    },
    /// There are too many orders to be looked at.
    TooMany {
        /// The operation at whose return that was so.
        operation: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::ValueTwice { value } => {
                write!(f, "the value {value} is written more than once")
            }
            Violation::TimeRunsBack { operation } => {
                write!(f, "it returned before it was invoked: {operation}")
            }
            Violation::NeverWritten { reader, key, value } => {
                write!(
                    f,
                    "nobody wrote {value} to {key}, but it was read: {reader}"
                )
            }
            Violation::NoOrder {
                operation,
                open,
                registers,
            } => {
                writeln!(f, "no order explains this operation: {operation}")?;
                writeln!(f, "before it, its registers held in one of the orders:")?;
                for (key, value) in registers {
                    writeln!(f, "  {key}={value:?}")?;
                }
                write!(f, "open at its return:")?;
                for operation in open {
                    write!(f, "\n  {operation}")?;
                }
                Ok(())
            }
            Violation::TooMany { operation } => {
                write!(
                    f,
                    "too many orders are possible at the return of: {operation}"
                )
            }
        }
    }
}

impl std::error::Error for Violation {}

/// Whether `history`, in any order of its operations, is linearizable.
///
/// # Errors
/// The first violation that is found.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    check_within(history, MOST_WAYS)
}

fn check_within(history: &[Operation], most_ways: usize) -> Result<(), Violation> {
    let definite = with_returns(history)?;
    for part in parts(&definite) {
        check_part(&part, most_ways)?;
    }
    Ok(())
}

/// An operation that took effect, with the last moment at which it can have done so.
#[derive(Clone, Copy)]
struct Definite<'a> {
    operation: &'a Operation,
    returned: u64,
}

/// Leaves out what had no effect that anybody saw, and gives a return to what never had one.
fn with_returns(history: &[Operation]) -> Result<Vec<Definite<'_>>, Violation> {
    let mut writers = BTreeMap::new();
    for operation in history {
        if operation.returned.is_some_and(|at| at < operation.invoked) {
            let operation = operation.to_string();
            return Err(Violation::TimeRunsBack { operation });
        }
        for (key, value) in &operation.writes {
            let twice = writers.insert(*value, (*key, operation)).is_some();
            if twice || operation.reads.values().any(|read| *read == Some(*value)) {
                return Err(Violation::ValueTwice { value: *value });
            }
        }
    }
    // For each value, the first return of an operation that read it.
    let mut seen = BTreeMap::new();
    for operation in history {
        let Some(returned) = operation.returned else {
            continue;
        };
        for (key, value) in &operation.reads {
            let Some(value) = value else { continue };
            if writers.get(value).is_none_or(|(written, _)| written != key) {
                return Err(Violation::NeverWritten {
                    reader: operation.to_string(),
                    key: *key,
                    value: *value,
                });
            }
            let first = seen.entry(*value).or_insert(returned);
            *first = returned.min(*first);
        }
    }
    let definite = history.iter().filter_map(|operation| {
        let first_seen = || {
            let writes = operation.writes.values();
            writes.filter_map(|value| seen.get(value)).min().copied()
        };
        // A value that was read before it was written stays a violation: its writer's interval
        // must not be empty, or it would never be open.
        let returned = operation.returned.or_else(first_seen)?;
        Some(Definite {
            operation,
            returned: returned.max(operation.invoked),
        })
    });
    Ok(definite.collect())
}

/// Operations that no register joins, apart.
fn parts<'a>(operations: &[Definite<'a>]) -> Vec<Vec<Definite<'a>>> {
    // Each key points to another of its part, or to itself.
    let mut leaders: BTreeMap<Key, Key> = BTreeMap::new();
    fn leader(leaders: &mut BTreeMap<Key, Key>, key: Key) -> Key {
        let mut at = key;
        loop {
            let next = *leaders.entry(at).or_insert(at);
            if next == at {
                leaders.insert(key, at);
                return at;
            }
            at = next;
        }
    }
    for definite in operations {
        let mut keys = definite.operation.keys();
        if let Some(first) = keys.next() {
            let first = leader(&mut leaders, first);
            for key in keys {
                let other = leader(&mut leaders, key);
                leaders.insert(other, first);
            }
        }
    }
    let mut parts: BTreeMap<Key, Vec<Definite<'a>>> = BTreeMap::new();
    for definite in operations {
        if let Some(key) = definite.operation.keys().next() {
            let part = leader(&mut leaders, key);
            parts.entry(part).or_default().push(*definite);
        }
    }
    parts.into_values().collect()
}

/// One way in which the operations so far can have been ordered, as far as it matters: what the
/// registers hold, and which of the open operations have had their moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    registers: BTreeMap<Key, Value>,
    done: BTreeSet<usize>,
}

impl Way {
    /// The way after operation `index` has its moment, if it read what the registers hold.
    fn then(&self, index: usize, operation: &Definite<'_>) -> Option<Way> {
        // What an operation read that never returned is not known, and nothing is recorded.
        let mut reads = operation.operation.reads.iter();
        if reads.any(|(key, value)| self.registers.get(key) != value.as_ref()) {
            return None;
        }
        let mut next = self.clone();
        next.registers.extend(&operation.operation.writes);
        next.done.insert(index);
        Some(next)
    }
}

fn check_part(operations: &[Definite<'_>], most_ways: usize) -> Result<(), Violation> {
    // At the same nanosecond, what is invoked overlaps with what returns: calls come first.
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (index, definite) in operations.iter().enumerate() {
        events.push((definite.operation.invoked, false, index));
        events.push((definite.returned, true, index));
    }
    events.sort_unstable();

    let mut open = BTreeSet::new();
    let mut ways = BTreeSet::from([Way {
        registers: BTreeMap::new(),
        done: BTreeSet::new(),
    }]);
    for (_, is_return, index) in events {
        if !is_return {
            open.insert(index);
            continue;
        }
        let explain = ways.first().cloned();
        let Some(next) = continued(ways, index, &open, operations, most_ways) else {
            let operation = operations[index].operation.to_string();
            return Err(Violation::TooMany { operation });
        };
        if next.is_empty() {
            let operation = operations[index].operation;
            let held = |key| explain.as_ref()?.registers.get(&key).copied();
            let registers = operation.keys().map(|key| (key, held(key))).collect();
            let others = open.iter().filter(|other| **other != index);
            return Err(Violation::NoOrder {
                registers,
                open: others
                    .map(|i| operations[*i].operation.to_string())
                    .collect(),
                operation: operation.to_string(),
            });
        }
        open.remove(&index);
        // It has had its moment in all of them and is open no more.
        let closed = next.into_iter().map(|mut way| {
            way.done.remove(&index);
            way
        });
        ways = closed.collect();
    }
    Ok(())
}

/// All ways in which operation `last` has had its moment, after each sequence of open operations.
/// None if they are too many.
fn continued(
    ways: BTreeSet<Way>,
    last: usize,
    open: &BTreeSet<usize>,
    operations: &[Definite<'_>],
    most_ways: usize,
) -> Option<BTreeSet<Way>> {
    let (mut complete, mut known): (BTreeSet<Way>, BTreeSet<Way>) =
        ways.into_iter().partition(|way| way.done.contains(&last));
    let mut queue: Vec<Way> = known.iter().cloned().collect();
    while let Some(way) = queue.pop() {
        for index in open.difference(&way.done) {
            let Some(next) = way.then(*index, &operations[*index]) else {
                continue;
            };
            if *index == last {
                complete.insert(next);
            } else if known.insert(next.clone()) {
                queue.push(next);
            }
        }
        if known.len() + complete.len() > most_ways {
            return None;
        }
    }
    Some(complete)
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
