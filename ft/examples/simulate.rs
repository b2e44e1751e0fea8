//! Runs the simulator for as long as one likes:
//! `cargo run --release -p ft --example simulate -- --seed 1 --runs 100000`.

#[path = "../sim/mod.rs"]
mod sim;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut seed = 0;
    let mut runs = 1000;
    let mut bug = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_default();
        let number = value.parse::<u64>();
        match (arg.as_str(), number) {
            ("--seed", Ok(number)) => seed = number,
            ("--runs", Ok(number)) => runs = number,
            ("--bug", _) => bug = sim::BUGS.into_iter().find(|b| format!("{b:?}") == value),
            _ => {
                eprintln!("usage: simulate [--seed N] [--runs M] [--bug NAME]");
                return ExitCode::from(2);
            }
        }
    }
    let mut total = sim::Report::default();
    for seed in seed..seed.saturating_add(runs) {
        match sim::run(seed, bug) {
            Ok(report) => {
                total.faults += report.faults;
                total.failovers += report.failovers;
                total.handed_over += report.handed_over;
                total.carried_on += report.carried_on;
                total.stalls += report.stalls;
                total.bytes_seen += report.bytes_seen;
                total.bytes_repeated += report.bytes_repeated;
            }
            Err(violation) => {
                println!("{violation}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{runs} runs from seed {seed}: {total:?}");
    ExitCode::SUCCESS
}
