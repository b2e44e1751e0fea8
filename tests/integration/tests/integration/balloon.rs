//! The balloon: memory that the guest does without goes back to the host, on both sides of a pair.

use std::time::Instant;

use integration::chain::{BOOT, Chain};
use integration::installation::Installation;
use integration::namespaces::Ground;
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::{Failure, Outcome};

/// The guest's memory. It is small, so that the balloon gets pages that were used.
const MEMORY: u64 = 128 << 20;
const BALLOON: u64 = 56 << 20;
/// At the beginning its file has so much, of pages that are not zero.
const FILE: u64 = 40 << 20;

/// Waits until the guest has this much memory, as `vm.info` says.
fn await_memory(vmm: &Vmm, bytes: u64) -> Outcome<()> {
    let begun = Instant::now();
    let wanted = format!("\"memory_actual_size\":{bytes}");
    loop {
        let info = vmm.remote(&["info"])?;
        if info.replace(' ', "").contains(&wanted) {
            return Ok(());
        }
        if begun.elapsed() > BOOT {
            return Err(Failure::new(format!(
                "the guest was to have {bytes}: {info}"
            )));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Resident memory of a process.
fn resident(vmm: &Vmm) -> Outcome<u64> {
    vmm.resident_beside(u64::MAX)
}

#[test]
fn a_balloon_gives_memory_back_on_both_sides() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let random = Random::from_environment();
    let devices = [
        "--memory",
        "size=128M",
        "--balloon",
        "size=0,deflate_on_oom=on,free_page_reporting=on",
    ];
    let ground = Ground::Loopback;
    let mut chain = Chain::boot_devices(&installation, &scratch, ground, random, &devices)?;
    let primary = &mut chain.primary;
    primary.console.expect("/ # ", BOOT)?;
    // Free memory that is not zero, known to the host as the guest's.
    let pieces = FILE >> 20;
    primary.type_line(&format!(
        "head -c 1048576 /dev/urandom > /tmp/s; for i in $(seq {pieces}); do cat /tmp/s; done > /tmp/x; echo made $?"
    ))?;
    primary.console.expect("made 0", BOOT)?;
    chain.protect()?;
    let primary = &mut chain.primary;
    let backup = chain.backup.as_ref();
    let backup = backup.ok_or_else(|| Failure::new("there is no backup"))?;
    let before = (resident(primary)?, resident(backup)?);
    primary.type_line("rm /tmp/x; echo gone $?")?;
    primary.console.expect("gone 0", BOOT)?;
    primary.remote(&["resize", "--balloon", "56M"])?;
    await_memory(primary, MEMORY - BALLOON)?;
    await_memory(backup, MEMORY - BALLOON)?;
    let after = (resident(primary)?, resident(backup)?);
    let given = (
        before.0.saturating_sub(after.0),
        before.1.saturating_sub(after.1),
    );
    eprintln!("given back: {} and {} MiB", given.0 >> 20, given.1 >> 20);
    // Some of the balloon's pages were never used, or read since, which costs no memory.
    assert!(given.0 > FILE / 2 && given.1 > FILE / 2, "{given:?}");
    primary.remote(&["resize", "--memory", "1G"]).unwrap_err();
    primary.remote(&["resize", "--balloon", "1G"]).unwrap_err();

    chain.fail_over()?;
    let primary = &mut chain.primary;
    let info = primary.remote(&["info"])?.replace(' ', "");
    assert!(
        info.contains(&format!("\"balloon\":{{\"size\":{BALLOON}")),
        "{info}"
    );
    // Another pair, with a balloon that is full: its digests agree.
    chain.protect()?;
    chain.primary.remote(&["resize", "--balloon", "0"])?;
    await_memory(&chain.primary, MEMORY)?;
    let line = "seq 1 100000 | sha256sum; echo all $((40 + 2))";
    chain.primary.type_line(line)?;
    chain.primary.console.expect("all 42", BOOT)?;
    let info = chain.primary.ft_info()?;
    assert!(info.is_protected(), "{info}");
    Ok(())
}
