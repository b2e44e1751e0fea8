//! Where the binaries and the guest image are.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome, While};

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
