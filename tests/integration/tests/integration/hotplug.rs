//! Devices that come and go while the guest runs: alone, recorded, and behind the gate of a pair.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use integration::chain::{BOOT, Chain, FAILOVER};
use integration::failure::While;
use integration::installation::Installation;
use integration::namespaces::{Ground, Wire};
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::site::ip;
use integration::skips::skip;
use integration::{Failure, Outcome};
use serde_json::Value;

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
fn image(scratch: &Scratch, name: &str) -> Outcome<PathBuf> {
    let path = scratch.join(name);
    std::fs::File::create(&path)?.set_len(16 << 20)?;
    run(Command::new("mkfs.ext4").arg("-q").arg(&path))?;
    Ok(path)
}

fn check(image: &Path) -> Outcome<()> {
    run(Command::new("fsck.ext4").arg("-fn").arg(image)).map(drop)
}

/// Adds a device; where it is.
fn add(vmm: &Vmm, command: &str, device: &str) -> Outcome<(String, String)> {
    let answer: Value = serde_json::from_str(&vmm.remote(&[command, device])?).during(command)?;
    let field = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    Ok((field("id"), field("bdf")))
}

/// What a refused command says.
fn refused(vmm: &Vmm, command: &[&str]) -> String {
    match vmm.remote(command) {
        Ok(answer) => panic!("{command:?} was carried out: {answer}"),
        Err(error) => error.to_string(),
    }
}

/// The names of the disks and cards that `vm.info` shows.
fn devices(vmm: &Vmm) -> Outcome<Vec<String>> {
    let info: Value = serde_json::from_str(&vmm.remote(&["info"])?).during("info")?;
    let mut names = Vec::new();
    for kind in ["disks", "net"] {
        let all = info["config"][kind].as_array();
        let ids = all.into_iter().flatten().filter_map(|d| d["id"].as_str());
        names.extend(ids.map(str::to_owned));
    }
    Ok(names)
}

