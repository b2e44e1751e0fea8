//! A log that was kept says all that there was.

use std::time::Duration;

use integration::chain::BOOT;
use integration::installation::Installation;
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::{Failure, Outcome};

const ANSWER: Duration = Duration::from_secs(60);

/// The digest that a recorded or replayed run says at its end.
fn digest(vmm: &Vmm) -> Outcome<String> {
    let said = vmm.errors.text();
    let line = said.lines().find_map(|line| {
        let (_, digest) = line.split_once("digest ")?;
        Some(digest.trim().to_owned())
    });
    line.ok_or_else(|| Failure::new(format!("no digest was said: {said}")))
}

fn ended_well(vmm: &mut Vmm) -> Outcome<()> {
    let status = vmm.ended(BOOT)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{status}: {}", vmm.errors.text())))
}

/// A session with typing at moments that nobody planned, recorded, and replayed twice.
#[test]
fn a_recorded_session_replays_to_the_same_digest() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let mut random = Random::from_environment();
    let log = scratch.join("log");
    let path = format!("path={}", log.display());

    let mut recorded = Vmm::start(
        &installation,
        &scratch,
        "recorded",
        &[
            "--kernel",
            &installation.vmlinux.to_string_lossy(),
            "--initramfs",
            &installation.initramfs.to_string_lossy(),
            "--cmdline",
            "console=ttyS0 panic=-1",
            "--memory",
            "size=256M",
            "--serial",
            "tty",
            "--console",
            "off",
            "--record",
            &path,
        ],
    )?;
    recorded.console.expect("/ # ", BOOT)?;
    recorded.type_line("count 100 2000 10")?;
    for number in 0..20 {
        std::thread::sleep(random.time_below(Duration::from_millis(150)));
        recorded.type_line(&format!("echo typed {number}"))?;
    }
    recorded.console.expect("# done", ANSWER)?;
    recorded.console.expect("\ntyped 19", ANSWER)?;
    recorded.type_line("date; cat /proc/interrupts; dmesg | sha256sum; poweroff -f")?;
    ended_well(&mut recorded)?;
    let end = digest(&recorded)?;

    for name in ["replay-1", "replay-2"] {
        let mut replay = Vmm::start(&installation, &scratch, name, &["--replay", &path])?;
        replay.close_stdin();
        ended_well(&mut replay)?;
        if replay.console.bytes() != recorded.console.bytes() {
            return Err(Failure::new(format!(
                "{name} shows another console:\n{}\n--- recorded was:\n{}",
                replay.console.text(),
                recorded.console.text()
            )));
        }
        assert_eq!(digest(&replay)?, end, "{name} ends in another state");
    }
    Ok(())
}
