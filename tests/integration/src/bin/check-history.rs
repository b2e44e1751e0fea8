//! Is a recorded history of registers linearizable?
//!
//!     check-history FILE
//!
//! The status is 0 if it is; if not, it says which operation no order explains.

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;

use integration::clients::{checker, history};
use integration::failure::While;
use integration::{Failure, Outcome};

fn main() -> ExitCode {
    match run() {
        Ok(count) => {
            println!("{count} operations, linearizable");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("check-history: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<usize> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), None) = (arguments.next(), arguments.next()) else {
        return Err(Failure::new("usage: check-history FILE"));
    };
    let file = File::open(&path).during(&path)?;
    let history = history::read(BufReader::new(file)).during(&path)?;
    checker::check(&history).during("not linearizable")?;
    Ok(history.len())
}
