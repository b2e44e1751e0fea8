//! The command line of `cloud-hypervisor`.
//!
//! Does: declare the options, and turn their texts into what the `vmm` crate takes. Does not: act.
//!
//! Invariant: an option that is not honoured is not declared, so that clap refuses it.

use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueEnum};
use option_parser::{ByteSize, FromOptionValue, Key};
use thiserror::Error;
use vmm::config::{ConfigError, VmParams};
use vmm::host::api_socket::ApiSocketAddress;
use vmm::host::event_monitor::EventMonitor;
use vmm::machine_factory::{Engine, MachineOptions, ReplayRequest, Translation};
use vmm::process::ProcessOptions;

/// A fault-tolerant virtual machine monitor.
#[derive(Debug, Parser)]
#[command(name = "cloud-hypervisor", version, about)]
#[command(disable_version_flag = true)]
pub(crate) struct Options {
    /// Virtual CPUs: boot=NUMBER,max=NUMBER,topology=THREADS:CORES:DIES:PACKAGES,max_phys_bits=BITS,
    /// profile=MODEL (v1, v2 or v3: the x86-64 level that the guest sees)
    #[arg(long, value_name = "CPUS", help_heading = "Guest")]
    cpus: Option<String>,

    /// Memory: size=BYTES (with K, M, G or T)
    #[arg(long, value_name = "MEMORY", help_heading = "Guest")]
    memory: Option<String>,

    /// Kernel to boot: a PVH vmlinux or a bzImage
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    kernel: Option<PathBuf>,

    /// The kernel's command line
    #[arg(long, value_name = "TEXT", requires = "kernel", help_heading = "Guest")]
    cmdline: Option<String>,

    /// The initial file system
    #[arg(long, value_name = "FILE", requires = "kernel", help_heading = "Guest")]
    initramfs: Option<PathBuf>,

    /// A disk: path=PATH,image_type=raw|qcow2,backing_files=on|off,readonly=on|off,direct=on|off,
    /// sparse=on|off,lock_granularity=byte-range|full,id=ID,serial=SERIAL,num_queues=NUMBER,
    /// queue_size=NUMBER,rate_limit_group=ID,bw_size=BYTES,bw_one_time_burst=BYTES,
    /// bw_refill_time=MILLISECONDS,ops_size=NUMBER,ops_one_time_burst=NUMBER,
    /// ops_refill_time=MILLISECONDS; repeatable
    #[arg(long, value_name = "DISK", num_args = 1.., action = ArgAction::Append,
          help_heading = "Guest")]
    disk: Vec<String>,

    /// Limits that disks share: id=ID, and limits as a disk's; repeatable
    #[arg(long, value_name = "GROUP", num_args = 1.., action = ArgAction::Append,
          help_heading = "Guest")]
    rate_limit_group: Vec<String>,

    /// A network card: tap=NAME,fd=NUMBER,ip=ADDRESS,mask=MASK,mac=MAC,host_mac=MAC,mtu=NUMBER,
    /// id=ID,num_queues=NUMBER,queue_size=NUMBER,offload_tso=on|off,offload_ufo=on|off,
    /// offload_csum=on|off, and limits as a disk's; repeatable
    #[arg(long, value_name = "NET", num_args = 1.., action = ArgAction::Append,
          help_heading = "Guest")]
    net: Vec<String>,

    /// Where the guest's random numbers come from (virtio-rng, and the seed of RDRAND): src=FILE
    #[arg(long, value_name = "RNG", help_heading = "Guest")]
    rng: Option<String>,

    /// Streams between guest and host: cid=NUMBER,socket=PATH,id=ID
    #[arg(long, value_name = "VSOCK", help_heading = "Guest")]
    vsock: Option<String>,

    /// Memory that the guest is to do without: size=BYTES,deflate_on_oom=on|off,
    /// free_page_reporting=on|off
    #[arg(long, value_name = "BALLOON", help_heading = "Guest")]
    balloon: Option<String>,

    /// The serial port: off, null, tty, pty, file=FILE or socket=PATH; null unless told otherwise
    #[arg(long, value_name = "MODE", help_heading = "Guest")]
    serial: Option<String>,

    /// The virtio console, hvc0 to Linux: off, null, tty, pty, file=FILE or socket=PATH; tty unless
    /// told otherwise
    #[arg(long, value_name = "MODE", help_heading = "Guest")]
    console: Option<String>,

    /// Fault tolerance: id=VM-ID,lease=file:PATH,fence=exec:COMMAND|none. With a lease, the VM asks before it boots
    #[arg(long, value_name = "FT", help_heading = "Guest")]
    ft: Option<String>,

    /// Where the REST API is served: PATH, path=PATH or fd=NUMBER
    #[arg(long, value_name = "SOCKET", help_heading = "Process")]
    api_socket: Option<String>,

    /// Where events are written: path=FILE or fd=NUMBER
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    event_monitor: Option<String>,

    /// Where messages are written instead of standard error
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub(crate) log_file: Option<PathBuf>,

    /// Write more messages; up to three times
    #[arg(short = 'v', action = ArgAction::Count, help_heading = "Process")]
    pub(crate) verbosity: u8,

    /// System call filters; accepted for compatibility, none is built in yet
    #[arg(long, value_enum, default_value_t = Seccomp::True, help_heading = "Process")]
    pub(crate) seccomp: Seccomp,

    /// What executes the guest's instructions
    #[arg(long, value_enum, default_value_t = EngineName::Software, help_heading = "Machine")]
    engine: EngineName,

    /// How the software CPU executes; the guest cannot tell
    #[arg(long, value_enum, default_value_t = TranslationName::Mixed, help_heading = "Machine")]
    translation: TranslationName,

    /// The most memory that caches of decoded and compiled instructions may take
    #[arg(long, value_name = "BYTES", default_value = "16M", value_parser = size,
          help_heading = "Machine")]
    code_cache_size: u64,

    /// Write the log of the run to a file: path=FILE
    #[arg(
        long,
        value_name = "FILE",
        requires = "kernel",
        conflicts_with = "replay",
        help_heading = "Machine"
    )]
    record: Option<String>,

    /// Replay the log of a run and print the machine's digest at its end: path=FILE,flush=SEED
    /// (with flush, caches are emptied at random positions, which must not show)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "api_socket"],
          help_heading = "Machine")]
    replay: Option<String>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// What happens on a forbidden system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Seccomp {
    /// The process ends
    True,
    /// Nothing
    False,
    /// It is logged
    Log,
    /// It fails
    Errno,
}

