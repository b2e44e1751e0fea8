//! The machine is a function of its inputs: how it is run, what its caches hold and where it was
//! saved never shows, and every bit of it is in the digest.

mod tiny;

use machine::{Digest, Input, Machine, Output, Position};
use tiny::Random;

/// Steps between digests.
const GRAIN: u64 = 4_096;
/// Where a run ends; the guest goes on longer.
const LAST: u64 = 48 * GRAIN;

/// Inputs at positions, as a log would hold them.
fn inputs() -> Vec<(u64, Input)> {
    vec![
        (5_000, Input::SerialInput(b"x".to_vec())),
        (
            20_000,
            Input::Anchor {
                virtual_time: 90_000,
                rate: machine::RATE_ONE,
            },
        ),
        (20_000, Input::SerialInput(b"hello".to_vec())),
        (31_111, Input::ConsoleEmitted { through: 3 }),
        (31_111, Input::PowerButton),
        (
            60_000,
            Input::Anchor {
                virtual_time: 0,
                rate: machine::RATE_ONE / 3,
            },
        ),
    ]
}

/// Plays the inputs on a machine and gives a digest at each multiple of `grain`, calling `at_each`
/// with the machine wherever `stops` says.
fn play(
    mut machine: Machine,
    grain: u64,
    last: u64,
    mut next_stop: impl FnMut(u64) -> u64,
    mut at_stop: impl FnMut(Machine) -> Machine,
) -> (Vec<Digest>, Vec<u8>) {
    let mut digests = Vec::new();
    let mut console = Vec::new();
    let mut log = inputs().into_iter().peekable();
    let mut stop = next_stop(0);
    loop {
        let here = machine.position().0;
        while log.peek().is_some_and(|(position, _)| *position == here) {
            machine.apply(&log.next().expect("peeked").1);
        }
        for output in machine.take_outputs() {
            if let Output::Console { bytes, .. } = output {
                console.extend(bytes);
            }
        }
        if here.is_multiple_of(grain) && here > 0 {
            digests.push(machine.digest());
        }
        if here >= last {
            return (digests, console);
        }
        if here == stop {
            machine = at_stop(machine);
            stop = next_stop(here);
        }
        let to_grain = here - here % grain + grain;
        let to_input = log.peek().map_or(u64::MAX, |(position, _)| *position);
        if !tiny::run_to(
            &mut machine,
            Position(to_grain.min(to_input).min(stop).min(last)),
        ) {
            return (digests, console);
        }
    }
}

fn plain() -> (Vec<Digest>, Vec<u8>) {
    play(
        tiny::machine(&tiny::ticking(1000)),
        GRAIN,
        LAST,
        |_| u64::MAX,
        |machine| machine,
    )
}

/// Compares two runs; names the first difference only.
fn same(run: &(Vec<Digest>, Vec<u8>), expected: &(Vec<Digest>, Vec<u8>)) {
    assert_eq!(run.0.len(), expected.0.len());
    for (index, (a, b)) in run.0.iter().zip(&expected.0).enumerate() {
        let position = (index as u64 + 1) * GRAIN;
        assert!(
            a == b,
            "at {position} the runs differ in {:?}",
            a.differences(b)
        );
    }
    assert_eq!(
        String::from_utf8_lossy(&run.1),
        String::from_utf8_lossy(&expected.1)
    );
}

#[test]
fn the_guest_does_something() {
    let (digests, console) = plain();
    assert!(digests.len() > 20, "{} digests", digests.len());
    assert!(console.len() > 20, "{}", String::from_utf8_lossy(&console));
    let text = String::from_utf8_lossy(&console).into_owned();
    assert!(text.contains('x') && text.contains('h'), "{text}");
}

#[test]
fn how_a_run_is_cut_does_not_show() {
    let expected = plain();
    let mut random = Random(11);
    let cut = play(
        tiny::machine(&tiny::ticking(1000)),
        GRAIN,
        LAST,
        |here| here + 1 + random.below(97),
        |machine| machine,
    );
    same(&cut, &expected);
}

#[test]
fn flushed_caches_do_not_show() {
    let expected = plain();
    let mut random = Random(12);
    let flushed = play(
        tiny::machine(&tiny::ticking(1000)),
        GRAIN,
        LAST,
        |here| here + 1 + random.below(500),
        |mut machine| {
            machine.flush_caches();
            machine
        },
    );
    same(&flushed, &expected);
}

/// Saves, and restores into RAM copied page by page.
fn move_house(machine: Machine) -> Machine {
    let state = machine.save();
    let bytes = state.encode();
    let decoded = machine::MachineState::decode(&bytes).expect("what was encoded decodes");
    assert_eq!(decoded, state);
    let old = machine.ram();
    let mut ram = machine::GuestRam::new(old.size()).expect("RAM can be mapped");
    for index in 0..old.pages() {
        let page = old.page(index);
        if page.iter().any(|&byte| byte != 0) {
            ram.write(old.page_address(index), page)
                .expect("the same pages are there");
        }
    }
    Machine::restore(decoded, ram, tiny::INTERPRETER).expect("what was saved restores")
}

