//! Disks: alone, recorded, and behind the gate of a pair.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration::chain::{BOOT, Chain};
use integration::installation::Installation;
use integration::namespaces::Ground;
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::skips::skip;
use integration::{Failure, Outcome};

fn run(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{command:?}: {text}{errors}")))
}

/// An image with a file system.
pub fn image(scratch: &Scratch) -> Outcome<PathBuf> {
    let path = scratch.join("disk.img");
    std::fs::File::create(&path)?.set_len(64 << 20)?;
    run(Command::new("mkfs.ext4").arg("-q").arg(&path))?;
    Ok(path)
}

/// The file system is whole, and nothing of it was lost.
pub fn check(image: &Path) -> Outcome<()> {
    run(Command::new("fsck.ext4").arg("-fn").arg(image)).map(drop)
}

/// What `sha256sum` says of what a shell's command writes.
fn sum_of(command: &str) -> Outcome<String> {
    let text = run(Command::new("sh").args(["-c", &format!("{command} | sha256sum")]))?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

fn boot(installation: &Installation, scratch: &Scratch, name: &str, more: &[&str]) -> Outcome<Vmm> {
    let vmm = Vmm::boot(installation, scratch, name, more)?;
    vmm.console.expect("/ # ", BOOT)?;
    Ok(vmm)
}

fn power_off(vmm: &mut Vmm) -> Outcome<()> {
    vmm.type_line("poweroff -f")?;
    let status = vmm.ended(BOOT)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{status}: {}", vmm.errors.text())))
}

/// Written, read back past the guest's cache, kept over a new machine; and the log of it all
/// replays to the same digest without the image.
#[test]
fn a_guest_keeps_files_on_its_disk() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let image = image(&scratch)?;
    let log = scratch.join("log");
    let disk = format!("path={},serial=first-disk", image.display());
    let record = format!("path={}", log.display());
    let expected = sum_of("seq 1 100000")?;

    let more = ["--disk", &disk, "--record", &record];
    let mut first = boot(&installation, &scratch, "first", &more)?;
    first
        .type_line("cat /sys/block/vda/serial; mount /dev/vda /mnt; seq 1 100000 > /mnt/x; sync")?;
    first.type_line("echo 3 > /proc/sys/vm/drop_caches; sha256sum < /mnt/x; umount /mnt")?;
    first.type_line("dd if=/dev/vda of=/dev/null bs=1M iflag=direct count=8; echo all done $?")?;
    first.console.expect("first-disk", BOOT)?;
    first.console.expect(&expected, BOOT)?;
    first.console.expect("all done 0", BOOT)?;
    // Nobody else writes to it meanwhile.
    let mut other = Vmm::start(
        &installation,
        &scratch,
        "other",
        &[
            "--kernel",
            &installation.vmlinux.to_string_lossy(),
            "--disk",
            &disk,
        ],
    )?;
    assert!(!other.ended(BOOT)?.success());
    assert!(
        other
            .errors
            .text()
            .contains("another process has locked it")
    );
    power_off(&mut first)?;
    check(&image)?;

    let read_only = format!("{disk},readonly=on,direct=on");
    let mut second = boot(&installation, &scratch, "second", &["--disk", &read_only])?;
    second
        .type_line("mount -o ro /dev/vda /mnt; sha256sum < /mnt/x; echo > /dev/vda; echo so $?")?;
    second.console.expect(&expected, BOOT)?;
    second.console.expect("so 1", BOOT)?;
    power_off(&mut second)?;

    std::fs::remove_file(&image)?;
    let mut digests = Vec::new();
    for flush in ["", ",flush=7"] {
        let replay = format!("path={}{flush}", log.display());
        let output = run(Command::new(&installation.vmm).args(["--replay", &replay]))?;
        digests.push(output.lines().last().unwrap_or_default().to_owned());
    }
    assert_eq!(digests[0].len(), 16, "{digests:?}");
    assert_eq!(digests[0], digests[1]);
    Ok(())
}

/// A protected guest that writes and syncs file after file, three a second at most: what happens
/// to it falls between them.
pub fn writer<'a>(
    installation: &'a Installation,
    scratch: &'a Scratch,
    ground: Ground,
    disk: &str,
) -> Outcome<Chain<'a>> {
    let random = Random::from_environment();
    let mut chain = Chain::boot_devices(installation, scratch, ground, random, &["--disk", disk])?;
    chain.primary.console.expect("/ # ", BOOT)?;
    chain.primary.type_line("mount /dev/vda /mnt; i=0")?;
    Ok(chain)
}

/// The guest begins, beside its shell.
pub fn write(chain: &mut Chain<'_>, files: usize) -> Outcome<()> {
    let step = "seq $i 2000 > /mnt/$i && sync && echo written-$i-; i=$((i + 1)); usleep 300000";
    let line = format!("while [ $i -lt {files} ]; do {step}; done &");
    chain.primary.type_line(&line)
}

