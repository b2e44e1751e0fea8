//! The command line client of the REST API.
//!
//! Does: turn a command into one request, print the answer's body, and report errors. Does not:
//! interpret answers.
//!
//! Invariant: exit status 0 means that the request was carried out (or, for calls that answer at
//! once, begun); 1 means that it was not, and standard error says why.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use api_client::{Client, ClientError, Method};
use clap::{ArgAction, Args, Parser, Subcommand};
use option_parser::{ByteSize, FromOptionValue, Toggle};
use serde_json::{Map, Value};
use thiserror::Error;
use vmm::config::{ConfigError, DiskConfig, NetConfig, VsockConfig};

/// Control a running virtual machine monitor.
#[derive(Debug, Parser)]
#[command(name = "ch-remote", version, about, disable_version_flag = true)]
struct Options {
    /// The API's socket
    #[arg(long, value_name = "PATH")]
    api_socket: PathBuf,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a VM from a JSON configuration
    Create {
        /// The configuration's file; "-" or nothing for standard input
        path: Option<PathBuf>,
    },
    /// Boot the VM
    Boot,
    /// Delete the VM
    Delete,
    /// Power the VM off
    Shutdown,
    /// End the virtual machine monitor
    ShutdownVmm,
    /// Reset the VM
    Reboot,
    /// Pause the VM
    Pause,
    /// Resume the VM
    Resume,
    /// Press the VM's power button
    PowerButton,
    /// Give the VM a non-maskable interrupt
    Nmi,
    /// Describe the VM
    Info,
    /// Print the counters of the VM's devices
    Counters,
    /// Ask whether the virtual machine monitor is there
    Ping,
    /// Change the VM's size
    Resize(Resize),
    /// Add a disk
    AddDisk {
        /// As for cloud-hypervisor's --disk: path=FILE,…
        disk: String,
    },
    /// Add a network card
    AddNet {
        /// As for cloud-hypervisor's --net: tap=NAME,…
        net: String,
    },
    /// Add the socket device
    AddVsock {
        /// As for cloud-hypervisor's --vsock: cid=N,socket=PATH,…
        vsock: String,
    },
    /// Remove a disk, a network card or the socket device
    RemoveDevice {
        /// The device's name
        id: String,
    },
    /// Protect the VM with a backup
    FtEnable(FtEnable),
    /// Wait for a primary and become its backup
    FtReceive(FtReceive),
    /// Print the state of the VM's protection, as JSON
    FtInfo,
    /// End the VM's protection and go on alone
    FtDisable,
    /// Let the backup take over
    FtFailover,
    /// Declare that no other host runs a VM, so that it may start again (dangerous)
    FtOverride {
        /// The VM's id
        #[arg(long)]
        id: String,
        /// Its arbiter: file:PATH
        #[arg(long)]
        lease: String,
    },
}

#[derive(Debug, Args)]
struct Resize {
    /// Virtual CPUs
    #[arg(long)]
    cpus: Option<u32>,
    /// Memory: BYTES (with K, M, G or T)
    #[arg(long, value_parser = size)]
    memory: Option<u64>,
    /// Memory that the guest is to do without: BYTES (with K, M, G or T)
    #[arg(long, value_parser = size)]
    balloon: Option<u64>,
}

#[derive(Debug, Args)]
struct FtEnable {
    /// Where the backup waits: tcp:ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS")]
    peer: String,
    #[command(flatten)]
    common: FtCommon,
}

#[derive(Debug, Args)]
struct FtReceive {
    /// Where to wait for the primary: tcp:ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS")]
    listen: String,
    #[command(flatten)]
    common: FtCommon,
}

#[derive(Debug, Args)]
struct FtCommon {
    /// The arbiter, on storage that both hosts share: file:PATH
    #[arg(long)]
    lease: Option<String>,
    /// How a side that goes live makes sure that the old one writes no more: exec:COMMAND or none
    #[arg(long)]
    fence: Option<String>,
    /// Whether memory and log may cross a network unencrypted: on or off
    #[arg(long, value_parser = toggle, num_args = 0..=1, default_missing_value = "on")]
    insecure: Option<bool>,
    /// After how many milliseconds without a sign of life the peer counts as lost
    #[arg(long, value_name = "MILLISECONDS")]
    detection_timeout: Option<u64>,
}

fn toggle(text: &str) -> Result<bool, String> {
    match Toggle::from_option_value(text) {
        Some(Toggle(on)) => Ok(on),
        None => Err(format!("it takes {}", Toggle::EXPECTED)),
    }
}

fn size(text: &str) -> Result<u64, String> {
    match ByteSize::from_option_value(text) {
        Some(ByteSize(size)) => Ok(size),
        None => Err(format!("it takes {}", ByteSize::EXPECTED)),
    }
}

