//! Boots a kernel on a machine that nobody waits for, and says how fast that went.
//!
//! `cargo run --release -p machine --example boot -- KERNEL INITRAMFS CMDLINE [MAX_STEPS [PROFILE
//! [interpreter|compiler|mixed]]]`

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use machine::{
    BootPayload, Exit, Machine, MachineConfig, Output, Position, Profile, Translation, Tuning,
};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kernel, initramfs, cmdline, rest @ ..] = &arguments[..] else {
        eprintln!("usage: boot KERNEL INITRAMFS CMDLINE [MAX_STEPS [PROFILE]]");
        std::process::exit(2);
    };
    let most = rest.first().map_or(u64::MAX, |text| {
        text.parse().expect("MAX_STEPS is a number")
    });
    let profile = rest.get(1).map_or(Profile::default(), |name| {
        name.parse().expect("PROFILE is v1, v2 or v3")
    });
    let translation = match rest.get(2).map(String::as_str) {
        None | Some("mixed") => Translation::Mixed,
        Some("interpreter") => Translation::Interpreter,
        Some("compiler") => Translation::Compiler,
        Some(other) => panic!("{other} is no way of execution"),
    };
    let read = |path: &String| Arc::new(std::fs::read(path).expect("the file can be read"));
    let mut machine = Machine::new(MachineConfig {
        memory_size: 512 << 20,
        devices: Vec::new(),
        profile,
        seed: [7; 32],
        start_time: 1_700_000_000,
        payload: BootPayload {
            kernel: read(kernel),
            initramfs: read(initramfs),
            cmdline: cmdline.clone(),
        },
        tuning: Tuning::new(32 << 20, translation),
    })
    .expect("the machine can be made");
    let kick = AtomicBool::new(false);
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures host time")]
    let start = std::time::Instant::now();
    let mut jumps = 0u64;
    loop {
        let until = Position((machine.position().0 + 5_000_000).min(most));
        let exit = machine.run(until, &kick);
        for output in machine.take_outputs() {
            let Output::Console { bytes, .. } = output else {
                continue;
            };
            std::io::stdout()
                .write_all(&bytes)
                .expect("standard output takes it");
            std::io::stdout().flush().expect("standard output takes it");
        }
        match exit {
            Exit::Until if machine.position().0 >= most => break,
            Exit::Until | Exit::Kicked | Exit::Output => {}
            Exit::Idle {
                deadline: Some(deadline),
            } => {
                jumps += 1;
                machine.idle_jump(deadline);
            }
            Exit::Idle { deadline: None } => {
                println!("\nidle for ever");
                break;
            }
            Exit::Reset => println!("\nreset at {}", machine.position()),
            Exit::PoweredOff => break,
        }
    }
    let cpu = machine.save().cpu;
    println!("\nrip {:#x} cr2 {:#x} gpr {:x?}", cpu.rip, cpu.cr2, cpu.gpr);
    let seconds = start.elapsed().as_secs_f64();
    let steps = machine.position().0;
    println!(
        "{steps} steps, {jumps} idle jumps in {seconds:.2} s: {:.0} M steps/s; virtual {:.2} s; digest {:016x}",
        steps as f64 / seconds / 1e6,
        machine.now() as f64 / 1e9,
        machine.digest().total(),
    );
}
