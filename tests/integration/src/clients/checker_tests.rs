//! Good histories pass, and each kind of bad one is caught: small ones by hand, and many from a
//! store that is right, or wrong in one way, under clients that overlap and lose connections.

use super::*;
use crate::seed::Random;

fn operation(
    span: (u64, Option<u64>),
    reads: &[(Key, Option<Value>)],
    writes: &[(Key, Value)],
) -> Operation {
    Operation {
        client: 0,
        invoked: span.0,
        returned: span.1,
        reads: reads.iter().copied().collect(),
        writes: writes.iter().copied().collect(),
    }
}

fn write(from: u64, to: u64, value: Value) -> Operation {
    operation((from, Some(to)), &[], &[(1, value)])
}

fn read(from: u64, to: u64, value: Option<Value>) -> Operation {
    operation((from, Some(to)), &[(1, value)], &[])
}

fn is_no_order(history: &[Operation]) -> bool {
    matches!(check(history), Err(Violation::NoOrder { .. }))
}

#[test]
fn one_after_the_other() {
    let good = [
        read(0, 1, None),
        write(2, 3, 7),
        read(4, 5, Some(7)),
        write(6, 7, 8),
    ];
    assert_eq!(check(&good), Ok(()));
    assert_eq!(check(&[]), Ok(()));
}

#[test]
fn a_stale_read_is_caught() {
    assert!(is_no_order(&[
        write(0, 1, 7),
        write(2, 3, 8),
        read(4, 5, Some(7))
    ]));
    assert!(is_no_order(&[write(0, 1, 7), read(2, 3, None)]));
    // While the second write is open, either is right; but not the new one and then the old one.
    let during = |first, second| {
        [
            write(0, 1, 7),
            write(2, 9, 8),
            read(3, 4, Some(first)),
            read(5, 6, Some(second)),
        ]
    };
    assert_eq!(check(&during(7, 8)), Ok(()));
    assert!(is_no_order(&during(8, 7)));
}

#[test]
fn concurrent_writes_have_one_order_for_all() {
    let reads = |a, b| {
        [
            write(0, 9, 7),
            write(0, 9, 8),
            read(10, 11, Some(a)),
            read(12, 13, Some(b)),
        ]
    };
    assert_eq!(check(&reads(7, 7)), Ok(()));
    assert_eq!(check(&reads(8, 8)), Ok(()));
    assert!(is_no_order(&reads(7, 8)));
}

#[test]
fn a_write_without_an_answer_may_have_happened_or_not() {
    let unknown = operation((2, None), &[], &[(1, 8)]);
    let history = |reads: &[Operation]| {
        let mut history = vec![write(0, 1, 7), unknown.clone()];
        history.extend_from_slice(reads);
        history
    };
    let old = |from| read(from, from + 1, Some(7));
    let new = |from| read(from, from + 1, Some(8));
    assert_eq!(check(&history(&[old(10), old(20)])), Ok(()));
    assert_eq!(check(&history(&[new(10), new(20)])), Ok(()));
    // Much later is possible too.
    assert_eq!(check(&history(&[old(10), new(20)])), Ok(()));
    assert!(is_no_order(&history(&[new(10), old(20)])));
    // Not before it was asked for.
    let early = [
        write(0, 1, 7),
        read(2, 3, Some(8)),
        operation((4, None), &[], &[(1, 8)]),
    ];
    assert!(is_no_order(&early));
}

#[test]
fn values_must_come_from_somewhere_and_once() {
    let nowhere = check(&[read(0, 1, Some(5))]);
    assert!(matches!(
        nowhere,
        Err(Violation::NeverWritten { value: 5, .. })
    ));
    let elsewhere = [
        write(0, 1, 5),
        operation((2, Some(3)), &[(2, Some(5))], &[]),
    ];
    assert!(matches!(
        check(&elsewhere),
        Err(Violation::NeverWritten { key: 2, .. })
    ));
    let twice = check(&[write(0, 1, 5), write(2, 3, 5)]);
    assert_eq!(twice, Err(Violation::ValueTwice { value: 5 }));
    let back = check(&[write(2, 1, 5)]);
    assert!(matches!(back, Err(Violation::TimeRunsBack { .. })));
}

