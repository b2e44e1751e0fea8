//! How long the vCPU thread stands still for a digest, and how long the whole takes.
//!
//! `cargo run --release -p machine --example digest -- [MIB_WRITTEN]`
//!
//! A machine of 512 MiB runs a loop that writes to each page of so many MiB in turn (64 unless
//! told). Between runs a digest is begun; another thread finishes it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use machine::{BootPayload, Machine, MachineConfig, Position, Profile};

const MIB: u64 = 1 << 20;
const DIGESTS: usize = 200;

/// `inc dword [0x200000 + eax]; add eax, 4096; cmp eax, LIMIT; jb again; xor eax, eax; jmp again`.
fn scribble(limit: u32) -> Vec<u8> {
    let mut code = vec![0xff, 0x80, 0, 0, 0x20, 0, 0x05, 0, 0x10, 0, 0, 0x3d];
    code.extend(limit.to_le_bytes());
    code.extend([0x72, 0xee, 0x31, 0xc0, 0xeb, 0xea]);
    code
}

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/tiny/mod.rs"]
mod tiny;

#[expect(clippy::disallowed_methods, reason = "a benchmark measures host time")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn main() {
    let written = std::env::args().nth(1).map_or(64, |text| {
        text.parse::<u64>().expect("MIB_WRITTEN is a number")
    });
    let mut machine = Machine::new(MachineConfig {
        memory_size: 512 * MIB,
        devices: Vec::new(),
        profile: Profile::default(),
        seed: [1; 32],
        start_time: 0,
        payload: BootPayload {
            kernel: Arc::new(tiny::kernel(&scribble((written * MIB) as u32))),
            initramfs: Arc::default(),
            cmdline: String::new(),
        },
        tuning: tiny::INTERPRETER,
    })
    .expect("the machine can be made");
    let whole = now();
    machine.digest();
    println!(
        "the first digest, all in one: {:.1} ms",
        ms(whole.elapsed())
    );
    let kick = AtomicBool::new(false);
    let pages = written * MIB / 4096;
    let (mut stand, mut all, mut slow) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..DIGESTS {
        run(&mut machine, pages * 4, &kick);
        let began = now();
        let job = machine.begin_digest();
        stand.push(began.elapsed());
        let thread = std::thread::spawn(move || {
            job.finish();
            began.elapsed()
        });
        let running = now();
        run(&mut machine, pages * 4, &kick);
        let with_digest = running.elapsed();
        all.push(thread.join().expect("it does not panic"));
        let running = now();
        run(&mut machine, pages * 4, &kick);
        slow.push(with_digest.saturating_sub(running.elapsed()));
    }
    println!("{written} MiB written between two digests, {DIGESTS} digests; median and longest:");
    for (what, times) in [
        ("the vCPU thread stands still", &mut stand),
        (
            "the guest, writing all of it at once, is slower by",
            &mut slow,
        ),
        ("the digest is known after", &mut all),
    ] {
        times.sort();
        let (median, last) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{what}: {:.3} ms, {:.3} ms", ms(median), ms(last));
    }
}

fn run(machine: &mut Machine, steps: u64, kick: &AtomicBool) {
    let until = Position(machine.position().0 + steps);
    while machine.position() < until {
        machine.run(until, kick);
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
