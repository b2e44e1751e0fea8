//! A log that was kept says all that there was.

use std::time::Duration;

use integration::chain::BOOT;
use integration::installation::Installation;
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::{Failure, Outcome};

const ANSWER: Duration = Duration::from_secs(60);

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

    let mut recorded = Vmm::boot(
        &installation,
        &scratch,
        "recorded",
        &["--cmdline", "console=ttyS0 panic=-1", "--record", &path],
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

    // A replay shows what the recorded run showed, and then, on a line of its own, the digest of
    // the state in which it ended.
    let mut digests = Vec::new();
    // In the second one, caches are emptied at random positions.
    let flush = format!("{path},flush={}", random.number());
    for (name, option) in [("replay-1", &path), ("replay-2", &flush)] {
        let mut replay = Vmm::start_without_api(&installation, name, &["--replay", option])?;
        replay.close_stdin();
        ended_well(&mut replay)?;
        let (shown, said) = (recorded.console.bytes(), replay.console.bytes());
        let digest = said.strip_prefix(shown.as_slice()).ok_or_else(|| {
            Failure::new(format!(
                "{name} shows another console:\n{}\n--- recorded was:\n{}",
                replay.console.text(),
                recorded.console.text()
            ))
        })?;
        digests.push(String::from_utf8_lossy(digest).trim().to_owned());
    }
    assert!(!digests[0].is_empty(), "no digest was said");
    assert_eq!(digests[0], digests[1]);
    Ok(())
}
