//! What is refused before a machine exists, and how that is said.

use std::fs;
use std::time::Duration;

use integration::installation::Installation;
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::{Failure, Outcome};

/// A refusal comes at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts a machine that must be refused, and sees that the error says `why`.
fn refused(kernel: &str, extra: &[&str], why: &[&str]) -> Outcome<()> {
    let installation = Installation::find()?;
    let mut arguments = vec!["--kernel", kernel, "--serial", "tty", "--console", "off"];
    arguments.extend(extra);
    let mut vmm = Vmm::start_without_api(&installation, "vmm", &arguments)?;
    let status = vmm.ended(PATIENCE)?;
    let said = vmm.errors.text();
    let wrong = if status.code().is_none_or(|code| code == 0 || code > 100) {
        Some(format!("it ended with {status}"))
    } else if said.contains("panicked") {
        Some("it panicked".to_owned())
    } else {
        let lower = said.to_lowercase();
        let missing = why.iter().find(|word| !lower.contains(**word));
        missing.map(|word| format!("the error does not speak of {word:?}"))
    };
    match wrong {
        None => Ok(()),
        Some(wrong) => Err(Failure::new(format!("{wrong}; it said: {said}"))),
    }
}

#[test]
fn a_kernel_that_does_not_exist() -> Outcome<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("nothing-here");
    refused(&path.to_string_lossy(), &[], &["nothing-here"])
}

#[test]
fn a_kernel_file_that_is_none() -> Outcome<()> {
    let scratch = Scratch::new()?;
    for (name, bytes) in [
        ("text-file", b"This is no kernel.\n".repeat(1000)),
        ("empty-file", Vec::new()),
        ("zero-file", vec![0; 1 << 20]),
        ("elf-stub", b"\x7fELF\x02\x01\x01".to_vec()),
    ] {
        let path = scratch.join(name);
        fs::write(&path, bytes)?;
        refused(&path.to_string_lossy(), &[], &["kernel"])
            .map_err(|failure| failure.during(name))?;
    }
    Ok(())
}

#[test]
fn an_initramfs_that_does_not_exist() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let path = scratch.join("nothing-here");
    refused(
        &installation.vmlinux.to_string_lossy(),
        &["--initramfs", &path.to_string_lossy()],
        &["nothing-here"],
    )
}

#[test]
fn too_little_memory() -> Outcome<()> {
    let installation = Installation::find()?;
    for kernel in [&installation.vmlinux, &installation.bzimage] {
        refused(
            &kernel.to_string_lossy(),
            &["--memory", "size=16M"],
            &["memory"],
        )
        .map_err(|failure| failure.during(kernel.display()))?;
    }
    Ok(())
}

#[test]
fn more_than_one_vcpu() -> Outcome<()> {
    let installation = Installation::find()?;
    refused(
        &installation.vmlinux.to_string_lossy(),
        &["--cpus", "boot=2"],
        &["virtual cpu"],
    )
}

#[test]
fn options_that_do_not_exist() -> Outcome<()> {
    let installation = Installation::find()?;
    let kernel = installation.vmlinux.to_string_lossy();
    refused(&kernel, &["--memory", "sise=512M"], &["sise"])?;
    refused(&kernel, &["--memory", "size=many"], &["many"])
}
