//! How long outputs wait for the backup, beside the bare round trip of two sockets.
//!
//!     hold-time [SECONDS]
//!
//! Protects a guest that prints a line every 10 ms, on this host's loopback interface, and asks the
//! primary how long it held its outputs back. In the same seconds, two threads of this program send
//! each other a byte on a connection of their own. `CH_BIN_DIR` and `CH_GUEST_DIR` as for the tests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use integration::chain::Chain;
use integration::count::Count;
use integration::installation::Installation;
use integration::namespaces::Ground;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::{Failure, Outcome};

const COUNT: Count = Count {
    rounds: 200,
    pause_ms: 10,
    mib: 1,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hold-time: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(20), |text| text.parse());
    let seconds = seconds.map_err(|_| Failure::new("usage: hold-time [SECONDS]"))?;
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let random = Random::new(1);
    let mut chain = Chain::boot(&installation, &scratch, Ground::Loopback, random, COUNT)?;
    chain.counts()?;
    chain.protect()?;
    // What came with the clone is over.
    std::thread::sleep(Duration::from_secs(2));
    let trips = round_trips(Duration::from_secs(seconds))?;
    let info = chain.primary.ft_info()?;
    let hold = &info.json()["hold_us"];
    let (Some(median), Some(p99)) = (hold["median"].as_f64(), hold["p99"].as_f64()) else {
        return Err(Failure::new(format!("no hold times: {info}")));
    };
    let at = |percent: usize| trips[trips.len() * percent / 100].as_secs_f64() * 1e6;
    println!("outputs were held back for {median:.0} us (99th: {p99:.0} us)");
    println!(
        "a bare round trip took {:.0} us (99th: {:.0} us), of {}",
        at(50),
        at(99),
        trips.len()
    );
    Ok(())
}

/// Round trips of a byte, one every 10 ms, in order of their length.
fn round_trips(duration: Duration) -> Outcome<Vec<Duration>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut ours = TcpStream::connect(listener.local_addr()?)?;
    let (mut theirs, _) = listener.accept()?;
    for stream in [&ours, &theirs] {
        stream.set_nodelay(true)?;
    }
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while theirs.read_exact(&mut byte).is_ok() && theirs.write_all(&byte).is_ok() {}
    });
    let (end, mut trips) = (Instant::now() + duration, Vec::new());
    while Instant::now() < end {
        let began = Instant::now();
        ours.write_all(&[1])?;
        ours.read_exact(&mut [0])?;
        trips.push(began.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(ours);
    // It ends with the connection.
    let _ = echo.join();
    trips.sort_unstable();
    Ok(trips)
}
