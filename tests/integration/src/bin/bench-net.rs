//! The network of a guest on several engines, alone and protected, in rounds.
//!
//!     unshare --net bench-net [--rounds N] [--seconds N] [--mib N] [--engines NAME,...]
//!
//! To be run in a network namespace of its own, where it makes a TAP device. Prints tables in
//! markdown: medians of the rounds, and medians of the rounds' ratios.

use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use integration::bench::net::client;
use integration::bench::net::subject::{Engine, Subject};
use integration::bench::statistics::median;
use integration::failure::While;
use integration::installation::Installation;
use integration::scratch::Scratch;
use integration::{Failure, Outcome};

const TAP: &str = "tap0";
/// Steps of the guest's computing.
const STEPS: u64 = 1_000_000_000;

struct Arguments {
    rounds: usize,
    seconds: u64,
    mib: u64,
    engines: Vec<Engine>,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench-net: FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Outcome<Arguments> {
    let mut arguments = Arguments {
        rounds: 3,
        seconds: 3,
        mib: 512,
        engines: Engine::ALL.to_vec(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        let value = given
            .next()
            .ok_or_else(|| Failure::new(format!("{option} needs a value")))?;
        let number = || value.parse::<u64>().during(&value);
        match option.as_str() {
            "--rounds" => arguments.rounds = number()? as usize,
            "--seconds" => arguments.seconds = number()?,
            "--mib" => arguments.mib = number()?,
            "--engines" => arguments.engines = engines(&value)?,
            _ => return Err(Failure::new(format!("{option:?} is no option"))),
        }
    }
    Ok(arguments)
}

fn engines(names: &str) -> Outcome<Vec<Engine>> {
    let engine = |name: &str| {
        let found = Engine::ALL.into_iter().find(|engine| engine.name() == name);
        found.ok_or_else(|| Failure::new(format!("{name:?} is no engine")))
    };
    names.split(',').map(engine).collect()
}

/// What one engine showed in one round: the rows of the table, in their order.
struct Round {
    engine: Engine,
    values: Vec<f64>,
    /// For each row, processor seconds a second, by process.
    usage: Vec<Vec<(&'static str, f64)>>,
}

/// The rows, and whether more is better.
const ROWS: [(&str, bool); 6] = [
    ("64-byte echo, median, µs", false),
    ("64-byte echo, 99th, µs", false),
    ("bare round trip, median, µs", false),
    ("into the guest, MB/s", true),
    ("out of the guest, MB/s", true),
    ("computing, M steps/s", true),
];

fn run(arguments: &Arguments) -> Outcome<()> {
    let installation = Installation::find()?;
    ip("link set lo up")?;
    ip(&format!("tuntap add dev {TAP} mode tap vnet_hdr"))?;
    ip(&format!("address add 10.67.0.1/24 dev {TAP}"))?;
    ip(&format!("link set {TAP} up"))?;
    let mut rounds = Vec::new();
    for round in 1..=arguments.rounds {
        for engine in &arguments.engines {
            let measured = measure(*engine, arguments, &installation);
            let measured = measured.map_err(|failure| failure.during(engine.name()))?;
            eprintln!("round {round}: {}: {:.1?}", engine.name(), measured.values);
            rounds.push(measured);
        }
    }
    print(&arguments.engines, &rounds);
    Ok(())
}

fn measure(engine: Engine, arguments: &Arguments, installation: &Installation) -> Outcome<Round> {
    let scratch = Scratch::new()?;
    let subject = Subject::start(engine, installation, &scratch, TAP)?;
    let address: SocketAddr = format!("{}:{}", Subject::ADDRESS, client::PORT)
        .parse()
        .during("the guest's address")?;
    client::await_server(address)?;
    // What came with a clone is over, and the guest's code compiled.
    client::echo(address, Duration::from_millis(500))?;
    let (mut values, mut usage) = (Vec::new(), Vec::new());
    let mut timed = |row: &mut dyn FnMut() -> Outcome<Vec<f64>>| -> Outcome<()> {
        let (before, began) = (subject.processor_times(), Instant::now());
        let found = row()?;
        let took = began.elapsed().as_secs_f64();
        let used = subject.processor_times().into_iter().zip(before);
        let used: Vec<_> = used
            .map(|((name, now), (_, then))| (name, (now - then) / took))
            .collect();
        usage.extend(found.iter().map(|_| used.clone()));
        values.extend(found);
        Ok(())
    };
    let duration = Duration::from_secs(arguments.seconds);
    let bytes = match engine {
        // It takes 4 ms for what others do in 0.1.
        Engine::QemuRecord => arguments.mib << 16,
        _ => arguments.mib << 20,
    };
    timed(&mut || {
        let trips = client::echo(address, duration)?;
        Ok(vec![trips.percentile(50) * 1e6, trips.percentile(99) * 1e6])
    })?;
    timed(&mut || {
        let trips = client::bare_echo(Duration::from_secs(1))?;
        Ok(vec![trips.percentile(50) * 1e6])
    })?;
    timed(&mut || Ok(vec![client::receive_rate(address, bytes)? / 1e6]))?;
    timed(&mut || Ok(vec![client::transmit_rate(address, bytes)? / 1e6]))?;
    timed(&mut || Ok(vec![client::compute_rate(address, STEPS)? / 1e6]))?;
    if let Ok(info) = subject.ft_info() {
        eprintln!("{}", info.trim());
    }
    Ok(Round {
        engine,
        values,
        usage,
    })
}

fn print(engines: &[Engine], rounds: &[Round]) {
    let column = |engine: Engine, row: usize| -> Vec<f64> {
        let of = rounds.iter().filter(|round| round.engine == engine);
        of.filter_map(|round| round.values.get(row).copied())
            .collect()
    };
    let names: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
    println!("| | {} |", names.join(" | "));
    println!("|---|{}", "---:|".repeat(names.len()));
    for (row, (title, _)) in ROWS.iter().enumerate() {
        let cells = engines
            .iter()
            .map(|engine| cell(median(&column(*engine, row)), 1));
        println!("| {title} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    println!();
    for (engine, of) in [
        (Engine::Acknowledged, Engine::Alone),
        (Engine::Protected, Engine::Alone),
        (Engine::Alone, Engine::Qemu),
        (Engine::Protected, Engine::QemuRecord),
    ] {
        if !engines.contains(&engine) || !engines.contains(&of) {
            continue;
        }
        for (row, (title, is_rate)) in ROWS.iter().enumerate() {
            let ratios: Vec<f64> = column(engine, row)
                .iter()
                .zip(column(of, row))
                .map(|(one, other)| if *is_rate { one / other } else { other / one })
                .collect();
            println!(
                "- {title}: {} is {} times as good as {}",
                engine.name(),
                cell(median(&ratios), 3),
                of.name()
            );
        }
    }
    if engines.contains(&Engine::Acknowledged) && engines.contains(&Engine::Alone) {
        let added: Vec<f64> = column(Engine::Acknowledged, 0)
            .iter()
            .zip(column(Engine::Alone, 0))
            .zip(column(Engine::Acknowledged, 2))
            .map(|((with, without), bare)| (with - without) / bare)
            .collect();
        println!(
            "- what acknowledgement adds to an echo: {} bare round trips",
            cell(median(&added), 2)
        );
    }
    println!("\n| processors used | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    for (row, (title, _)) in ROWS.iter().enumerate() {
        let cells = engines.iter().map(|engine| {
            let last = rounds.iter().rev().find(|round| round.engine == *engine);
            let usage = last.and_then(|round| round.usage.get(row));
            let parts = usage.into_iter().flatten();
            let parts: Vec<_> = parts
                .map(|(name, used)| format!("{name} {used:.2}"))
                .collect();
            parts.join(", ")
        });
        println!("| {title} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

fn cell(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

fn ip(line: &str) -> Outcome<()> {
    let output = Command::new("ip")
        .args(line.split(' '))
        .output()
        .during("ip")?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("ip {line}: {}", error.trim())))
}