impl Seccomp {
    /// Whether filters are asked for.
    pub(crate) fn filters(self) -> bool {
        self != Seccomp::False
    }
}

/// How the software CPU executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TranslationName {
    /// An interpreter alone
    Interpreter,
    /// Compiled code wherever that is possible
    Compiler,
    /// Compiled code for what is executed often
    Mixed,
}

impl From<TranslationName> for Translation {
    fn from(name: TranslationName) -> Translation {
        match name {
            TranslationName::Interpreter => Translation::Interpreter,
            TranslationName::Compiler => Translation::Compiler,
            TranslationName::Mixed => Translation::Mixed,
        }
    }
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EngineName {
    /// The deterministic CPU in software, on any x86-64 host
    Software,
    /// The host's virtualisation (not built in yet)
    Kvm,
}

/// An option whose text is right and which cannot be honoured.
#[derive(Debug, Error)]
pub(crate) enum OptionsError {
    /// The log file.
    #[error("--log-file: cannot write there")]
    LogFile {
        /// What the host said.
        source: std::io::Error,
    },
    /// The event monitor's file.
    #[error("--event-monitor: cannot write there")]
    EventMonitor {
        /// What the host said.
        source: std::io::Error,
    },
    /// Options of a guest without a guest.
    #[error("{option} describes a guest, but there is no --kernel to boot")]
    NoKernel {
        /// Which.
        option: &'static str,
    },
    /// A text is wrong.
    #[error("the command line is wrong")]
    Config(#[from] ConfigError),
}

fn size(text: &str) -> Result<u64, String> {
    match ByteSize::from_option_value(text) {
        Some(ByteSize(size)) if size >= 1 << 20 => Ok(size),
        Some(_) => Err("at least 1M is needed".to_owned()),
        None => Err(format!("it takes {}", ByteSize::EXPECTED)),
    }
}

/// Reads `path=FILE`, or a path alone.
fn path(option: &str, text: &str) -> Result<PathBuf, ConfigError> {
    if !text.starts_with("path=") {
        return Ok(PathBuf::from(text));
    }
    let options = option_parser::Options::parse(option, text, &[Key::value("path")])?;
    Ok(options.require("path")?)
}

impl Options {
    /// How machines run.
    pub(crate) fn machine(&self) -> Result<MachineOptions, OptionsError> {
        let engine = match self.engine {
            EngineName::Software => Engine::Software,
            EngineName::Kvm => Engine::Kvm,
        };
        let record = self
            .record
            .as_deref()
            .map(|text| path("--record", text))
            .transpose()?;
        Ok(MachineOptions {
            engine,
            code_cache_size: self.code_cache_size,
            translation: self.translation.into(),
            record,
        })
    }

    /// The log to replay, if that is what is to be done.
    pub(crate) fn replay(&self) -> Result<Option<ReplayRequest>, OptionsError> {
        let read = |text: &str| -> Result<ReplayRequest, ConfigError> {
            if !text.starts_with("path=") {
                let path = PathBuf::from(text);
                return Ok(ReplayRequest { path, flush: None });
            }
            let keys = ["path", "flush"].map(Key::value);
            let options = option_parser::Options::parse("--replay", text, &keys)?;
            Ok(ReplayRequest {
                path: options.require("path")?,
                flush: options.get("flush")?,
            })
        };
        Ok(self.replay.as_deref().map(read).transpose()?)
    }