/// Why a command was not carried out.
#[derive(Debug, Error)]
enum RemoteError {
    /// The configuration could not be read.
    #[error("cannot read the configuration from {from}")]
    Read {
        /// Where it should have been.
        from: String,
        /// What the host said.
        source: std::io::Error,
    },
    /// The device is not described as it must be.
    #[error("the device cannot be added")]
    Device(#[source] ConfigError),
    /// The answer could not be printed.
    #[error("cannot print the answer")]
    Print(#[source] std::io::Error),
    /// The request failed.
    #[error("the request failed")]
    Request(#[source] ClientError),
}

impl RemoteError {
    /// The messages, outermost first, the server's included.
    fn chain(&self) -> Vec<String> {
        let mut messages = vec![self.to_string()];
        match self {
            RemoteError::Read { source, .. } | RemoteError::Print(source) => {
                messages.push(source.to_string());
            }
            RemoteError::Device(error) => {
                let mut next: Option<&dyn std::error::Error> = Some(error);
                while let Some(error) = next {
                    messages.push(error.to_string());
                    next = error.source();
                }
            }
            RemoteError::Request(error) => messages.extend(error.chain()),
        }
        messages
    }
}

impl FtCommon {
    fn add_to(&self, body: &mut Map<String, Value>) {
        if let Some(lease) = &self.lease {
            body.insert("lease".to_owned(), Value::from(lease.as_str()));
        }
        if let Some(fence) = &self.fence {
            body.insert("fence".to_owned(), Value::from(fence.as_str()));
        }
        if let Some(insecure) = self.insecure {
            body.insert("insecure".to_owned(), Value::from(insecure));
        }
        if let Some(timeout) = self.detection_timeout {
            body.insert("detection_timeout_ms".to_owned(), Value::from(timeout));
        }
    }
}

impl Command {
    /// The descriptors that this process was started with and the request is about.
    fn descriptors(&self) -> Result<Vec<i32>, RemoteError> {
        match self {
            Command::AddNet { net } => {
                let net = NetConfig::parse(net).map_err(RemoteError::Device)?;
                Ok(net.fds.unwrap_or_default())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Verb, endpoint and body.
    fn request(&self) -> Result<(Method, &'static str, Option<String>), RemoteError> {
        let plain = |method, endpoint| Ok((method, endpoint, None));
        let with = |endpoint, body: Map<String, Value>| {
            Ok((Method::Put, endpoint, Some(Value::Object(body).to_string())))
        };
        match self {
            Command::Create { path } => {
                let body = read_config(path.as_deref())?;
                Ok((Method::Put, "vm.create", Some(body)))
            }
            Command::Boot => plain(Method::Put, "vm.boot"),
            Command::Delete => plain(Method::Put, "vm.delete"),
            Command::Shutdown => plain(Method::Put, "vm.shutdown"),
            Command::ShutdownVmm => plain(Method::Put, "vmm.shutdown"),
            Command::Reboot => plain(Method::Put, "vm.reboot"),
            Command::Pause => plain(Method::Put, "vm.pause"),
            Command::Resume => plain(Method::Put, "vm.resume"),
            Command::PowerButton => plain(Method::Put, "vm.power-button"),
            Command::Nmi => plain(Method::Put, "vm.nmi"),
            Command::Info => plain(Method::Get, "vm.info"),
            Command::Counters => plain(Method::Get, "vm.counters"),
            Command::Ping => plain(Method::Get, "vmm.ping"),
            Command::AddDisk { disk } => {
                let disk = DiskConfig::parse(disk).map_err(RemoteError::Device)?;
                with("vm.add-disk", object(&disk))
            }
            Command::AddNet { net } => {
                let net = NetConfig::parse(net).map_err(RemoteError::Device)?;
                with("vm.add-net", object(&net))
            }
            Command::AddVsock { vsock } => {
                let vsock = VsockConfig::parse(vsock).map_err(RemoteError::Device)?;
                with("vm.add-vsock", object(&vsock))
            }
            Command::RemoveDevice { id } => {
                let mut body = Map::new();
                body.insert("id".to_owned(), Value::from(id.as_str()));
                with("vm.remove-device", body)
            }
            Command::FtInfo => plain(Method::Get, "vm.ft-info"),
            Command::FtDisable => plain(Method::Put, "vm.ft-disable"),
            Command::FtFailover => plain(Method::Put, "vm.ft-failover"),
            Command::Resize(Resize {
                cpus,
                memory,
                balloon,
            }) => {
                let mut body = Map::new();
                let cpus = cpus.map(u64::from);
                for (name, value) in [
                    ("desired_vcpus", cpus),
                    ("desired_ram", *memory),
                    ("desired_balloon", *balloon),
                ] {
                    if let Some(value) = value {
                        body.insert(name.to_owned(), Value::from(value));
                    }
                }
                with("vm.resize", body)
            }
            Command::FtEnable(FtEnable { peer, common }) => {
                let mut body = Map::new();
                body.insert("peer".to_owned(), Value::from(peer.as_str()));
                common.add_to(&mut body);
                with("vm.ft-enable", body)
            }
            Command::FtReceive(FtReceive { listen, common }) => {
                let mut body = Map::new();
                body.insert("listen".to_owned(), Value::from(listen.as_str()));
                common.add_to(&mut body);
                with("vm.ft-receive", body)
            }
            Command::FtOverride { id, lease } => {
                let mut body = Map::new();
                body.insert("id".to_owned(), Value::from(id.as_str()));
                body.insert("lease".to_owned(), Value::from(lease.as_str()));
                with("vm.ft-override", body)
            }
        }
    }
}

/// A configuration as a JSON object.
fn object(config: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        // It is plain data with named fields.
        _ => Map::new(),
    }
}

fn read_config(path: Option<&Path>) -> Result<String, RemoteError> {
    let mut text = String::new();
    let (from, read) = match path {
        Some(path) if path != Path::new("-") => {
            (path.display().to_string(), std::fs::read_to_string(path))
        }
        _ => {
            let read = std::io::stdin().read_to_string(&mut text).map(|_| text);
            ("standard input".to_owned(), read)
        }
    };
    read.map_err(|source| RemoteError::Read { from, source })
}

fn run(options: &Options) -> Result<(), RemoteError> {
    let (method, endpoint, body) = options.command.request()?;
    let mut client = Client::connect(&options.api_socket).map_err(RemoteError::Request)?;
    let descriptors = options.command.descriptors()?;
    let answer = client
        .request_with(method, endpoint, body.as_deref(), &descriptors)
        .map_err(RemoteError::Request)?;
    if let Some(answer) = answer {
        let mut output = std::io::stdout().lock();
        writeln!(output, "{answer}").map_err(RemoteError::Print)?;
        output.flush().map_err(RemoteError::Print)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: ch-remote has failed");
            for (number, message) in error.chain().iter().enumerate() {
                eprintln!("  {number}: {message}");
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn request(words: &[&str]) -> (Method, &'static str, Option<String>) {
        let words = [&["ch-remote", "--api-socket", "/s"], words].concat();
        Options::try_parse_from(words)
            .unwrap()
            .command
            .request()
            .unwrap()
    }

    #[test]
    fn the_declaration_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn commands_become_requests() {
        assert_eq!(request(&["ping"]), (Method::Get, "vmm.ping", None));
        assert_eq!(
            request(&["shutdown-vmm"]),
            (Method::Put, "vmm.shutdown", None)
        );
        assert_eq!(
            request(&["power-button"]),
            (Method::Put, "vm.power-button", None)
        );
        assert_eq!(
            request(&["resize", "--balloon", "64M"]),
            (
                Method::Put,
                "vm.resize",
                Some(r#"{"desired_balloon":67108864}"#.to_owned())
            )
        );
        assert_eq!(request(&["ft-info"]), (Method::Get, "vm.ft-info", None));
        let (_, endpoint, body) = request(&["add-disk", "path=/d,id=x"]);
        assert_eq!(endpoint, "vm.add-disk");
        let body: Value = serde_json::from_str(&body.unwrap()).unwrap();
        assert_eq!((&body["path"], &body["id"]), (&"/d".into(), &"x".into()));
        assert_eq!(request(&["add-net", "tap=t"]).1, "vm.add-net");
        let (_, endpoint, body) = request(&["add-vsock", "cid=3,socket=/v"]);
        assert_eq!(endpoint, "vm.add-vsock");
        let body: Value = serde_json::from_str(&body.unwrap()).unwrap();
        assert_eq!((&body["cid"], &body["socket"]), (&3.into(), &"/v".into()));
        let (_, endpoint, body) = request(&["remove-device", "x"]);
        assert_eq!(endpoint, "vm.remove-device");
        assert_eq!(body.unwrap(), r#"{"id":"x"}"#);
    }

    #[test]
    fn protection_has_parameters() {
        let words = [
            "ft-enable",
            "--peer",
            "tcp:10.0.0.2:7000",
            "--lease",
            "file:/shared/x",
        ];
        let rest = ["--insecure", "on", "--detection-timeout", "500"];
        let (_, endpoint, body) = request(&[&words[..], &rest].concat());
        assert_eq!(endpoint, "vm.ft-enable");
        let body: Value = serde_json::from_str(&body.unwrap()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "peer": "tcp:10.0.0.2:7000",
                "lease": "file:/shared/x",
                "insecure": true,
                "detection_timeout_ms": 500,
            })
        );
        let (_, endpoint, body) = request(&["ft-receive", "--listen", "tcp:127.0.0.1:7000"]);
        assert_eq!(endpoint, "vm.ft-receive");
        assert_eq!(body.unwrap(), r#"{"listen":"tcp:127.0.0.1:7000"}"#);
    }
}
