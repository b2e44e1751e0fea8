//! What is measured: a guest with a server, on some engine, alone or protected.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::client::PORT;
use crate::failure::{Failure, Outcome, While};
use crate::installation::Installation;
use crate::namespaces::Place;
use crate::process::{Output, Vmm};
use crate::scratch::Scratch;

const MAC: &str = "2e:89:a8:e4:bf:95";
const CHANNEL: &str = "127.0.0.1:7000";
/// For protection to begin.
const CLONE: Duration = Duration::from_secs(60);
/// Clock ticks a second in `/proc` (`USER_HZ`).
const TICKS: f64 = 100.0;

/// An engine with or without protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// QEMU with TCG.
    Qemu,
    /// The same, recording.
    QemuRecord,
    /// Ours, alone.
    Alone,
    /// Ours, with a peer that acknowledges and does not replay.
    Acknowledged,
    /// Ours, with a backup.
    Protected,
}

impl Engine {
    /// All, in the order of the tables.
    pub const ALL: [Engine; 5] = [
        Engine::Qemu,
        Engine::QemuRecord,
        Engine::Alone,
        Engine::Acknowledged,
        Engine::Protected,
    ];

    /// Its name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Qemu => "qemu",
            Engine::QemuRecord => "qemu-record",
            Engine::Alone => "alone",
            Engine::Acknowledged => "acknowledged",
            Engine::Protected => "protected",
        }
    }
}

/// A process and what it is in the tables.
struct Part {
    name: &'static str,
    pid: u32,
}

/// A guest that serves at [`Subject::ADDRESS`].
pub struct Subject {
    parts: Vec<Part>,
    // Killed on drop.
    _vmms: Vec<Vmm>,
    children: Vec<Child>,
}

impl Subject {
    /// The guest's address; the client has the first of the network.
    pub const ADDRESS: &str = "10.67.0.2";

    /// Boots the guest on an engine, and protects it if that is part of it. Each command is run
    /// with `pins` in front, if there are any: the first for what runs the guest, the second for
    /// its peer.
    pub fn start(
        engine: Engine,
        installation: &Installation,
        scratch: &Scratch,
        tap: &str,
    ) -> Outcome<Self> {
        let append = format!(
            "console=ttyS0 panic=-1 quiet ip={}::10.67.0.1:255.255.255.0:guest:eth0 test=serve:{PORT}",
            Subject::ADDRESS
        );
        let mut subject = Subject {
            parts: Vec::new(),
            _vmms: Vec::new(),
            children: Vec::new(),
        };
        if let Engine::Qemu | Engine::QemuRecord = engine {
            let mut command = Command::new("qemu-system-x86_64");
            command.args([
                "-accel",
                "tcg",
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
            ]);
            command.args(["-serial", "null", "-m", "512M", "-smp", "1"]);
            command.arg("-kernel").arg(&installation.vmlinux);
            command.arg("-initrd").arg(&installation.initramfs);
            command.args(["-append", &append]);
            command.args([
                "-netdev",
                &format!("tap,id=n,ifname={tap},script=no,downscript=no"),
            ]);
            command.args(["-device", &format!("virtio-net-pci,netdev=n,mac={MAC}")]);
            if engine == Engine::QemuRecord {
                let log = scratch.join("qemu.log");
                command.args([
                    "-icount",
                    &format!("shift=0,rr=record,rrfile={}", log.display()),
                ]);
                command.args(["-object", "filter-replay,id=replay,netdev=n"]);
            }
            command.stdin(Stdio::null());
            let child = command.spawn().during("starting QEMU")?;
            subject.parts.push(Part {
                name: "qemu",
                pid: child.id(),
            });
            subject.children.push(child);
            return Ok(subject);
        }
        let vmm = |name: &str, arguments: &[&str]| -> Outcome<Vmm> {
            let place = Place::loopback();
            let mut vmm =
                Vmm::start_at(installation, scratch, name, &place, Output::Pipe, arguments)?;
            vmm.ready()?;
            Ok(vmm)
        };
        let primary = vmm(
            "primary",
            &[
                "--kernel",
                &installation.vmlinux.to_string_lossy(),
                "--initramfs",
                &installation.initramfs.to_string_lossy(),
                "--cmdline",
                &append,
                "--memory",
                "size=512M",
                "--serial",
                "tty",
                "--console",
                "off",
                "--net",
                &format!("tap={tap},mac={MAC}"),
            ],
        )?;
        subject.parts.push(Part {
            name: "primary",
            pid: primary.pid(),
        });
        primary.console.expect("serving", CLONE)?;
        match engine {
            Engine::Acknowledged => {
                let mut command = Command::new(installation.vmm.with_file_name("ack-peer"));
                command
                    .arg(CHANNEL)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null());
                let mut child = command.spawn().during("starting ack-peer")?;
                let listening = child
                    .stdout
                    .take()
                    .ok_or_else(|| Failure::new("no output"))?;
                BufReader::new(listening).read_line(&mut String::new())?;
                subject.parts.push(Part {
                    name: "peer",
                    pid: child.id(),
                });
                subject.children.push(child);
            }
            Engine::Protected => {
                let backup = vmm("backup", &[])?;
                let listen = format!("tcp:{CHANNEL}");
                backup.remote(&["ft-receive", "--listen", &listen])?;
                subject.parts.push(Part {
                    name: "backup",
                    pid: backup.pid(),
                });
                subject._vmms.push(backup);
            }
            _ => {}
        }
        if engine != Engine::Alone {
            let lease = scratch.join("lease");
            std::fs::create_dir_all(&lease)?;
            let (peer, lease) = (
                format!("tcp:{CHANNEL}"),
                format!("file:{}", lease.display()),
            );
            primary.remote(&["ft-enable", "--peer", &peer, "--lease", &lease])?;
            primary.await_ft("protected", CLONE, |info| info.is_protected())?;
        }
        subject._vmms.push(primary);
        Ok(subject)
    }

    /// Processor seconds of each process so far.
    pub fn processor_times(&self) -> Vec<(&'static str, f64)> {
        let time = |part: &Part| (part.name, processor_time(part.pid).unwrap_or(f64::NAN));
        self.parts.iter().map(time).collect()
    }

    /// What the primary says of its protection.
    pub fn ft_info(&self) -> Outcome<String> {
        match self._vmms.last() {
            Some(primary) => Ok(primary.ft_info()?.to_string()),
            None => Err(Failure::new("QEMU has no protection")),
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn processor_time(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; what follows its parenthesis does not.
    let mut fields = text.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}
