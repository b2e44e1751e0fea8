//! What clients see of failovers: connections that live on, and data that are all there.
//!
//! The long form is scripts/soak-clients.sh.

use std::path::Path;
use std::process::Command;

use integration::failure::While;
use integration::installation::Installation;
use integration::seed::Random;
use integration::skips::skip;
use integration::{Failure, Outcome};

/// An ssh session, downloads and clients of redis outlive two hosts: one that is killed, and one that
/// freezes. The rest is said in `src/bin/soak-clients.rs`, which is the client.
#[test]
fn clients_outlive_two_hosts() -> Outcome<()> {
    let test = "clients_outlive_two_hosts";
    let installation = Installation::find()?;
    let guest = installation.initramfs.parent().unwrap_or(Path::new("."));
    let services = guest.with_file_name("services");
    if !services.join("disk.raw").is_file() {
        return Err(Failure::new(
            "the disk is missing; run: scripts/guest-services.sh",
        ));
    }
    if !Path::new("/dev/net/tun").exists() {
        skip(test, "no /dev/net/tun");
        return Ok(());
    }
    let may = Command::new("unshare")
        .args(["--net", "true"])
        .output()
        .during("unshare")?;
    if !may.status.success() {
        let why = String::from_utf8_lossy(&may.stderr);
        skip(test, &format!("no network namespaces: {}", why.trim()));
        return Ok(());
    }
    let seed = Random::from_environment().seed().to_string();
    let output = Command::new("unshare")
        .arg("--net")
        .arg(installation.vmm.with_file_name("soak-clients"))
        .arg(&services)
        .args(["2", &seed])
        .env(
            "CH_BIN_DIR",
            installation.vmm.parent().unwrap_or(Path::new(".")),
        )
        .env("CH_GUEST_DIR", guest)
        .output()
        .during("soak-clients")?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{text}{errors}")))
}