/// No file is missing or wrong through the guest's eyes, past its cache.
pub fn judge(primary: &mut Vmm, files: usize) -> Outcome<()> {
    primary
        .console
        .expect(&format!("written-{}-", files - 1), BOOT)?;
    primary.type_line("wait; echo 3 > /proc/sys/vm/drop_caches")?;
    let all = |show: &str| format!("i=0; while [ $i -lt {files} ]; do {show}; i=$((i + 1)); done");
    primary.type_line(&format!("({}) | sha256sum", all("cat /mnt/$i")))?;
    let expected = sum_of(&format!("({})", all("seq $i 2000")))?;
    primary.console.expect(&expected, BOOT)?;
    primary.type_line("umount /mnt; poweroff -f")?;
    let status = primary.ended(BOOT)?;
    assert!(status.success(), "{status}: {}", primary.errors.text());
    Ok(())
}

/// The primary is killed while the guest writes: it goes on, and in the end nothing is missing.
fn survive(scratch: &Scratch, disk: &str, files: usize, kills: usize) -> Outcome<()> {
    let installation = Installation::find()?;
    let mut random = Random::from_environment();
    let mut chain = writer(&installation, scratch, Ground::Loopback, disk)?;
    chain.protect()?;
    write(&mut chain, files)?;
    for count in 0..kills {
        chain
            .primary
            .console
            .expect(&format!("written-{}-", 2 + 4 * count), BOOT)?;
        std::thread::sleep(random.time_below(Duration::from_millis(600)));
        chain.fail_over()?;
        chain.protect()?;
    }
    judge(&mut chain.primary, files)
}

#[test]
fn what_was_written_survives_the_primary() -> Outcome<()> {
    let scratch = Scratch::new()?;
    let image = image(&scratch)?;
    let disk = format!("path={}", image.display());
    survive(&scratch, &disk, 30, 2)?;
    check(&image)
}

/// The same with a qcow2 image above another one: QEMU finds both sound, and the lower one as it was.
#[test]
fn a_qcow2_image_survives_the_primary() -> Outcome<()> {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        skip("a_qcow2_image_survives_the_primary", "no qemu-img");
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let base = image(&scratch)?;
    let before = sum_of(&format!("cat {}", base.display()))?;
    let overlay = scratch.join("overlay.qcow2");
    run(Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([&base, &overlay]))?;
    let disk = format!("path={},backing_files=on", overlay.display());
    survive(&scratch, &disk, 10, 1)?;
    run(Command::new("qemu-img").args(["check", "-q"]).arg(&overlay))?;
    let flat = scratch.join("flat.img");
    run(Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .args([&overlay, &flat]))?;
    check(&flat)?;
    assert_eq!(sum_of(&format!("cat {}", base.display()))?, before);
    Ok(())
}

/// A small file system that goes with its owner.
struct Tmpfs(PathBuf);

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Its users are gone.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// The host's storage is full, the image is cut off, and in the end it is gone: errors that the
/// guest sees, the same before and after it lost its primary.
#[test]
fn a_guest_outlives_its_storage() -> Outcome<()> {
    let scratch = Scratch::new()?;
    let small = Tmpfs(scratch.join("small"));
    std::fs::create_dir(&small.0)?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8M", "none"])
        .arg(&small.0)
        .output()?;
    if !mounted.status.success() {
        skip("a_guest_outlives_its_storage", "only root can mount");
        return Ok(());
    }
    let image = small.0.join("disk.img");
    let file = std::fs::File::create(&image)?;
    file.set_len(64 << 20)?;
    let installation = Installation::find()?;
    let disk = format!("path={}", image.display());
    let (random, ground) = (Random::from_environment(), Ground::Loopback);
    let devices = ["--disk", &disk];
    let mut chain = Chain::boot_devices(&installation, &scratch, ground, random, &devices)?;
    chain.primary.console.expect("/ # ", BOOT)?;
    chain.protect()?;
    let write = "dd if=/dev/zero of=/dev/vda bs=1M count=16 oflag=direct; echo full-$?-";
    chain.primary.type_line(write)?;
    chain.primary.console.expect("full-1-", BOOT)?;
    file.set_len(1 << 20)?;
    let read =
        |skip: u32| format!("dd if=/dev/vda of=/dev/null bs=64k skip={skip} count=1 iflag=direct");
    let line = format!("{}; echo cut-$?-; {}; echo whole-$?-", read(64), read(0));
    chain.primary.type_line(&line)?;
    chain.primary.console.expect("cut-1-", BOOT)?;
    chain.primary.console.expect("whole-0-", BOOT)?;
    std::fs::remove_file(&image)?;
    chain.fail_over()?;
    let survivor = &mut chain.primary;
    survivor.type_line(&format!("{}; echo gone-$?-", read(1)))?;
    survivor.console.expect("gone-1-", BOOT)?;
    assert!(
        survivor
            .errors
            .text()
            .contains("cannot open the disk image")
    );
    power_off(survivor)
}

/// As much as is allowed, and not more.
#[test]
fn a_disk_keeps_its_limits() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let image = image(&scratch)?;
    // Another request every 20 ms, and none from the burst of the first ones.
    let group = "id=slow,ops_size=10,ops_refill_time=200";
    let disk = format!("path={},rate_limit_group=slow", image.display());
    let more = ["--rate-limit-group", group, "--disk", &disk];
    let mut vmm = boot(&installation, &scratch, "limited", &more)?;
    let read = "dd if=/dev/vda of=/dev/null bs=4k count=60 iflag=direct; echo read-$?-";
    let began = std::time::Instant::now();
    vmm.type_line(read)?;
    vmm.console.expect("read-0-", BOOT)?;
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    power_off(&mut vmm)
}