fn await_devices(vmm: &Vmm, expected: &[&str]) -> Outcome<()> {
    let deadline = Instant::now() + FAILOVER;
    loop {
        let found = devices(vmm)?;
        if found == expected {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("there are {found:?}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A disk is added, used, given up by the guest, and added again; the log of it all replays to one
/// digest, without the image.
#[test]
fn a_disk_comes_and_goes() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let image = image(&scratch, "added.img")?;
    let log = scratch.join("log");
    let mut vmm = Vmm::boot(
        &installation,
        &scratch,
        "alone",
        &["--record", &format!("path={}", log.display())],
    )?;
    vmm.console.expect("/ # ", BOOT)?;
    // The source of random bytes is in the first slot.
    let disk = format!("path={},id=data", image.display());
    let place = ("data".to_owned(), "0000:00:02.0".to_owned());
    assert_eq!(add(&vmm, "add-disk", &disk)?, place);
    assert_eq!(devices(&vmm)?, ["data"]);
    vmm.type_line("modprobe virtio_blk; until [ -b /dev/vda ]; do sleep 0.1; done; echo there $?")?;
    vmm.console.expect("there 0", BOOT)?;
    vmm.type_line("mount /dev/vda /mnt; echo kept > /mnt/x; umount /mnt; echo written $?")?;
    vmm.console.expect("written 0", BOOT)?;

    let said = refused(&vmm, &["add-disk", &disk]);
    assert!(said.contains("status 409"), "{said}");
    let said = refused(&vmm, &["remove-device", "other"]);
    assert!(said.contains("status 404"), "{said}");
    let said = refused(&vmm, &["remove-device", "__rng"]);
    assert!(said.contains("cannot be removed"), "{said}");
    let said = refused(&vmm, &["add-disk", "path=/nowhere"]);
    assert!(said.contains("/nowhere"), "{said}");

    vmm.remote(&["remove-device", "data"])?;
    vmm.type_line("while [ -b /dev/vda ]; do sleep 0.1; done; echo gone $?")?;
    vmm.console.expect("gone 0", BOOT)?;
    await_devices(&vmm, &[])?;
    // The image is free again, and so is the slot.
    check(&image)?;
    assert_eq!(add(&vmm, "add-disk", &disk)?, place);
    vmm.type_line("until mount /dev/vda /mnt; do sleep 0.1; done; cat /mnt/x; umount /mnt")?;
    vmm.console.expect("\nkept", BOOT)?;
    // The socket device comes and goes too.
    let socket = scratch.join("vsock");
    let vsock = format!("cid=7,socket={},id=streams", socket.display());
    let slot = ("streams".to_owned(), "0000:00:03.0".to_owned());
    assert_eq!(add(&vmm, "add-vsock", &vsock)?, slot);
    let said = refused(&vmm, &["add-vsock", &vsock]);
    assert!(said.contains("only one"), "{said}");
    let info: Value = serde_json::from_str(&vmm.remote(&["info"])?).during("info")?;
    let tree = &info["device_tree"];
    assert_eq!(tree["_virtio-pci-streams"]["pci_bdf"], "0000:00:03.0");
    assert_eq!(tree["data"]["parent"], "_virtio-pci-data");
    let listener = UnixListener::bind(scratch.join("vsock_1234"))?;
    let echo = std::thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        std::io::copy(&mut &stream, &mut &stream)
    });
    vmm.type_line(
        "modprobe vmw_vsock_virtio_transport; until streams send 2 1234 1; do sleep 0.1; done",
    )?;
    vmm.console
        .expect("1048576 came back, 0 of them wrong: end", BOOT)?;
    assert_eq!(echo.join().expect("the echo panicked")?, 1 << 20);
    vmm.remote(&["remove-device", "streams"])?;
    let deadline = Instant::now() + FAILOVER;
    while socket.exists() {
        assert!(Instant::now() < deadline, "it is still listened at");
        std::thread::sleep(Duration::from_millis(20));
    }
    vmm.type_line("poweroff -f")?;
    assert!(vmm.ended(BOOT)?.success());
    check(&image)?;

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

/// Devices that are added under protection are the survivor's too; those that the other host does
/// not have are refused; a guest that has changed is cloned as it is.
#[test]
fn added_devices_outlive_the_primary() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    if !Path::new("/dev/net/tun").exists() {
        skip("added_devices_outlive_the_primary", "no /dev/net/tun");
        return Ok(());
    }
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => {
            let why = format!("no network namespaces: {error}");
            skip("added_devices_outlive_the_primary", &why);
            return Ok(());
        }
    };
    for (index, place) in wire.places().iter().enumerate() {
        let host = place.namespace().unwrap_or_default();
        ip(&format!("-n {host} tuntap add dev tap0 mode tap vnet_hdr"))?;
        if index == 0 {
            ip(&format!("-n {host} tuntap add dev alone mode tap vnet_hdr"))?;
        }
    }
    let image = image(&scratch, "added.img")?;
    let random = Random::from_environment();
    let mut chain = Chain::boot_shell(&installation, &scratch, Ground::Wire(wire), random)?;
    chain.primary.console.expect("/ # ", BOOT)?;
    chain.protect()?;

    let primary = &mut chain.primary;
    let said = refused(primary, &["add-net", "tap=alone"]);
    assert!(said.contains("backup's host"), "{said}");
    assert!(said.contains("no TAP device 'alone'"), "{said}");
    let disk = format!("path={},id=data", image.display());
    assert_eq!(add(primary, "add-disk", &disk)?.1, "0000:00:02.0");
    assert_eq!(
        add(primary, "add-net", "tap=tap0,id=lan")?.1,
        "0000:00:03.0"
    );
    if let Some(backup) = &chain.backup {
        let said = refused(backup, &["remove-device", "data"]);
        assert!(said.contains("ask the primary"), "{said}");
        await_devices(backup, &["data", "lan"])?;
    }
    primary.type_line("modprobe virtio_blk; modprobe virtio_net; echo loaded $?")?;
    primary.console.expect("loaded 0", BOOT)?;
    primary.type_line("until [ -b /dev/vda ] && [ -d /sys/class/net/eth0 ]; do sleep 0.1; done")?;
    primary.type_line("mount /dev/vda /mnt; echo kept > /mnt/x; sync; echo written $?")?;
    primary.console.expect("written 0", BOOT)?;

    chain.fail_over()?;
    let primary = &mut chain.primary;
    assert_eq!(devices(primary)?, ["data", "lan"]);
    primary.type_line("echo 3 > /proc/sys/vm/drop_caches; cat /mnt/x; echo read $?")?;
    primary.console.expect("kept", BOOT)?;
    primary.console.expect("read 0", BOOT)?;

    // The next backup gets the machine as it has become; the guest then gives up a device.
    chain.protect()?;
    let primary = &mut chain.primary;
    primary.remote(&["remove-device", "lan"])?;
    primary.type_line("while [ -d /sys/class/net/eth0 ]; do sleep 0.1; done; echo gone $?")?;
    primary.console.expect("gone 0", BOOT)?;
    await_devices(primary, &["data"])?;
    if let Some(backup) = &chain.backup {
        await_devices(backup, &["data"])?;
    }
    chain.fail_over()?;
    let primary = &mut chain.primary;
    primary.type_line("echo 3 > /proc/sys/vm/drop_caches; cat /mnt/x; umount /mnt; poweroff -f")?;
    primary.console.expect("kept", BOOT)?;
    assert!(primary.ended(BOOT)?.success());
    check(&image)
}
