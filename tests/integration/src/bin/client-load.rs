//! Clients of redis or PostgreSQL, at work until standard input ends.
//!
//!     client-load redis|postgresql ADDRESS:PORT HISTORY [CLIENTS [KEYS [PAUSE_MS]]]
//!
//! Empties the registers, prints `ready` at the first answer, writes the history to the file at
//! the end, and says whether it is linearizable; the status is 0 if it is. CH_SEED=N repeats the
//! choices of an earlier run.

use std::fs::File;
use std::io::{BufWriter, Read};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use integration::clients::checker;
use integration::clients::history;
use integration::clients::load::{Load, Recorded, Service, Shape};
use integration::clients::postgresql::PostgreSql;
use integration::clients::redis::Redis;
use integration::failure::While;
use integration::seed::Random;
use integration::{Failure, Outcome};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("client-load: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [service, address, path, numbers @ ..] = arguments.as_slice() else {
        return Err(Failure::new(
            "usage: client-load redis|postgresql ADDRESS:PORT HISTORY [CLIENTS [KEYS [PAUSE_MS]]]",
        ));
    };
    let address: SocketAddr = address.parse().during(address)?;
    let number = |index: usize, otherwise: u32| match numbers.get(index) {
        Some(text) => text.parse::<u32>().during(text),
        None => Ok(otherwise),
    };
    let shape = Shape {
        clients: number(0, 6)?,
        keys: number(1, 4)?.max(1),
        pause: Duration::from_millis(u64::from(number(2, 5)?)),
    };
    let recorded = match service.as_str() {
        "redis" => work(&Redis { address }, shape),
        "postgresql" => {
            let keys = shape.keys;
            work(&PostgreSql { address, keys }, shape)
        }
        other => Err(Failure::new(format!("{other:?} is no service"))),
    }?;
    let file = File::create(path).during(path)?;
    history::write(&recorded.history, BufWriter::new(file)).during(path)?;
    let unknown = recorded.history.iter().filter(|o| o.returned.is_none());
    println!(
        "{} operations, {} without an answer, {} refused, {} connections, the longest silence {} ms",
        recorded.history.len(),
        unknown.count(),
        recorded.refusals.len(),
        recorded.connections,
        recorded.longest_silence() / 1_000_000
    );
    if let Some(refusal) = recorded.refusals.first() {
        println!("the first refusal: {refusal}");
    }
    checker::check(&recorded.history).during("not linearizable")?;
    println!("linearizable");
    Ok(())
}

fn work<S: Service>(service: &S, shape: Shape) -> Outcome<Recorded> {
    service.clear()?;
    let load = Load::start(service, shape, &mut Random::from_environment());
    while load.answers() == 0 {
        thread::sleep(Duration::from_millis(10));
    }
    println!("ready");
    // Whoever started us says when to stop by closing it; what is typed does not matter.
    std::io::copy(&mut std::io::stdin().by_ref(), &mut std::io::sink())?;
    load.finish()
}
