//! Debian's kernel on machines in this process: whichever engine runs, whatever is done to the
//! caches and however the run is cut, the digests agree all along the boot.
//!
//! Environment: `CH_DETERMINISM_STEPS`, a number or `all` for a run to power-off;
//! `CH_DETERMINISM_INITRAMFS` and `CH_DETERMINISM_TEST`, another guest and what it does
//! (`scripts/long-run.sh engines` compiles in it).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use integration::Outcome;
use integration::installation::Installation;
use integration::seed::Random;
use machine::{
    BootPayload, Digest, Exit, Machine, MachineConfig, Position, Profile, Translation, Tuning,
};

/// Steps between digests.
const GRAIN: u64 = 20_000_000;

fn machine(installation: &Installation, tuning: Tuning) -> Machine {
    let read = |path: &Path| Arc::new(std::fs::read(path).expect("the guest image is there"));
    let initramfs = std::env::var_os("CH_DETERMINISM_INITRAMFS")
        .map_or_else(|| installation.initramfs.clone(), PathBuf::from);
    let test = std::env::var("CH_DETERMINISM_TEST").unwrap_or("count:20:50:10:2".to_string());
    Machine::new(MachineConfig {
        memory_size: 512 << 20,
        devices: Vec::new(),
        profile: Profile::default(),
        seed: [7; 32],
        start_time: 1_700_000_000,
        payload: BootPayload {
            kernel: read(&installation.vmlinux),
            initramfs: read(&initramfs),
            cmdline: format!("console=ttyS0 panic=-1 test={test}"),
        },
        tuning,
    })
    .expect("the machine can be made")
}

/// Runs to power-off or to `last`, stopping every `1..=most` steps for `at_stop`; the digests at
/// multiples of the grain.
fn digests(
    mut machine: Machine,
    last: u64,
    mut next_stop: impl FnMut() -> u64,
    mut at_stop: impl FnMut(&mut Machine),
) -> Vec<Digest> {
    let kick = AtomicBool::new(false);
    let mut found = Vec::new();
    let mut stop = next_stop();
    loop {
        let here = machine.position().0;
        if here > 0 && here.is_multiple_of(GRAIN) && found.len() as u64 + 1 == here / GRAIN {
            found.push(machine.digest());
        }
        if here >= last {
            return found;
        }
        if here >= stop {
            at_stop(&mut machine);
            stop = here + next_stop();
        }
        let grain = here - here % GRAIN + GRAIN;
        match machine.run(Position(grain.min(stop)), &kick) {
            Exit::Idle {
                deadline: Some(deadline),
            } => machine.idle_jump(deadline),
            Exit::Idle { deadline: None } => panic!("the guest waits for ever at {here}"),
            Exit::PoweredOff => {
                found.push(machine.digest());
                return found;
            }
            Exit::Until | Exit::Kicked | Exit::Output | Exit::Reset => {}
        }
        if !machine.take_outputs().is_empty() {
            machine.apply(&machine::Input::ConsoleEmitted { through: 0 });
        }
    }
}

#[test]
fn caches_and_cuts_do_not_show_over_a_boot() -> Outcome<()> {
    let installation = Installation::find()?;
    let mut random = Random::from_environment();
    let mut flips = Random::new(random.number());
    let last = match std::env::var("CH_DETERMINISM_STEPS").as_deref() {
        Err(_) => 30 * GRAIN,
        Ok("all") => u64::MAX,
        Ok(text) => text.parse().expect("CH_DETERMINISM_STEPS is a number"),
    };
    let on =
        |cache_bytes, translation| machine(&installation, Tuning::new(cache_bytes, translation));
    let plain = digests(
        on(32 << 20, Translation::Interpreter),
        last,
        || u64::MAX,
        |_| {},
    );
    for translation in [Translation::Compiler, Translation::Mixed] {
        let compiled = digests(on(32 << 20, translation), last, || u64::MAX, |_| {});
        compare(&plain, &compiled);
    }
    let flushed = digests(
        on(1 << 20, Translation::Mixed),
        last,
        || 1 + random.below(400_000),
        |machine| {
            if flips.below(2) == 0 {
                machine.flush_caches();
            }
        },
    );
    compare(&plain, &flushed);
    if let Some(end) = plain.last() {
        let total = end.total();
        println!(
            "{} digests agree, {GRAIN} steps apart; the last is {total:016x}",
            plain.len()
        );
    }
    Ok(())
}

/// Names the first difference.
fn compare(expected: &[Digest], found: &[Digest]) {
    assert_eq!(expected.len(), found.len());
    for (index, (a, b)) in expected.iter().zip(found).enumerate() {
        let position = (index as u64 + 1) * GRAIN;
        assert!(
            a == b,
            "up to {position} the runs come to differ in {:?}",
            a.differences(b)
        );
    }
}
