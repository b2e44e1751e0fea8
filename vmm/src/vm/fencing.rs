//! Whether a backup may ever use the primary's disks, and what it must do first.
//!
//! Does: look at each disk's image from the backup's host when the configuration comes, and judge
//! by that and by what was configured. Does not: fence (`host::fence`), or write anything.
//!
//! Invariant: a disk that both hosts can write has a fence, or somebody said that it needs none. A
//! command that came from the peer is never run: only this host's own word names one.

use std::collections::BTreeSet;

use block::{Format, ImageError, ImageFile, OpenOptions};

use super::reasons;
use crate::config::{DiskConfig, Fence, NetConfig, Planned, VmConfig};

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fencing {
    /// How this side fences the other.
    pub fence: Option<Fence>,
    /// The devices whose image's lock is seen from here, so that it tells when the other side is
    /// gone.
    pub locked: BTreeSet<u8>,
}

/// Judges a VM of `config` that another host runs; `own` is what was configured on this one. Why it
/// cannot go live here, if it cannot.
pub fn judge(config: &VmConfig, own: Option<&Fence>) -> Result<Fencing, String> {
    let theirs = config.ft.as_ref().and_then(|ft| ft.fence.as_ref());
    let fence = own.or(theirs);
    let mut fencing = Fencing {
        fence: fence.cloned(),
        ..Fencing::default()
    };
    let mut problems = Vec::new();
    let mut has_writable = false;
    for device in config.devices() {
        let disk = match device.planned {
            Planned::Disk(disk) => disk,
            Planned::Net(net) => {
                problems.extend(missing_tap(net));
                continue;
            }
            _ => continue,
        };
        has_writable |= !disk.readonly;
        match look(disk) {
            Ok(seen) => {
                if seen.is_locked {
                    fencing.locked.insert(device.device);
                }
                if let (false, Some(problem)) = (disk.readonly, missing_fence(&seen, fence)) {
                    let path = disk.path.clone().unwrap_or_default();
                    problems.push(format!("'{}': {problem}", path.display()));
                }
            }
            Err(error) => {
                let why = reasons::chain(&error).join(": ");
                problems.push(format!("this host cannot use the disk: {why}"));
            }
        }
    }
    if has_writable && own.is_none() && matches!(theirs, Some(Fence::Exec(_))) {
        problems.push(
            "the VM is to be fenced by a command, and this host has none: give ft-receive a fence \
             (a command that a peer names is not run)"
                .to_owned(),
        );
    }
    if problems.is_empty() {
        Ok(fencing)
    } else {
        Err(problems.join(", "))
    }
}

/// What this host does not have of what a card needs. A TAP device with an address is made and set
/// up when it is needed.
fn missing_tap(net: &NetConfig) -> Option<String> {
    let is_made = net.ip.is_some() || net.fds.is_some();
    net_util::missing_tap(net.tap.as_deref().filter(|_| !is_made)?)
}

/// What an image looks like from here while another host uses it.
struct Seen {
    is_locked: bool,
    format: Format,
}

fn look(disk: &DiskConfig) -> Result<Seen, ImageError> {
    let path = disk.path.clone().unwrap_or_default();
    let options = OpenOptions {
        read_only: true,
        ..disk.open_options()
    };
    let file = ImageFile::open(&path, options)?;
    let format = file.format()?;
    let is_locked = file.is_locked().unwrap_or_else(|error| {
        log::warn!("the lock of '{}' is not known: {error}", path.display());
        false
    });
    Ok(Seen { is_locked, format })
}

fn missing_fence(seen: &Seen, fence: Option<&Fence>) -> Option<&'static str> {
    match (seen.format, fence) {
        _ if seen.is_locked => None,
        (_, Some(Fence::Exec(_))) | (Format::Raw, Some(Fence::None)) => None,
        (Format::Raw, None) => Some(
            "the primary's lock on it is not seen on this host, so nothing would keep late writes \
             of a primary that was taken for dead away from it; give ft-receive \
             fence=exec:COMMAND, or fence=none to risk that",
        ),
        (Format::Qcow2, _) => Some(
            "the primary's lock on it is not seen on this host, and a late write would destroy a \
             qcow2 image; give ft-receive fence=exec:COMMAND",
        ),
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    fn config(path: &std::path::Path, ft: serde_json::Value) -> VmConfig {
        let json = serde_json::json!({
            "payload": { "kernel": "/k" },
            "disks": [{ "path": path }],
            "ft": ft,
        });
        VmConfig::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_shared_disk_needs_a_fence() {
        let directory = TempDir::new().unwrap();
        let raw = directory.as_path().join("raw");
        std::fs::write(&raw, [0; 4096]).unwrap();
        let qcow2 = directory.as_path().join("qcow2");
        std::fs::write(&qcow2, [b"QFI\xFB".as_slice(), &[0; 4096]].concat()).unwrap();
        let none = serde_json::json!({});
        let command = Fence::Exec("true".to_owned());
        for path in [&raw, &qcow2] {
            let refused = judge(&config(path, none.clone()), None).unwrap_err();
            assert!(refused.contains("lock on it is not seen"), "{refused}");
            judge(&config(path, none.clone()), Some(&command)).unwrap();
            // A peer's command is not run.
            let theirs = serde_json::json!({ "fence": "exec:reboot" });
            let refused = judge(&config(path, theirs.clone()), None).unwrap_err();
            assert!(refused.contains("not run"), "{refused}");
            let fencing = judge(&config(path, theirs), Some(&command)).unwrap();
            assert_eq!(fencing.fence, Some(command.clone()));
            let without = serde_json::json!({ "fence": "none" });
            let accepted = judge(&config(path, without), None).is_ok();
            assert_eq!(accepted, path == &raw);
            // The primary's lock is one, if it is seen.
            let primary = ImageFile::open(path, OpenOptions::default()).unwrap();
            primary.lock().unwrap();
            let fencing = judge(&config(path, none.clone()), None).unwrap();
            // Behind the console.
            assert_eq!(fencing.locked, BTreeSet::from([2]));
        }
        let gone = directory.as_path().join("gone");
        let refused = judge(&config(&gone, none), Some(&Fence::None)).unwrap_err();
        assert!(refused.contains("cannot use the disk"), "{refused}");
    }
}
