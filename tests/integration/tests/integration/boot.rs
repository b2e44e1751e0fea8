//! Booting to a shell, and what power-off, reboot and the end of input do.

use std::time::Duration;

use integration::chain::BOOT;
use integration::count::Count;
use integration::installation::Installation;
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::stitch::History;
use integration::{Failure, Outcome};

/// For a guest that is up to answer, or to go down.
const ANSWER: Duration = Duration::from_secs(60);

/// A machine with a console and the guest image, with `kernel` and more on its command line.
fn boot(
    installation: &Installation,
    scratch: &Scratch,
    kernel: &std::path::Path,
    command_line: &str,
) -> Outcome<Vmm> {
    Vmm::boot(
        installation,
        scratch,
        "vmm",
        &[
            "--kernel",
            &kernel.to_string_lossy(),
            "--memory",
            "size=512M",
            "--cmdline",
            &format!("console=ttyS0 panic=-1 {command_line}"),
        ],
    )
}

fn shell_answers(vmm: &mut Vmm) -> Outcome<()> {
    vmm.console.expect("init: ready", BOOT)?;
    vmm.console.expect("/ # ", ANSWER)?;
    vmm.type_line("echo $((6 * 7)) is the answer of $(uname -s)")?;
    vmm.console.expect("\n42 is the answer of Linux", ANSWER)
}

/// As on QEMU's default CPU: what speculation could leak is mitigated or not there. (QEMU 7.2 with
/// TCG and the same kernel mitigates the same two.)
fn nothing_is_vulnerable(vmm: &mut Vmm) -> Outcome<()> {
    vmm.type_line(
        "cd /sys/devices/system/cpu/vulnerabilities && ls meltdown spectre_v1 spectre_v2",
    )?;
    vmm.console.expect("\nmeltdown", ANSWER)?;
    vmm.type_line(
        "grep -rv 'Not affected' . | grep -v '^./spectre_v[12]:Mitigation: '; echo $?: seen",
    )?;
    vmm.console.expect("\n1: seen", ANSWER)
}

fn powers_off(vmm: &mut Vmm) -> Outcome<()> {
    let status = vmm.ended(ANSWER)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "after power-off: {status}: {}",
        vmm.errors.text()
    )))
}

#[test]
fn vmlinux_boots_to_a_shell_and_powers_off() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let mut vmm = boot(&installation, &scratch, &installation.vmlinux, "")?;
    shell_answers(&mut vmm)?;
    nothing_is_vulnerable(&mut vmm)?;
    vmm.type_line("poweroff")?;
    powers_off(&mut vmm)
}

#[test]
fn bzimage_boots_to_a_shell_and_reboots() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let mut vmm = boot(&installation, &scratch, &installation.bzimage, "quiet")?;
    shell_answers(&mut vmm)?;
    vmm.type_line("reboot")?;
    // A second time, from the beginning.
    shell_answers(&mut vmm)?;
    vmm.type_line("poweroff")?;
    powers_off(&mut vmm)
}

#[test]
fn the_end_of_input_is_no_power_off() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let mut vmm = boot(&installation, &scratch, &installation.vmlinux, "quiet")?;
    shell_answers(&mut vmm)?;
    vmm.type_line("(sleep 3; echo still $((40 + 2)) here; sleep 1; poweroff -f) &")?;
    vmm.close_stdin();
    vmm.console.expect("still 42 here", ANSWER)?;
    powers_off(&mut vmm)
}

/// With `reboot=t` the kernel loads an empty IDT and raises an exception.
#[test]
fn a_triple_fault_resets() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let mut vmm = boot(
        &installation,
        &scratch,
        &installation.vmlinux,
        "quiet reboot=t",
    )?;
    shell_answers(&mut vmm)?;
    vmm.type_line("reboot -f")?;
    shell_answers(&mut vmm)?;
    vmm.type_line("poweroff -f")?;
    powers_off(&mut vmm)
}

#[test]
fn the_guest_counts_as_the_host_does() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let count = Count {
        rounds: 2000,
        pause_ms: 5,
        mib: 4,
    };
    let command_line = format!("quiet {}", count.parameter(200));
    let mut vmm = boot(
        &installation,
        &scratch,
        &installation.bzimage,
        &command_line,
    )?;
    vmm.console.expect("# done", BOOT)?;
    powers_off(&mut vmm)?;

    let mut history = History::new(count.expected(&installation.count, 200, true)?, true);
    history.add(&vmm.console.bytes())?;
    assert!(history.is_complete());
    Ok(())
}
