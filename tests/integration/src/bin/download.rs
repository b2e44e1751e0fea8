//! One download over one TCP connection, every byte checked.
//!
//!     download ADDRESS:PORT MIB PAUSE_MS
//!
//! The other side is `tests/guests/serve.c`, which pauses so long after every 16 KiB. Prints a line
//! every half second; the status is 0 if everything came and was right.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use integration::clients::sessions::{self, Seen};
use integration::failure::While;
use integration::{Failure, Outcome};

/// Between two lines.
const INTERVAL: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("the download FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, mib, pause] = arguments.as_slice() else {
        return Err(Failure::new("usage: download ADDRESS:PORT MIB PAUSE_MS"));
    };
    let address: SocketAddr = address.parse().during(address)?;
    let bytes = mib.parse::<u64>().during(mib)? << 20;
    let pause = Duration::from_millis(pause.parse::<u64>().during(pause)?);
    let mut told = Instant::now();
    let tell = move |seen: Seen| {
        if told.elapsed() >= INTERVAL {
            told = Instant::now();
            println!("{}", text(seen));
        }
    };
    let seen = sessions::download(address, bytes, pause, tell)?.wait()?;
    println!("the download is complete: {}", text(seen));
    Ok(())
}

fn text(seen: Seen) -> String {
    format!(
        "{:5.1} MiB over one connection, every byte right, longest pause {:.3} s",
        seen.count as f64 / f64::from(1 << 20),
        seen.gap.as_secs_f64()
    )
}