#[test]
fn transactions_are_whole() {
    let set = operation((0, Some(1)), &[], &[(1, 10), (2, 20)]);
    let swap = operation(
        (2, Some(9)),
        &[(1, Some(10)), (2, Some(20))],
        &[(1, 11), (2, 21)],
    );
    let seen = |a, b| operation((3, Some(4)), &[(1, Some(a)), (2, Some(b))], &[]);
    assert_eq!(check(&[set.clone(), swap.clone(), seen(10, 20)]), Ok(()));
    assert_eq!(check(&[set.clone(), swap.clone(), seen(11, 21)]), Ok(()));
    assert!(is_no_order(&[set.clone(), swap.clone(), seen(10, 21)]));
    assert!(is_no_order(&[set, swap, seen(11, 20)]));
    // Write skew: each read what the other wrote over.
    let skew = [
        operation((0, Some(9)), &[(1, None), (2, None)], &[(1, 1)]),
        operation((0, Some(9)), &[(1, None), (2, None)], &[(2, 2)]),
    ];
    assert!(is_no_order(&skew));
}

#[test]
fn too_many_orders_are_said_to_be_too_many() {
    // Forty concurrent writes of as many registers that one operation joins.
    let mut history: Vec<Operation> = (0..40)
        .map(|key| operation((0, Some(100)), &[], &[(key, u64::from(key) + 1)]))
        .collect();
    let all: Vec<(Key, Option<Value>)> =
        (0..40).map(|key| (key, Some(u64::from(key) + 1))).collect();
    history.push(operation((101, Some(102)), &all, &[]));
    let verdict = check_within(&history, 1000);
    assert!(matches!(verdict, Err(Violation::TooMany { .. })));
}

/// What is wrong with the store of a generated history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Some reads see the value before the last that was acknowledged.
    StaleRead,
    /// At a failover, the last acknowledged write is forgotten.
    LostWrite,
    /// Two acknowledged writes, one after the other, take effect the other way round.
    Reordered,
    /// A transaction's second write is missing.
    TornTransaction,
}

