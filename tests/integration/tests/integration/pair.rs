//! Primary and backup: kills, freezes, cuts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use integration::chain::{BOOT, Chain, Event, FAILOVER};
use integration::count::Count;
use integration::installation::Installation;
use integration::namespaces::{Ground, Wire};
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::skips::skip;
use integration::{Failure, Outcome};

const COUNT: Count = Count {
    rounds: 2000,
    pause_ms: 10,
    mib: 4,
};

/// Boots, then for each event: protects, lets it happen, checks.
fn chain(events: impl IntoIterator<Item = Event>, random: Random) -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let mut chain = Chain::boot(&installation, &scratch, Ground::Loopback, random, COUNT)?;
    chain.counts()?;
    for event in events {
        chain.protect()?;
        eprintln!("{}", chain.turn(event)?);
    }
    Ok(())
}

/// `CH_FAILOVERS` in a row, the survivor protected anew each time.
#[test]
fn primary_after_primary_is_killed() -> Outcome<()> {
    let failovers = std::env::var("CH_FAILOVERS").map_or(5, |text| {
        text.parse().expect("CH_FAILOVERS must be a number")
    });
    let events = (0..failovers).map(|_| Event::KillPrimary);
    chain(events, Random::from_environment())
}

#[test]
fn backup_after_backup_is_killed() -> Outcome<()> {
    chain([Event::KillBackup; 3], Random::from_environment())
}

#[test]
fn primary_after_primary_is_frozen() -> Outcome<()> {
    chain([Event::FreezePrimary; 3], Random::from_environment())
}

#[test]
fn backup_after_backup_is_frozen() -> Outcome<()> {
    chain([Event::FreezeBackup; 2], Random::from_environment())
}

#[test]
fn one_thing_after_another() -> Outcome<()> {
    let mut random = Random::from_environment();
    let all = [Event::KillPrimary, Event::KillBackup, Event::FreezePrimary];
    let events: Vec<Event> = (0..4).map(|_| all[random.below(3) as usize]).collect();
    chain(events, random)
}

/// The guest is protected from its first instructions on, and its host dies while it boots.
#[test]
fn the_primary_is_killed_while_the_guest_boots() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let mut random = Random::from_environment();
    let moment = random.time_below(Duration::from_secs(1));
    let mut chain = Chain::boot(&installation, &scratch, Ground::Loopback, random, COUNT)?;
    chain.protect()?;
    std::thread::sleep(moment);
    let mut old = chain.promote()?;
    old.kill()?;
    // A fast host may have booted it by then.
    let is_booted = old.console.text().contains("# count");
    if !is_booted {
        chain.primary.console.expect("# count", BOOT)?;
    }
    chain.primary.console.expect_lines(5, BOOT)?;
    chain.verify()?;
    Ok(())
}

/// A backup that is lost before it was complete changes nothing.
#[test]
fn the_backup_is_killed_while_it_is_made() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let mut random = Random::from_environment();
    let moments: Vec<Duration> = (0..3)
        .map(|_| random.time_below(Duration::from_millis(400)))
        .collect();
    let mut chain = Chain::boot(&installation, &scratch, Ground::Loopback, random, COUNT)?;
    chain.counts()?;
    for moment in moments {
        chain.offer()?;
        std::thread::sleep(moment);
        chain.backup = None;
        chain
            .primary
            .await_ft("unprotected", FAILOVER, |info| info.is_unprotected())?;
        chain.primary.console.expect_lines(3, FAILOVER)?;
        chain.verify()?;
    }
    chain.protect()?;
    chain.turn(Event::KillPrimary)?;
    Ok(())
}

/// The survivor needs nothing of the first host, not even to start the guest again.
#[test]
fn the_survivor_reboots_its_guest_without_the_first_hosts_files() -> Outcome<()> {
    let mut installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let random = Random::from_environment();
    let (kernel, initramfs) = (scratch.join("kernel"), scratch.join("initramfs"));
    fs::copy(&installation.bzimage, &kernel)?;
    fs::copy(&installation.initramfs, &initramfs)?;
    installation.vmlinux.clone_from(&kernel);
    installation.initramfs.clone_from(&initramfs);

    let mut chain = Chain::boot_shell(&installation, &scratch, Ground::Loopback, random)?;
    chain.primary.console.expect("/ # ", BOOT)?;
    chain.protect()?;
    fs::remove_file(&kernel)?;
    fs::remove_file(&initramfs)?;
    chain.fail_over()?;
    let primary = &mut chain.primary;
    primary.type_line("echo survivor $((40 + 2)); reboot")?;
    primary.console.expect("survivor 42", FAILOVER)?;
    primary.console.expect("init: ready", BOOT)?;
    primary.console.expect("/ # ", BOOT)?;
    primary.type_line("echo rebooted $((40 + 2)); poweroff")?;
    primary.console.expect("rebooted 42", FAILOVER)?;
    let status = primary.ended(FAILOVER)?;
    assert!(status.success(), "{status}: {}", primary.errors.text());
    Ok(())
}

