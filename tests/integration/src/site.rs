//! A client's network and two hosts that are connected to it.
//!
//! Does: give the client and each host a bridge, the hosts' bridges a cable to the client's, and each
//! host a TAP device on its bridge. Does not: start anything.
//!
//! Invariant: the client is a namespace of its own, or the one that this process is in; the first
//! goes with the value.

use std::process::Command;

use crate::failure::{Failure, Outcome, While};
use crate::namespaces::Wire;

/// The guest's card.
pub const MAC: &str = "2e:89:a8:e4:bf:95";
/// The guest's address.
pub const GUEST: &str = "10.66.0.2";
/// The client's address, with the length of the network's prefix.
const CLIENT: &str = "10.66.0.1/24";

/// The network.
#[derive(Debug)]
pub struct Site {
    client: Option<String>,
}

impl Site {
    /// With a namespace for the client.
    pub fn new(wire: &Wire) -> Outcome<Self> {
        let client = format!("ch-it-{}-c", std::process::id());
        ip(&format!("netns add {client}"))?;
        let site = Site {
            client: Some(client),
        };
        site.connect(wire)?;
        Ok(site)
    }

    /// With this process as the client: its network namespace must be its own.
    pub fn here(wire: &Wire) -> Outcome<Self> {
        let site = Site { client: None };
        ip("link set lo up")?;
        site.connect(wire)?;
        Ok(site)
    }

    /// What `--net` is told on either host.
    pub fn card() -> String {
        format!("tap=tap0,mac={MAC}")
    }

    fn connect(&self, wire: &Wire) -> Outcome<()> {
        let client = self.client.as_ref();
        let client = client.map_or_else(String::new, |name| format!("-n {name} "));
        let bridge = |place: &str| {
            ip(&format!("{place}link add lan type bridge forward_delay 0"))?;
            ip(&format!("{place}link set lan up"))
        };
        bridge(&client)?;
        ip(&format!("{client}address add {CLIENT} dev lan"))?;
        for (index, place) in wire.places().iter().enumerate() {
            let host = place.namespace();
            let host = host.ok_or_else(|| Failure::new("a wire has namespaces"))?;
            let on_host = format!("-n {host} ");
            bridge(&on_host)?;
            ip(&format!(
                "{client}link add port{index} type veth peer name uplink netns {host}"
            ))?;
            ip(&format!("{on_host}tuntap add dev tap0 mode tap vnet_hdr"))?;
            for (place, port) in [
                (&client, format!("port{index}")),
                (&on_host, "uplink".to_owned()),
                (&on_host, "tap0".to_owned()),
            ] {
                ip(&format!("{place}link set {port} master lan"))?;
                ip(&format!("{place}link set {port} up"))?;
            }
        }
        Ok(())
    }

    /// A shell's command line on the client.
    pub fn client(&self, line: &str) -> Command {
        match &self.client {
            Some(client) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", client, "bash", "-c", line]);
                command
            }
            None => {
                let mut command = Command::new("bash");
                command.args(["-c", line]);
                command
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The bridge goes with its namespace.
        if let Some(client) = &self.client {
            let _ = Command::new("ip")
                .args(["netns", "delete", client])
                .output();
        }
    }
}

/// Runs `ip` with the words of a line.
pub fn ip(line: &str) -> Outcome<()> {
    let words = line.split(' ').filter(|word| !word.is_empty());
    let output = Command::new("ip").args(words).output().during("ip")?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("ip {line}: {}", error.trim())))
}