#[test]
fn saving_and_restoring_does_not_show() {
    let expected = plain();
    let mut random = Random(13);
    let moved = play(
        tiny::machine(&tiny::ticking(1000)),
        GRAIN,
        LAST,
        |here| here + 1 + random.below(20_000),
        move_house,
    );
    same(&moved, &expected);
}

#[test]
fn a_digest_is_of_the_position_where_it_was_begun_whoever_hashes() {
    let start = || {
        let mut machine = tiny::machine(&tiny::ticking(1000));
        tiny::run_to(&mut machine, Position(GRAIN));
        machine
    };
    let (mut at_once, mut later) = (start(), start());
    for step in 1..20 {
        let job = later.begin_digest();
        let worker = (step % 3 == 0).then(|| {
            let hashing = job.hashing();
            std::thread::spawn(move || hashing.finish())
        });
        let expected = at_once.digest();
        for machine in [&mut at_once, &mut later] {
            tiny::run_to(machine, Position(GRAIN + step * 5_000));
        }
        if step % 2 == 0 {
            // What is hashed ahead is in no digest.
            later.hash_ahead();
        }
        assert_eq!(job.finish().differences(&expected), [""; 0], "{step}");
        if let Some(worker) = worker {
            worker.join().expect("it does not panic");
        }
    }
    assert_eq!(at_once.clone_digest(), later.clone_digest());
    // It is nothing that a log must tell.
    let mut untold = start();
    untold.clone_digest();
    assert_eq!(untold.digest(), start().digest());
}

#[test]
fn a_byte_of_ram_is_in_the_digest() {
    let mut machine = tiny::machine(&tiny::ticking(10));
    tiny::run_to(&mut machine, Position(1000));
    let machine_again = move_house(machine);
    let state = machine_again.save();
    let mut ram = machine::GuestRam::new(state.memory_size).expect("RAM can be mapped");
    for index in 0..ram.pages() {
        let (address, page) = (ram.page_address(index), *machine_again.ram().page(index));
        ram.write(address, &page).expect("the same pages are there");
    }
    ram.write(0x1ff_fff1, &[1]).expect("it is RAM");
    let mut changed = Machine::restore(state, ram, tiny::INTERPRETER).expect("it restores");
    let mut machine = machine_again;
    assert_eq!(machine.digest().differences(&changed.digest()), ["memory"]);
}

/// Every leaf of a JSON value, changed one at a time.
fn mutations(value: &serde_json::Value) -> Vec<(String, serde_json::Value)> {
    use serde_json::Value;
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, inner)| {
                mutations(inner).into_iter().map(move |(path, changed)| {
                    let mut whole = map.clone();
                    whole.insert(key.clone(), changed);
                    (format!("{key}.{path}"), Value::Object(whole))
                })
            })
            .collect(),
        // Of a long array, ends and middle will do.
        Value::Array(items) => {
            let picks = [0, items.len() / 2, items.len().saturating_sub(1)];
            let mut seen = std::collections::BTreeSet::new();
            picks
                .into_iter()
                .filter(|&index| index < items.len() && seen.insert(index))
                .flat_map(|index| {
                    mutations(&items[index])
                        .into_iter()
                        .map(move |(path, changed)| {
                            let mut whole = items.clone();
                            whole[index] = changed;
                            (format!("{index}.{path}"), Value::Array(whole))
                        })
                })
                .collect()
        }
        Value::Bool(flag) => vec![(String::new(), Value::Bool(!flag))],
        Value::Number(number) => {
            let changed = match number.as_u64() {
                Some(0) => Value::from(1),
                Some(n) => Value::from(n - 1),
                None => Value::from(number.as_i64().map_or(0, |n| n.wrapping_add(1))),
            };
            vec![(String::new(), changed)]
        }
        Value::String(text) => vec![(String::new(), Value::String(format!("{text}x")))],
        Value::Null => Vec::new(),
    }
}

#[test]
fn every_state_field_is_in_the_digest() {
    let mut machine = tiny::machine(&tiny::ticking(10));
    tiny::run_to(&mut machine, Position(2000));
    let state = machine.save();
    let value = serde_json::to_value(&state).expect("plain data becomes JSON");
    let expected = machine::digest_of_state(&state);
    let mut seen = 0;
    for (path, changed) in mutations(&value) {
        // What is no value of its type any more is no flip that could happen.
        let Ok(flipped) = serde_json::from_value::<machine::MachineState>(changed) else {
            continue;
        };
        if flipped == state {
            continue;
        }
        let differences = expected.differences(&machine::digest_of_state(&flipped));
        assert!(!differences.is_empty(), "{path} is not in the digest");
        let component = path.split('.').next().expect("a path has a first part");
        let named = differences.contains(&component)
            || (differences.contains(&"machine") && !machine::COMPONENTS.contains(&component));
        assert!(named, "{path} changed {differences:?}");
        seen += 1;
    }
    assert!(seen > 150, "only {seen} fields were flipped");
}
