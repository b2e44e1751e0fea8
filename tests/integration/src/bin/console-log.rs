//! Keeps what a console shows, and shows it.
//!
//!     console-log PREFIX FILE
//!
//! Copies standard input to FILE, the time of each byte's arrival to FILE.times (an offset and
//! nanoseconds since 1970 in each line), and each line with PREFIX to standard output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [prefix, file] = arguments.as_slice() else {
        eprintln!("usage: console-log PREFIX FILE");
        return ExitCode::from(2);
    };
    match copy(prefix, file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("console-log: {file}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn copy(prefix: &str, file: &str) -> io::Result<()> {
    let mut bytes = File::create(file)?;
    let mut times = File::create(format!("{file}.times"))?;
    let mut buffer = [0; 65536];
    let mut line = Vec::new();
    let mut end = 0;
    loop {
        let count = match io::stdin().read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_nanos());
        let came = &buffer[..count];
        bytes.write_all(came)?;
        end += count;
        writeln!(times, "{end} {now}")?;
        for byte in came {
            match byte {
                b'\r' => {}
                b'\n' => show(prefix, &mut line, "")?,
                _ => line.push(*byte),
            }
        }
        if count == 0 {
            if !line.is_empty() {
                show(prefix, &mut line, " (cut off)")?;
            }
            return Ok(());
        }
    }
}

/// One write for each line, since others write to the same place.
fn show(prefix: &str, line: &mut Vec<u8>, suffix: &str) -> io::Result<()> {
    let text = String::from_utf8_lossy(line);
    io::stdout().write_all(format!("{prefix}{text}{suffix}\n").as_bytes())?;
    line.clear();
    Ok(())
}
