//! Judges whether consoles, one after the other, showed one undisturbed run of `count`.
//!
//!     verify-lines COUNT LINES ROUNDS MIB LOG...
//!
//! COUNT is the program itself, which is run here to know what the lines must be. Each LOG is a
//! file of `console-log`, in the order in which the hosts ran the guest.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use integration::count::Count;
use integration::failure::{Failure, Outcome, While};
use integration::stitch::{History, Piece};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match judge(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("not proven: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// A console's bytes, and when they came: offsets and nanoseconds.
struct Log {
    name: String,
    bytes: Vec<u8>,
    times: Vec<(usize, u64)>,
}

fn judge(arguments: &[String]) -> Outcome<()> {
    let [program, lines, rounds, mib, logs @ ..] = arguments else {
        return Err(Failure::new(
            "usage: verify-lines COUNT LINES ROUNDS MIB LOG...",
        ));
    };
    let number = |text: &String| text.parse::<u64>().during(format_args!("{text:?}"));
    let lines = number(lines)?;
    let count = Count {
        rounds: number(rounds)?,
        pause_ms: 0,
        mib: number(mib)?,
    };
    let mut history = History::new(count.expected(Path::new(program), lines, true)?, true);
    let mut before: Option<(Log, Piece)> = None;
    for path in logs {
        let log = read(path)?;
        let shown_before = history.shown();
        let piece = history.add(&log.bytes).during(&log.name)?;
        println!(
            "{}: bytes {} to {} of an undisturbed run, {} of them shown before",
            log.name, piece.from, piece.to, piece.repeated
        );
        if let Some((earlier, _)) = &before {
            let new = piece.before + (shown_before - piece.from);
            let last = earlier.times.last().map(|(_, at)| *at);
            let first = log.times.iter().find(|(end, _)| *end > new);
            if let (Some(last), Some((_, first))) = (last, first) {
                println!(
                    "between the last byte of {} and the first new one of {}: {:.3} s",
                    earlier.name,
                    log.name,
                    first.saturating_sub(last) as f64 / 1e9
                );
            }
        }
        before = Some((log, piece));
    }
    if !history.is_complete() {
        return Err(Failure::new(format!(
            "the run ends after {} bytes of {lines} lines",
            history.shown()
        )));
    }
    println!("all {lines} lines, in order, none lost, none changed");
    Ok(())
}

fn read(path: &str) -> Outcome<Log> {
    let bytes = fs::read(path).during(path)?;
    let times = fs::read_to_string(format!("{path}.times")).during(path)?;
    let times = times.lines().filter_map(|line| {
        let (end, at) = line.split_once(' ')?;
        Some((end.parse().ok()?, at.parse().ok()?))
    });
    // The last arrival is the end of the stream; it brought nothing.
    let mut times: Vec<(usize, u64)> = times.collect();
    times.dedup_by_key(|(end, _)| *end);
    let name = Path::new(path).file_stem();
    Ok(Log {
        name: name.map_or_else(
            || path.to_owned(),
            |name| name.to_string_lossy().into_owned(),
        ),
        bytes,
        times,
    })
}
