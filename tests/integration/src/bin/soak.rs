//! One guest, one kind of trouble, many times in a row.
//!
//!     soak EVENT TURNS [SEED]
//!
//! EVENT is kill-primary, kill-backup, freeze-primary, freeze-backup, cut-wire or mixed. Prints a
//! line for every turn and a summary; the status is 0 if the guest's lines are those of an
//! undisturbed run to the last turn.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use integration::chain::{Chain, Event, Turn};
use integration::count::Count;
use integration::installation::Installation;
use integration::namespaces::{Ground, Wire};
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::{Failure, Outcome};

const COUNT: Count = Count {
    rounds: 2000,
    pause_ms: 10,
    mib: 4,
};

struct Arguments {
    events: Vec<Event>,
    turns: usize,
    random: Random,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("soak: {error}");
            eprintln!("usage: soak EVENT TURNS [SEED]");
            return ExitCode::from(2);
        }
    };
    let mut turns = Vec::new();
    let began = Instant::now();
    let result = run(arguments, &mut turns);
    summary(&turns, began.elapsed());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("FAILED in turn {}: {failure}", turns.len() + 1);
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Outcome<Arguments> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| {
        let number = text.parse::<u64>();
        number.map_err(|_| Failure::new(format!("{text:?} is no number")))
    };
    let (event, turns, seed) = match given.as_slice() {
        [event, turns] => (event, number(turns)?, None),
        [event, turns, seed] => (event, number(turns)?, Some(number(seed)?)),
        _ => return Err(Failure::new("two or three arguments are needed")),
    };
    let kills = [Event::KillPrimary, Event::KillBackup, Event::FreezePrimary];
    let all = kills
        .into_iter()
        .chain([Event::FreezeBackup, Event::CutWire]);
    let events = match event.as_str() {
        "mixed" => kills.to_vec(),
        name => all.filter(|event| event.to_string() == name).collect(),
    };
    if events.is_empty() {
        return Err(Failure::new(format!("{event:?} is no event")));
    }
    Ok(Arguments {
        events,
        turns: turns as usize,
        random: seed.map_or_else(Random::from_environment, Random::new),
    })
}

fn run(arguments: Arguments, turns: &mut Vec<Turn>) -> Outcome<()> {
    let Arguments {
        events,
        turns: wanted,
        mut random,
    } = arguments;
    println!("seed {}", random.seed());
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let ground = if events.contains(&Event::CutWire) {
        Ground::Wire(Wire::new()?)
    } else {
        Ground::Loopback
    };
    let moments = random.clone();
    let mut chain = Chain::boot(&installation, &scratch, ground, moments, COUNT)?;
    chain.counts()?;
    while turns.len() < wanted {
        chain.protect()?;
        let event = events[random.below(events.len() as u64) as usize];
        let turn = chain.turn(event)?;
        turns.push(turn);
        println!("{:4} {turn}", turns.len());
    }
    Ok(())
}

fn summary(turns: &[Turn], took: Duration) {
    println!("{} turns in {:.0} s", turns.len(), took.as_secs_f64());
    let mut silences: Vec<Duration> = turns.iter().map(|turn| turn.silence).collect();
    silences.sort();
    if let (Some(shortest), Some(longest)) = (silences.first(), silences.last()) {
        println!(
            "without output: {:.3} s at least, {:.3} s in the middle, {:.3} s at most",
            shortest.as_secs_f64(),
            silences[silences.len() / 2].as_secs_f64(),
            longest.as_secs_f64()
        );
    }
    let repeated = turns.iter().map(|turn| turn.repeated).max().unwrap_or(0);
    println!("repeated after a turn: {repeated} bytes at most");
}