    /// What the process is to do.
    pub(crate) fn process(&self) -> Result<ProcessOptions, OptionsError> {
        let params = VmParams {
            cpus: self.cpus.clone(),
            memory: self.memory.clone(),
            kernel: self.kernel.clone(),
            cmdline: self.cmdline.clone(),
            initramfs: self.initramfs.clone(),
            disks: self.disk.clone(),
            rate_limit_groups: self.rate_limit_group.clone(),
            nets: self.net.clone(),
            rng: self.rng.clone(),
            vsock: self.vsock.clone(),
            balloon: self.balloon.clone(),
            serial: self.serial.clone(),
            console: self.console.clone(),
            ft: self.ft.clone(),
        };
        let vm = if params.has_payload() {
            Some(Box::new(params.to_config()?))
        } else {
            self.refuse_guest_options()?;
            None
        };
        let api_socket = self
            .api_socket
            .as_deref()
            .map(ApiSocketAddress::parse)
            .transpose()?;
        Ok(ProcessOptions {
            api_socket,
            vm,
            monitor: self.monitor()?,
        })
    }

    /// Without a kernel, a VM comes over the API, and nothing of it from the command line.
    fn refuse_guest_options(&self) -> Result<(), OptionsError> {
        let given = [
            ("--cpus", &self.cpus),
            ("--memory", &self.memory),
            ("--rng", &self.rng),
            ("--vsock", &self.vsock),
            ("--balloon", &self.balloon),
            ("--serial", &self.serial),
            ("--console", &self.console),
            ("--ft", &self.ft),
        ];
        for (option, value) in given {
            if value.is_some() {
                return Err(OptionsError::NoKernel { option });
            }
        }
        for (option, values) in [
            ("--disk", &self.disk),
            ("--rate-limit-group", &self.rate_limit_group),
            ("--net", &self.net),
        ] {
            if !values.is_empty() {
                return Err(OptionsError::NoKernel { option });
            }
        }
        Ok(())
    }

    fn monitor(&self) -> Result<EventMonitor, OptionsError> {
        let Some(text) = &self.event_monitor else {
            return Ok(EventMonitor::none());
        };
        let keys = ["path", "fd"].map(Key::value);
        let options = option_parser::Options::parse("--event-monitor", text, &keys)
            .map_err(ConfigError::from)?;
        let path: Option<PathBuf> = options.get("path").map_err(ConfigError::from)?;
        let descriptor: Option<u16> = options.get("fd").map_err(ConfigError::from)?;
        let monitor = match (path, descriptor) {
            (Some(path), None) => EventMonitor::to_path(&path),
            (None, Some(descriptor)) => EventMonitor::to_descriptor(descriptor.into()),
            _ => {
                let error = options.invalid("path", "either path=FILE or fd=NUMBER");
                return Err(ConfigError::from(error).into());
            }
        };
        monitor.map_err(|source| OptionsError::EventMonitor { source })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from([&["cloud-hypervisor"], words].concat())
    }

    #[test]
    fn the_declaration_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_usual_command_line() {
        let options = parse(&[
            "--kernel",
            "/k",
            "--initramfs",
            "/i",
            "--cmdline",
            "console=ttyS0",
            "--memory",
            "size=512M",
            "--serial",
            "tty",
            "--console",
            "off",
            "--seccomp",
            "false",
            "-vv",
        ])
        .unwrap();
        assert_eq!(options.verbosity, 2);
        assert_eq!(options.machine().unwrap(), MachineOptions::default());
        let process = options.process().unwrap();
        assert_eq!(process.vm.unwrap().memory.size, 512 << 20);
        assert_eq!(process.api_socket, None);
    }

    #[test]
    fn an_api_socket_alone_is_enough() {
        for text in ["/run/a", "path=/run/a"] {
            let process = parse(&["--api-socket", text]).unwrap().process().unwrap();
            assert_eq!(
                process.api_socket,
                Some(ApiSocketAddress::Path("/run/a".into()))
            );
            assert_eq!(process.vm, None);
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for words in [
            &["--cmdline", "x"][..],
            &["--seccomp", "maybe"],
            &["--engine", "magic"],
            &["--code-cache-size", "1K"],
            &["--replay", "/l", "--kernel", "/k"],
            &["--record", "/l"],
        ] {
            parse(words).unwrap_err();
        }
        let error = parse(&["--memory", "size=1G"])
            .unwrap()
            .process()
            .unwrap_err();
        assert!(
            error.to_string().starts_with("--memory describes a guest"),
            "{error}"
        );
        let options = parse(&["--kernel", "/k", "--cpus", "boot=2"]).unwrap();
        assert!(matches!(options.process(), Err(OptionsError::Config(_))));
    }

    #[test]
    fn files_have_two_forms() {
        for text in ["/log", "path=/log"] {
            let options = parse(&["--kernel", "/k", "--record", text]).unwrap();
            assert_eq!(
                options.machine().unwrap().record,
                Some(PathBuf::from("/log"))
            );
            let options = parse(&["--replay", text]).unwrap();
            let (path, flush) = (PathBuf::from("/log"), None);
            assert_eq!(
                options.replay().unwrap(),
                Some(ReplayRequest { path, flush })
            );
        }
    }
}
