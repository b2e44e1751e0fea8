//! What a client sees of failovers: how long nobody answers, and what that time is made of.
//!
//!     unshare --net bench-failover [--rounds N] [--timeouts MS,...] [--events freeze,kill] [--seed N]
//!
//! This process is the client; each host is a network namespace. The guest sends back datagrams, of
//! which the client sends one every 2 ms. In each round the guest has a backup, and at a random
//! moment its primary freezes (SIGSTOP: nothing is heard of it any more) or is killed (SIGKILL: its
//! host ends the connection). Prints a table in markdown for each event and detection timeout.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use integration::bench::statistics::{median, percentile};
use integration::chain::{BOOT, Chain, FAILOVER};
use integration::clients::sessions;
use integration::failure::While;
use integration::installation::Installation;
use integration::namespaces::{Ground, Wire};
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::site::{GUEST, Site};
use integration::{Failure, Outcome};

const PORT: u16 = 5000;
/// Until the last of what came with a clone is over, and the pulse has begun.
const BEFORE: Duration = Duration::from_millis(500);
/// The latest moment after that at which something happens.
const LATEST: Duration = Duration::from_millis(300);
const AFTERWARDS: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Freeze,
    Kill,
}

struct Arguments {
    rounds: usize,
    /// Detection timeouts, in milliseconds.
    timeouts: Vec<u64>,
    events: Vec<Event>,
    random: Random,
}

/// The parts of the time without an answer, in their order.
const PARTS: [(&str, &str); 4] = [
    ("detection", "until the loss is known"),
    ("drain", "until the log is executed"),
    ("claim", "until the flag has answered"),
    (
        "start",
        "until the devices are open and the card is announced",
    ),
];

/// What one failover showed, in milliseconds.
struct Seen {
    gap: f64,
    parts: Vec<f64>,
}

fn main() -> ExitCode {
    match arguments().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench-failover: FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Outcome<Arguments> {
    let mut arguments = Arguments {
        rounds: 100,
        timeouts: vec![50],
        events: vec![Event::Freeze, Event::Kill],
        random: Random::from_environment(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        let value = given.next();
        let value = value.ok_or_else(|| Failure::new(format!("{option} needs a value")))?;
        let numbers = || -> Outcome<Vec<u64>> {
            let words = value.split(',');
            words.map(|word| word.parse::<u64>().during(word)).collect()
        };
        match option.as_str() {
            "--rounds" => arguments.rounds = value.parse().during(&value)?,
            "--timeouts" => arguments.timeouts = numbers()?,
            "--seed" => arguments.random = Random::new(value.parse().during(&value)?),
            "--events" => {
                let events = value.split(',').map(|word| match word {
                    "freeze" => Ok(Event::Freeze),
                    "kill" => Ok(Event::Kill),
                    _ => Err(Failure::new(format!("{word:?} is no event"))),
                });
                arguments.events = events.collect::<Outcome<_>>()?;
            }
            _ => return Err(Failure::new(format!("{option:?} is no option"))),
        }
    }
    Ok(arguments)
}

fn run(arguments: Arguments) -> Outcome<()> {
    let Arguments {
        rounds,
        timeouts,
        events,
        mut random,
    } = arguments;
    let (installation, scratch) = (Installation::find()?, Scratch::new()?);
    let wire = Wire::new()?;
    let _site = Site::here(&wire)?;
    let card = Site::card();
    let parameters = format!("ip={GUEST}::10.66.0.1:255.255.255.0:guest:eth0 serve={PORT}");
    let mut chain = Chain::boot_with(
        &installation,
        &scratch,
        Ground::Wire(wire),
        random.clone(),
        (&parameters, &["--net", &card]),
    )?;
    chain.primary.console.expect("/ # ", BOOT)?;
    let address = format!("{GUEST}:{PORT}")
        .parse()
        .during("the guest's address")?;
    println!("seed {}\n", random.seed());
    for timeout in timeouts {
        for event in &events {
            chain.detection_timeout = Some(timeout);
            let mut seen = Vec::new();
            for round in 1..=rounds {
                let one = one(&mut chain, address, *event, &mut random);
                let one = one.during(format_args!("round {round}, {event:?}, {timeout} ms"))?;
                eprintln!("{round}: {:.1} ms: {:.1?}", one.gap, one.parts);
                seen.push(one);
            }
            print(timeout, *event, &seen);
        }
    }
    Ok(())
}

fn one(
    chain: &mut Chain<'_>,
    address: SocketAddr,
    event: Event,
    random: &mut Random,
) -> Outcome<Seen> {
    chain.protect()?;
    let pulse = sessions::pulse(address)?;
    thread::sleep(BEFORE + random.time_below(LATEST));
    let mut old = chain.promote()?;
    match event {
        Event::Freeze => old.freeze()?,
        Event::Kill => drop(old.kill()?),
    }
    let live = chain
        .primary
        .await_ft("live", FAILOVER, |info| info.is_unprotected())?;
    thread::sleep(AFTERWARDS);
    let gap = pulse.finish()?.gap.as_secs_f64() * 1e3;
    let parts = PARTS.map(|(name, _)| live.json()["failover_ms"][name].as_f64());
    let parts: Option<Vec<f64>> = parts.into_iter().collect();
    let parts = parts.ok_or_else(|| Failure::new(format!("no parts of a failover: {live}")))?;
    Ok(Seen { gap, parts })
}

fn print(timeout: u64, event: Event, seen: &[Seen]) {
    let what = match event {
        Event::Freeze => "frozen (SIGSTOP)",
        Event::Kill => "killed (SIGKILL)",
    };
    let count = seen.len();
    println!("| {count} times {what}, detection timeout {timeout} ms | median | 99th | most |");
    println!("|---|---:|---:|---:|");
    let row = |title: &str, of: &dyn Fn(&Seen) -> f64| {
        let values: Vec<f64> = seen.iter().map(of).collect();
        let cell =
            |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
        let cells = [
            median(&values),
            percentile(&values, 99),
            percentile(&values, 100),
        ];
        println!("| {title} | {} |", cells.map(cell).join(" | "));
    };
    row("**without an answer, ms**", &|seen| seen.gap);
    for (index, (_, title)) in PARTS.iter().enumerate() {
        row(title, &|seen| {
            seen.parts.get(index).copied().unwrap_or(f64::NAN)
        });
    }
    row("the rest", &|seen| {
        seen.gap - seen.parts.iter().sum::<f64>()
    });
    println!();
}
