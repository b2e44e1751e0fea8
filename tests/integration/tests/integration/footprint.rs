//! What a protected guest costs while it does nothing.

use std::fs;
use std::time::Duration;

use integration::Outcome;
use integration::chain::{BOOT, Chain};
use integration::installation::{GUEST_BYTES, Installation};
use integration::namespaces::Ground;
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::seed::Random;

/// What a process may have resident beside the guest's memory and what it boots from.
const RESIDENT_BYTES_MAX: u64 = 64 << 20;
/// How long the idle guest is watched.
const WATCHED: Duration = Duration::from_secs(10);
/// The part of a core that each side may use for it, in percent.
const IDLE_PERCENT_MAX: f64 = 3.0;

#[test]
fn an_idle_protected_guest_is_cheap() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let random = Random::from_environment();
    let mut chain = Chain::boot_shell(&installation, &scratch, Ground::Loopback, random)?;
    chain.primary.console.expect("/ # ", BOOT)?;
    chain.protect()?;
    // The kernel has some work left after its first prompt.
    std::thread::sleep(Duration::from_secs(5));

    let backup = chain.backup.as_ref().expect("it is protected");
    let sides = [&chain.primary, backup];
    let used = |vmm: &Vmm| vmm.processor_time();
    let before = [used(sides[0])?, used(sides[1])?];
    std::thread::sleep(WATCHED);
    let payload = fs::metadata(&installation.vmlinux)?.len();
    let payload = payload + fs::metadata(&installation.initramfs)?.len();
    for (vmm, before) in sides.into_iter().zip(before) {
        let percent = (used(vmm)? - before).as_secs_f64() / WATCHED.as_secs_f64() * 100.0;
        let resident = vmm.resident_beside(GUEST_BYTES)?;
        eprintln!(
            "{}: {percent:.1} % of a core, {} MiB resident beside the guest's memory",
            vmm.name(),
            resident >> 20
        );
        assert!(percent < IDLE_PERCENT_MAX, "{}: {percent} %", vmm.name());
        assert!(
            resident < RESIDENT_BYTES_MAX + payload,
            "{}: {resident} bytes",
            vmm.name()
        );
    }
    Ok(())
}
