//! What a guest and its pair notice when somebody sets a host's clock: nothing.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration::chain::{BOOT, Chain};
use integration::failure::While;
use integration::installation::Installation;
use integration::namespaces::Ground;
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::skips::skip;
use integration::{Failure, Outcome};

const DAY: i64 = 24 * 60 * 60;
/// How far the guest's clock may be from where it should be, in seconds: it counts whole ones, and
/// takes a while to be asked.
const TOLERANCE: i64 = 3;

/// Makes `installation`'s program one whose time of day is off by what a file says.
fn with_moved_clock(installation: &mut Installation, scratch: &Scratch) -> Outcome<Option<File>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/time_of_day.c");
    let library = scratch.join("time_of_day.so");
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=c11", "-O2", "-shared", "-fPIC", "-o"]);
    let Ok(compiled) = gcc.args([&library, &source]).output() else {
        return Ok(None);
    };
    if !compiled.status.success() {
        return Err(Failure::new(String::from_utf8_lossy(&compiled.stderr)));
    }
    let offset = scratch.join("offset");
    let file = File::create_new(&offset)?;
    file.set_len(8)?;
    let wrapper = scratch.join("cloud-hypervisor");
    let (library, offset) = (library.display(), offset.display());
    let script = format!(
        "#!/bin/sh\nLD_PRELOAD={library} TIME_OF_DAY_OFFSET={offset} exec {} \"$@\"\n",
        installation.vmm.display()
    );
    fs::write(&wrapper, script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    installation.vmm = wrapper;
    Ok(Some(file))
}

/// The seconds since 1970, as the guest has them.
fn time_in(vmm: &mut Vmm, question: usize) -> Outcome<i64> {
    let before = vmm.console.length();
    vmm.type_line(&format!("echo $(date +%s) is answer {question}.$((6 * 7))"))?;
    vmm.console
        .expect(&format!(" is answer {question}.42"), BOOT)?;
    let bytes = vmm.console.bytes();
    let text = String::from_utf8_lossy(&bytes[before..]).into_owned();
    let (said, _) = text
        .split_once(&format!(" is answer {question}.42"))
        .ok_or_else(|| Failure::new(&text))?;
    let number = said.rsplit('\n').next().unwrap_or_default();
    number
        .parse()
        .during(format_args!("the guest says {text:?}"))
}

/// The host's time of day goes back and forth by years under a protected guest, and before a
/// failover. The guest's clock goes on, and the pair stays one.
#[test]
fn the_hosts_time_of_day_jumps() -> Outcome<()> {
    let mut installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let Some(offset) = with_moved_clock(&mut installation, &scratch)? else {
        skip("the_hosts_time_of_day_jumps", "no gcc");
        return Ok(());
    };
    let set = |seconds: i64| {
        let nanoseconds = seconds * 1_000_000_000;
        offset.write_all_at(&nanoseconds.to_le_bytes(), 0)
    };
    set(400 * DAY)?;
    let random = Random::from_environment();
    let mut chain = Chain::boot_shell(&installation, &scratch, Ground::Loopback, random)?;
    chain.primary.console.expect("/ # ", BOOT)?;
    let first = time_in(&mut chain.primary, 0)?;
    let began = Instant::now();
    let here = SystemTime::now().duration_since(UNIX_EPOCH);
    let here = here.during("the time")?.as_secs() as i64;
    // The guest's clock began with the host's, which was wrong.
    let off = first - here - 400 * DAY;
    assert!((-DAY..=TOLERANCE).contains(&off), "{off} s");

    chain.protect()?;
    let check = |vmm: &mut Vmm, question: usize| -> Outcome<()> {
        std::thread::sleep(Duration::from_millis(1200));
        let earliest = began.elapsed();
        let passed = time_in(vmm, question)? - first;
        let latest = began.elapsed();
        // A guest that had no processor for seconds stays behind.
        let expected = 1 - TOLERANCE..=latest.as_secs() as i64 + TOLERANCE;
        assert!(
            expected.contains(&passed),
            "{passed} s passed in the guest, {earliest:?} to {latest:?} here"
        );
        Ok(())
    };
    for (question, days) in [(1, -400), (2, 4000), (3, 0)] {
        set(days * DAY)?;
        check(&mut chain.primary, question)?;
        let info = chain.primary.ft_info()?;
        assert!(info.is_protected(), "{info}");
    }
    set(-3000 * DAY)?;
    chain.fail_over()?;
    check(&mut chain.primary, 4)?;
    chain.protect()?;
    set(0)?;
    check(&mut chain.primary, 5)
}
