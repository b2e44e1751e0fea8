//! The virtual machine monitor's program.
//!
//! Does: read the command line, start logging, and run the process. Does not: anything else; the
//! `vmm` crate does.
//!
//! Invariant: exit status 0 means that the guest powered off or that somebody asked for the end;
//! 1 means that something failed, and standard error says what.

mod options;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use vmm::host::logger;
use vmm::machine_factory::{self, MachineFactory};
use vmm::process;

use crate::options::Options;

fn main() -> ExitCode {
    process::end_on_panic();
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_chain(&*error);
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    logger::start(
        logger::level(options.verbosity),
        options.log_file.as_deref(),
    )
    .map_err(|source| options::OptionsError::LogFile { source })?;
    let machine = options.machine()?;
    if let Some(request) = options.replay()? {
        let digest = machine_factory::replay(&request, &machine)?;
        println!("{digest}");
        return Ok(());
    }
    let process = options.process()?;
    if options.seccomp.filters() {
        log::info!("system call filters are not built in yet; none is installed");
    }
    let factory = MachineFactory::new(machine)?;
    process::run(Box::new(factory), process)?;
    Ok(())
}

/// Prints an error and what caused it, numbered from the outermost.
fn print_chain(error: &dyn Error) {
    eprintln!("Error: the virtual machine monitor has failed");
    let mut next = Some(error);
    let mut number = 0;
    while let Some(error) = next {
        eprintln!("  {number}: {error}");
        number += 1;
        next = error.source();
    }
}
