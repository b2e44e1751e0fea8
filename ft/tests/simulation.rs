//! The simulator as a test: no violation without a bug, and one with each.

#[path = "../sim/mod.rs"]
mod sim;

/// Seeds of the ordinary run; `cargo run -p ft --example simulate` takes any others.
const RUNS: u64 = 200;

#[test]
fn the_protocol_holds_through_faults() {
    let mut failovers = 0;
    let mut stalls = 0;
    let mut repeated = 0;
    for seed in 0..RUNS {
        match sim::run(seed, None) {
            Ok(report) => {
                repeated += report.bytes_repeated;
                failovers += report.failovers;
                stalls += report.stalls;
                assert!(report.bytes_seen > 0, "seed {seed}");
            }
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(failovers > RUNS / 4, "only {failovers} failovers");
    assert!(stalls > RUNS / 4, "only {stalls} stalls");
    assert!(repeated > 0, "no repeats at all: too tame");
}

#[test]
fn one_seed_gives_one_run() {
    let once = format!("{:?}", sim::run(11, None));
    assert_eq!(once, format!("{:?}", sim::run(11, None)));
}

#[test]
fn every_bug_is_found() {
    for bug in sim::BUGS {
        let found = (0..400).find_map(|seed| sim::run(seed, Some(bug)).err());
        let Some(violation) = found else {
            panic!("{bug:?} was not noticed");
        };
        println!("{bug:?}: {violation}");
    }
}