/// The wire between two hosts is cut: both see the other vanish, one goes on.
#[test]
fn one_side_goes_on_when_the_wire_is_cut() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => {
            skip(
                "one_side_goes_on_when_the_wire_is_cut",
                &format!("no network namespaces: {error}"),
            );
            return Ok(());
        }
    };
    let random = Random::from_environment();
    let mut chain = Chain::boot(&installation, &scratch, Ground::Wire(wire), random, COUNT)?;
    chain.counts()?;
    for _ in 0..2 {
        chain.protect()?;
        eprintln!("{}", chain.turn(Event::CutWire)?);
    }
    Ok(())
}

/// A network that loses one protocol: without heartbeats the pair stays one, without the stream one
/// side goes on.
#[test]
fn one_protocol_is_lost_on_the_wire() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => {
            let why = format!("no network namespaces: {error}");
            skip("one_protocol_is_lost_on_the_wire", &why);
            return Ok(());
        }
    };
    let random = Random::from_environment();
    let mut chain = Chain::boot(&installation, &scratch, Ground::Wire(wire), random, COUNT)?;
    chain.counts()?;
    chain.protect()?;
    eprintln!("{}", chain.turn(Event::CutHeartbeats)?);
    eprintln!("{}", chain.turn(Event::CutStream)?);
    Ok(())
}

/// A wire on which frames are late, overtake each other and get lost costs no protection; on one that
/// loses nearly all of them, one side goes on, and only one.
#[test]
fn frames_are_late_and_lost_on_the_wire() -> Outcome<()> {
    let test = "frames_are_late_and_lost_on_the_wire";
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    if !Path::new("/dev/net/tun").exists() {
        skip(test, "no /dev/net/tun");
        return Ok(());
    }
    let random = Random::from_environment();
    let wire = match Wire::emulated(random.clone()) {
        Ok(wire) => wire,
        Err(error) => {
            skip(test, &format!("no network namespaces: {error}"));
            return Ok(());
        }
    };
    let mut chain = Chain::boot(&installation, &scratch, Ground::Wire(wire), random, COUNT)?;
    chain.counts()?;
    chain.protect()?;
    eprintln!("{}", chain.turn(Event::PoorWire)?);
    eprintln!("{}", chain.turn(Event::BadWire)?);
    Ok(())
}

/// A backup that stands still, shorter than would make it lost, while the log grows faster than the
/// buffers: the primary waits for it, and both go on.
#[test]
fn a_full_log_buffer_stops_the_primary_and_loses_nothing() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let image = scratch.join("zeros.img");
    fs::File::create(&image)?.set_len(16 << 20)?;
    let random = Random::from_environment();
    let disk = format!("path={}", image.display());
    let ground = Ground::Loopback;
    let mut chain =
        Chain::boot_devices(&installation, &scratch, ground, random, &["--disk", &disk])?;
    chain.primary.console.expect("/ # ", BOOT)?;
    chain.protect()?;
    // All that is read goes through the log.
    let read = "dd if=/dev/vda of=/dev/null bs=1M iflag=direct 2>/dev/null && echo round-$i-";
    let line = format!("i=0; while [ $i -lt 40 ]; do i=$((i + 1)); {read}; done; echo all $?");
    chain.primary.type_line(&line)?;
    let backup = chain.backup.as_ref();
    let backup = backup.ok_or_else(|| Failure::new("there is no backup"))?;
    let position = |vmm: &Vmm| -> Outcome<u64> {
        let info = vmm.ft_info()?;
        let position = info.json()["position"].as_u64();
        position.ok_or_else(|| Failure::new("there is no position"))
    };
    let mut stood = false;
    for round in [2, 12, 22] {
        let primary = &chain.primary;
        primary.console.expect(&format!("round-{round}-"), BOOT)?;
        backup.freeze()?;
        std::thread::sleep(Duration::from_millis(300));
        let before = position(primary)?;
        std::thread::sleep(Duration::from_millis(100));
        stood |= position(primary)? == before;
        backup.thaw()?;
    }
    assert!(stood, "the primary never waited");
    chain.primary.console.expect("all 0", BOOT)?;
    let info = chain.primary.ft_info()?;
    assert!(info.is_protected(), "{info}");
    chain.fail_over()?;
    let primary = &mut chain.primary;
    primary.type_line("echo survivor $((40 + 2))")?;
    primary.console.expect("survivor 42", FAILOVER)
}
