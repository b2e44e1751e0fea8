//! Guest workloads on several engines, one after the other, in rounds.
//!
//!     bench-cpu INITRAMFS [--rounds N] [--repeat N] [--clock cpu|wall]
//!               [--engines NAME,...] [--workloads NAME,...]
//!
//! Prints tables in markdown. The status is 0 if every run ended well and every workload gave the
//! same checksum on every engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use integration::bench::engine::{ENGINES, Log};
use integration::bench::report::{Clock, EngineRound, Results};
use integration::bench::run::{self, Measured};
use integration::installation::Installation;
use integration::scratch::Scratch;
use integration::{Failure, Outcome};

struct Arguments {
    initramfs: PathBuf,
    rounds: usize,
    repeat: usize,
    clock: Clock,
    engines: Vec<usize>,
    workloads: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("bench-cpu: {error}");
            eprintln!(
                "usage: bench-cpu INITRAMFS [--rounds N] [--repeat N] [--clock cpu|wall] \
                 [--engines NAME,...] [--workloads NAME,...]"
            );
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench-cpu: FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Outcome<Arguments> {
    let mut given = std::env::args().skip(1);
    let initramfs = given
        .next()
        .ok_or_else(|| Failure::new("which initramfs?"))?;
    let mut arguments = Arguments {
        initramfs: PathBuf::from(initramfs),
        rounds: 3,
        repeat: 1,
        clock: Clock::Cpu,
        engines: (0..ENGINES.len()).collect(),
        workloads: Vec::new(),
    };
    while let Some(option) = given.next() {
        let value = given
            .next()
            .ok_or_else(|| Failure::new(format!("{option} needs a value")))?;
        match option.as_str() {
            "--rounds" => arguments.rounds = number(&value)?,
            "--repeat" => arguments.repeat = number(&value)?,
            "--clock" => {
                arguments.clock = match value.as_str() {
                    "cpu" => Clock::Cpu,
                    "wall" => Clock::Wall,
                    _ => return Err(Failure::new(format!("{value:?} is neither cpu nor wall"))),
                }
            }
            "--engines" => arguments.engines = engines(&value)?,
            "--workloads" => {
                arguments.workloads = value.split(',').map(str::to_owned).collect();
            }
            _ => return Err(Failure::new(format!("{option:?} is no option"))),
        }
    }
    Ok(arguments)
}

fn number(text: &str) -> Outcome<usize> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| Failure::new(format!("{text:?} is no number above 0")))
}

/// Indices, in the order of [`ENGINES`]; what replays needs what records.
fn engines(names: &str) -> Outcome<Vec<usize>> {
    let mut chosen = Vec::new();
    for name in names.split(',') {
        let index = ENGINES.iter().position(|engine| engine.name == name);
        chosen.push(index.ok_or_else(|| {
            let all: Vec<&str> = ENGINES.iter().map(|engine| engine.name).collect();
            Failure::new(format!("{name:?} is none of {}", all.join(", ")))
        })?);
    }
    chosen.sort_unstable();
    for index in &chosen {
        if let Log::Replay { of } = ENGINES[*index].log
            && !chosen.contains(&of)
        {
            return Err(Failure::new(format!(
                "{} needs {}",
                ENGINES[*index].name, ENGINES[of].name
            )));
        }
    }
    Ok(chosen)
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let mut results = Results {
        clock: arguments.clock,
        rounds: Vec::new(),
        order: Vec::new(),
    };
    let mut checksums: BTreeMap<String, String> = BTreeMap::new();
    let measure = |index: usize, test: &str, last_line: &str| {
        let engine = &ENGINES[index];
        let command = engine.command(&installation, &arguments.initramfs, test, scratch.path());
        let log = engine.log_file(scratch.path());
        let recorded = log.as_deref().filter(|_| engine.log == Log::Record);
        let measured = run::run(command, recorded, last_line);
        measured.map_err(|failure| failure.during(engine.name))
    };
    // The boots come first: the logs of the workloads are what is replayed after them.
    let boots = |engines: &[usize]| -> Outcome<Vec<Measured>> {
        let boot = |index: &usize| measure(*index, "true", "init: true ended with status 0");
        engines.iter().map(boot).collect()
    };
    for round in 1..=arguments.rounds {
        let mut runs = Vec::new();
        let boots = boots(&arguments.engines)?;
        for (engine, boot) in arguments.engines.iter().zip(boots) {
            let mut test = vec!["cpu-bench".to_owned(), arguments.repeat.to_string()];
            test.extend(arguments.workloads.iter().cloned());
            let workloads = measure(*engine, &test.join(":"), "@ done")?;
            eprintln!(
                "round {round} of {}: {}: boot {:.2} s, workloads {:.1} s (processor time {:.1} s)",
                arguments.rounds,
                ENGINES[*engine].name,
                boot.whole.wall,
                workloads.whole.wall,
                workloads.whole.cpu
            );
            for (name, checksum) in &workloads.checksums {
                let first = checksums.entry(name.clone());
                let first = first.or_insert_with(|| checksum.clone());
                if first != checksum {
                    return Err(Failure::new(format!(
                        "{name}: {} gives {checksum}, another engine gave {first}",
                        ENGINES[*engine].name
                    )));
                }
            }
            results.order.clone_from(&workloads.order);
            runs.push(EngineRound {
                engine: *engine,
                boot,
                workloads,
            });
        }
        results.rounds.push(runs);
    }
    println!(
        "{}\n{}\n{}",
        results.speeds(),
        results.recording(),
        results.logs()
    );
    println!("Checksums of {} workloads agree.", checksums.len());
    Ok(())
}