/// Clients at work on `keys` registers, one operation at a time each, with a store that takes
/// them in the order of moments between call and return. Connections get lost now and then.
/// Says also whether the flaw showed: whether somebody read what cannot have been there any more.
fn generated(random: &mut Random, flaw: Flaw, keys: u64, count: usize) -> (Vec<Operation>, bool) {
    const CLIENTS: u64 = 6;
    let mut free_at = [0; CLIENTS as usize];
    let mut planned = Vec::new();
    for value in 1..=count as u64 {
        let client = random.below(CLIENTS) as usize;
        let invoked = free_at[client] + 1 + random.below(20);
        let moment = invoked + random.below(30);
        let returned = moment + random.below(30);
        free_at[client] = returned;
        let is_lost = random.below(20) == 0;
        planned.push((moment, client, invoked, returned, is_lost, value));
    }
    planned.sort_unstable();
    let mut registers: BTreeMap<Key, Value> = BTreeMap::new();
    let mut before: BTreeMap<Key, Value> = BTreeMap::new();
    let mut history: Vec<Operation> = Vec::new();
    // Values that nobody may read who asks after that time.
    let mut gone: Vec<(Key, Option<Value>, u64)> = Vec::new();
    let mut showed = false;
    let middle = count / 2;
    for (nth, (_, client, invoked, returned, is_lost, value)) in planned.into_iter().enumerate() {
        let key = random.below(keys) as Key;
        let other = (key + 1) % keys as Key;
        let kind = random.below(4);
        let mut done = Operation {
            client: client as u32,
            invoked,
            returned: (!is_lost).then_some(returned),
            reads: BTreeMap::new(),
            writes: BTreeMap::new(),
        };
        let mut read = |key: Key, from: &BTreeMap<Key, Value>| {
            done.reads.insert(key, from.get(&key).copied());
        };
        // A swap shows which value it came after; a read only now and then.
        match kind {
            0 => {
                let is_stale = flaw == Flaw::StaleRead && nth > middle && before.contains_key(&key);
                if is_stale && !is_lost {
                    // What was before the last write: if that returned before this was asked.
                    let last = registers[&key];
                    let acknowledged = history.iter().any(|operation| {
                        operation.writes.get(&key) == Some(&last)
                            && operation.reads.get(&key) == Some(&before.get(&key).copied())
                            && operation.returned.is_some_and(|at| at < invoked)
                    });
                    showed |= acknowledged;
                    read(key, if acknowledged { &before } else { &registers });
                } else {
                    read(key, &registers);
                }
            }
            _ => {
                let both = keys > 1 && kind == 3;
                read(key, &registers);
                if both {
                    read(other, &registers);
                }
                let has_effect = !is_lost || random.below(2) == 0;
                done.writes.insert(key, 2 * value);
                if both {
                    done.writes.insert(other, 2 * value + 1);
                }
                if has_effect {
                    for (key, value) in &done.writes {
                        let is_torn = flaw == Flaw::TornTransaction && nth > middle && !is_lost;
                        if is_torn && both && *key == other {
                            gone.push((*key, registers.get(key).copied(), returned));
                            continue;
                        }
                        if let Some(old) = registers.insert(*key, *value) {
                            before.insert(*key, old);
                        }
                    }
                }
            }
        }
        if is_lost {
            done.reads.clear();
        }
        showed |= gone.iter().any(|(key, value, after)| {
            done.reads.get(key) == Some(value) && *after < invoked && !is_lost
        });
        let is_acknowledged = !done.writes.is_empty() && !is_lost;
        if is_acknowledged && nth > middle && gone.is_empty() {
            match flaw {
                Flaw::LostWrite => {
                    for (key, value) in &done.writes {
                        if let Some(old) = done.reads[key] {
                            assert_eq!(registers.insert(*key, old), Some(*value));
                            gone.push((*key, Some(old), returned));
                        }
                    }
                }
                Flaw::Reordered => {
                    // The other took effect before: what it wrote over comes back as the newest.
                    let earlier = history.iter().rev().find(|earlier| {
                        done.writes
                            .keys()
                            .all(|key| earlier.writes.contains_key(key))
                            && earlier.returned.is_some_and(|at| at < invoked)
                    });
                    if let Some(earlier) = earlier {
                        for key in done.writes.keys() {
                            registers.insert(*key, earlier.writes[key]);
                            gone.push((*key, Some(earlier.writes[key]), returned));
                        }
                    }
                }
                _ => {}
            }
        }
        history.push(done);
    }
    // At the end, everything is read once more.
    let end = free_at.iter().max().copied().unwrap_or(0) + 1000;
    for key in 0..keys as Key {
        let value = registers.get(&key).copied();
        showed |= gone.iter().any(|(k, v, _)| (*k, *v) == (key, value));
        history.push(Operation {
            client: 99,
            invoked: end,
            returned: Some(end + 1),
            reads: BTreeMap::from([(key, value)]),
            writes: BTreeMap::new(),
        });
    }
    (history, showed)
}

#[test]
fn what_a_right_store_answers_is_linearizable() {
    for seed in 0..200 {
        let keys = 1 + seed % 4;
        let (history, _) = generated(&mut Random::new(seed), Flaw::None, keys, 300);
        assert_eq!(check(&history), Ok(()), "seed {seed}");
    }
}

#[test]
fn each_flaw_of_a_store_is_caught() {
    for flaw in [
        Flaw::StaleRead,
        Flaw::LostWrite,
        Flaw::Reordered,
        Flaw::TornTransaction,
    ] {
        let mut shown = 0;
        for seed in 0..100 {
            let keys = 2 + seed % 3;
            let (history, showed) = generated(&mut Random::new(seed), flaw, keys, 300);
            let verdict = check(&history);
            shown += usize::from(showed);
            // What is wrong and was not seen by anybody need not be found.
            if showed {
                assert!(
                    matches!(verdict, Err(Violation::NoOrder { .. })),
                    "seed {seed}, {flaw:?}: {verdict:?}"
                );
            }
        }
        assert!(shown > 30, "{flaw:?} showed {shown} times");
    }
}
