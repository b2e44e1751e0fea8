//! Where a process runs: this host's loopback, one of two network namespaces with a wire, or with a
//! mount that nobody else sees.

use std::path::{Path, PathBuf};
use std::process::Command;

use net_util::Tap;

use crate::emulation::{Conditions, Emulation};
use crate::failure::{Failure, Outcome, While};
use crate::seed::Random;

/// A host, as far as the network is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address on which others reach it.
    pub address: String,
    namespace: Option<String>,
    mount: Option<Mount>,
}

/// A directory that is seen at the place of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The directory.
    pub source: PathBuf,
    /// Where it is seen. It must exist.
    pub target: PathBuf,
}

impl Place {
    /// This host's loopback interface.
    pub fn loopback() -> Self {
        Place {
            address: "127.0.0.1".to_owned(),
            namespace: None,
            mount: None,
        }
    }

    /// Whether traffic to it never leaves the host.
    pub fn is_loopback(&self) -> bool {
        self.namespace.is_none()
    }

    /// Its network namespace, if it has one of its own.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// A command that runs `program` there. Its process is the program itself, not a wrapper.
    pub fn command(&self, program: &Path) -> Command {
        match (&self.namespace, &self.mount) {
            (None, None) => Command::new(program),
            (None, Some(Mount { source, target })) => {
                let script = r#"mount --bind "$1" "$2" && shift 2 && exec "$@""#;
                let mut command = Command::new("unshare");
                command.args([
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-c",
                    script,
                    "sh",
                ]);
                command.arg(source).arg(target).arg(program);
                command
            }
            (Some(namespace), _) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        }
    }
}

/// Where a pair runs.
#[derive(Debug)]
pub enum Ground {
    /// Both on this host's loopback interface.
    Loopback,
    /// Each at its end of a wire.
    Wire(Wire),
    /// On this host's loopback interface, each with a mount of its own.
    Mounts([Mount; 2]),
}

impl Ground {
    /// The two places.
    pub fn places(&self) -> [Place; 2] {
        match self {
            Ground::Loopback => [Place::loopback(), Place::loopback()],
            Ground::Wire(wire) => wire.places(),
            Ground::Mounts(mounts) => mounts.clone().map(|mount| Place {
                mount: Some(mount),
                ..Place::loopback()
            }),
        }
    }

    /// The wire, if there is one.
    pub fn wire(&self) -> Outcome<&Wire> {
        match self {
            Ground::Loopback | Ground::Mounts(_) => {
                Err(Failure::new("there is no wire on the loopback"))
            }
            Ground::Wire(wire) => Ok(wire),
        }
    }
}

/// Two namespaces joined by a wire, removed on drop.
#[derive(Debug)]
pub struct Wire {
    names: [String; 2],
    /// What carries the frames, if the kernel does not.
    emulation: Option<Emulation>,
}

impl Wire {
    /// Makes the namespaces, a pair of virtual interfaces and their addresses. Needs root.
    pub fn new() -> Outcome<Self> {
        let wire = Wire::between()?;
        let [a, b] = &wire.names;
        ip(&[
            "-n", a, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", b,
        ])?;
        wire.connected()
    }

    /// The same with a wire that can be made worse ([`Wire::set_conditions`]).
    pub fn emulated(random: Random) -> Outcome<Self> {
        let mut wire = Wire::between()?;
        let id = std::process::id();
        let end = |index: usize| -> Outcome<Tap> {
            let name = format!("ch{id}-{index}");
            let tap = Tap::open(&name).during(&name)?;
            let there = ["netns", &wire.names[index], "name", "wire"];
            ip(&[&["link", "set", "dev", &name], &there[..]].concat())?;
            Ok(tap)
        };
        wire.emulation = Some(Emulation::start([end(0)?, end(1)?], random)?);
        wire.connected()
    }

    /// Two namespaces with nothing between them.
    fn between() -> Outcome<Self> {
        let id = std::process::id();
        let wire = Wire {
            names: [format!("ch-it-{id}-a"), format!("ch-it-{id}-b")],
            emulation: None,
        };
        for name in &wire.names {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Ok(wire)
    }

    fn connected(self) -> Outcome<Self> {
        for (name, address) in self.names.iter().zip(["10.55.0.1/24", "10.55.0.2/24"]) {
            ip(&["-n", name, "address", "add", address, "dev", "wire"])?;
            ip(&["-n", name, "link", "set", "wire", "up"])?;
        }
        Ok(self)
    }

    /// What is sent from now on meets these conditions.
    pub fn set_conditions(&self, conditions: Conditions) -> Outcome<()> {
        let emulation = self.emulation.as_ref();
        let emulation = emulation.ok_or_else(|| Failure::new("the wire is the kernel's"))?;
        emulation.set(conditions);
        Ok(())
    }

    /// The two ends.
    pub fn places(&self) -> [Place; 2] {
        let place = |index: usize| Place {
            address: format!("10.55.0.{}", index + 1),
            namespace: Some(self.names[index].clone()),
            mount: None,
        };
        [place(0), place(1)]
    }

    /// Loses everything that is sent from now on, in both directions, without telling anybody.
    pub fn cut(&self) -> Outcome<()> {
        // Taking an interface down would be seen by the sockets' owners. Frames to an address
        // that nobody has are just lost.
        for (name, peer) in self.names.iter().zip(["10.55.0.2", "10.55.0.1"]) {
            ip(&[
                "-n",
                name,
                "neighbour",
                "replace",
                peer,
                "lladdr",
                "02:00:00:00:00:99",
                "dev",
                "wire",
                "nud",
                "permanent",
            ])?;
        }
        Ok(())
    }

    /// Loses everything of one protocol ("tcp", "udp") that arrives from now on, in both directions,
    /// without telling anybody.
    pub fn cut_protocol(&self, protocol: &str) -> Outcome<()> {
        for name in &self.names {
            // Looked up for each packet, and before the rule for the host's own addresses.
            for early in ["tcp_early_demux", "udp_early_demux"] {
                let path = format!("net.ipv4.{early}=0");
                ip(&["netns", "exec", name, "sysctl", "-q", "-w", &path])?;
            }
            ip(&["-n", name, "rule", "add", "pref", "100", "lookup", "local"])?;
            ip(&["-n", name, "rule", "delete", "pref", "0"])?;
            let rule = [
                "pref",
                "10",
                "iif",
                "wire",
                "ipproto",
                protocol,
                "blackhole",
            ];
            ip(&[&["-n", name, "rule", "add"], &rule[..]].concat())?;
        }
        Ok(())
    }

    /// Ends what [`Wire::cut_protocol`] began.
    pub fn mend_protocol(&self) -> Outcome<()> {
        for name in &self.names {
            ip(&["-n", name, "rule", "add", "pref", "0", "lookup", "local"])?;
            for preference in ["10", "100"] {
                ip(&["-n", name, "rule", "delete", "pref", preference])?;
            }
        }
        Ok(())
    }

    /// Ends what [`Wire::cut`] began.
    pub fn mend(&self) -> Outcome<()> {
        for (name, peer) in self.names.iter().zip(["10.55.0.2", "10.55.0.1"]) {
            ip(&["-n", name, "neighbour", "delete", peer, "dev", "wire"])?;
        }
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in &self.names {
            // The interfaces go with the namespaces. A namespace may not have been made.
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
    }
}

fn ip(arguments: &[&str]) -> Outcome<()> {
    let what = format!("ip {}", arguments.join(" "));
    let output = Command::new("ip").args(arguments).output().during(&what)?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{what}: {}", error.trim())))
}
