//! Where the binaries and the guest image are.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome, While};

/// The test guest's memory.
pub const GUEST_BYTES: u64 = 256 << 20;

/// Everything that tests start, found and checked to be there.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The `cloud-hypervisor` binary.
    pub vmm: PathBuf,
    /// The `ch-remote` binary.
    pub remote: PathBuf,
    /// The kernel as an ELF file with a PVH entry.
    pub vmlinux: PathBuf,
    /// The same kernel as a bzImage.
    pub bzimage: PathBuf,
    /// The initramfs with the test programs.
    pub initramfs: PathBuf,
    /// The guest's `count` program, which also runs on the host.
    pub count: PathBuf,
}

impl Installation {
    /// Looks in `CH_BIN_DIR` (else in the build directory of this very test) and in
    /// `CH_GUEST_DIR` (else in `build/guest` of the repository).
    pub fn find() -> Outcome<Self> {
        let binaries = match std::env::var_os("CH_BIN_DIR") {
            Some(directory) => PathBuf::from(directory),
            None => build_directory()?,
        };
        let guest = std::env::var_os("CH_GUEST_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/guest"),
            PathBuf::from,
        );
        let build = "run: cargo build --profile checked --bins";
        let image = "run: scripts/guest-image.sh";
        Ok(Installation {
            vmm: present(&binaries, "cloud-hypervisor", build)?,
            remote: present(&binaries, "ch-remote", build)?,
            vmlinux: present(&guest, "vmlinux", image)?,
            bzimage: present(&guest, "bzImage", image)?,
            initramfs: present(&guest, "initramfs.cpio.gz", image)?,
            count: present(&guest, "count", image)?,
        })
    }

    /// Options of a VM that boots the test guest, to a shell on the serial port unless `parameters`
    /// on the kernel's command line say otherwise. An option that `more` has too stands aside for it.
    pub fn guest(&self, parameters: &str, more: &[&str]) -> Vec<String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let usual = [
            ("--kernel", path(&self.vmlinux)),
            ("--initramfs", path(&self.initramfs)),
            (
                "--cmdline",
                format!("console=ttyS0 panic=-1 quiet {parameters}"),
            ),
            ("--memory", format!("size={GUEST_BYTES}")),
            ("--serial", "tty".to_owned()),
            ("--console", "off".to_owned()),
        ];
        let usual = usual.into_iter();
        let usual = usual.filter(|(option, _)| !more.contains(option));
        let usual = usual.flat_map(|(option, value)| [option.to_owned(), value]);
        usual
            .chain(more.iter().map(|word| (*word).to_owned()))
            .collect()
    }
}

/// `target/PROFILE`, where `target/PROFILE/deps/integration-…` or `target/PROFILE/soak` runs.
fn build_directory() -> Outcome<PathBuf> {
    let executable = std::env::current_exe().during("finding this executable")?;
    executable
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps"))
        .map(Path::to_owned)
        .ok_or_else(|| Failure::new("this executable is in no directory"))
}

fn present(directory: &Path, name: &str, remedy: &str) -> Outcome<PathBuf> {
    let path = directory.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(Failure::new(format!(
            "{} is missing; {remedy}",
            path.display()
        )))
    }
}
