//! What can be wrong with a configuration.
//!
//! Does: name the field and say what would be right. Does not: hold errors of the host (a kernel
//! file that is missing is found at boot).
//!
//! Invariant: every variant is the user's to mend; the REST API answers it with status 400.

use std::path::PathBuf;

use option_parser::OptionError;
use thiserror::Error;

use super::address::TcpAddress;

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The JSON text does not describe a configuration.
    #[error("the request's body is not the JSON that this call takes")]
    Json(#[source] serde_json::Error),
    /// An option of the command line is wrong.
    #[error("an option is wrong")]
    Option(#[from] OptionError),
    /// Something Cloud Hypervisor has and this program does not have yet.
    #[error("'{what}' is not supported yet; remove it from the configuration")]
    Unsupported {
        /// The field or option.
        what: String,
    },
    /// No virtual CPU.
    #[error("a virtual machine needs one virtual CPU: set boot to 1")]
    NoVcpus,
    /// More virtual CPUs than the deterministic machine has.
    #[error("{count} virtual CPUs are asked for, but only 1 is supported yet")]
    TooManyVcpus {
        /// How many were asked for.
        count: u32,
    },
    /// More at boot than there may ever be.
    #[error("boot ({boot}) is more than max ({max}) virtual CPUs")]
    BootAboveMax {
        /// At boot.
        boot: u32,
        /// At most.
        max: u32,
    },
    /// The topology does not multiply to the number of CPUs.
    #[error("the topology has {product} virtual CPUs, but max is {max}")]
    Topology {
        /// What the topology makes.
        product: u64,
        /// At most.
        max: u32,
    },
    /// The width of physical addresses is none that the CPU model has.
    #[error("max_phys_bits is {bits}; this CPU model has 36 to 46")]
    PhysBits {
        /// What was asked for.
        bits: u8,
    },
    /// Less memory than any guest needs.
    #[error("a memory size of {size} bytes is too little; at least {} MiB are needed", min >> 20)]
    TooLittleMemory {
        /// What was asked for.
        size: u64,
        /// What is needed.
        min: u64,
    },
    /// More memory than the machine's address space has room for.
    #[error("a memory size of {size} bytes is too much; at most {} GiB are possible", max >> 30)]
    TooMuchMemory {
        /// What was asked for.
        size: u64,
        /// What is possible.
        max: u64,
    },
    /// Not a whole number of pages.
    #[error("a memory size of {size} bytes is not a multiple of 4096")]
    MemoryNotPages {
        /// What was asked for.
        size: u64,
    },
    /// Nothing to boot at all.
    #[error("there is nothing to boot: give a payload with a kernel")]
    NoPayload,
    /// A payload without a kernel.
    #[error("the payload has no kernel: give a PVH vmlinux or a bzImage (--kernel PATH)")]
    NoKernel,
    /// The kernel's command line does not fit.
    #[error("the kernel's command line has {length} bytes; at most {max} fit")]
    CmdlineTooLong {
        /// Its length.
        length: usize,
        /// The most that fits.
        max: usize,
    },
    /// The kernel's command line contains a zero byte.
    #[error("the kernel's command line contains a zero byte")]
    CmdlineZero,
    /// Serial port and console on one terminal.
    #[error(
        "serial port and console cannot both have this terminal: give --console off, or another \
         mode to one of them"
    )]
    TwoTtys,
    /// Mode `Socket` without a socket, or a socket without that mode.
    #[error("{which}: mode 'Socket' and a socket belong together; give both or neither")]
    ConsoleSocket {
        /// "serial" or "console".
        which: &'static str,
    },
    /// Mode `File` without a file, or a file without that mode.
    #[error("{which}: mode 'File' and a file belong together; give both or neither")]
    ConsoleFile {
        /// "serial" or "console".
        which: &'static str,
    },
    /// A disk without an image.
    #[error("a disk needs an image: give path=PATH")]
    DiskWithoutPath,
    /// Queues that no disk has.
    #[error(
        "a disk with {queues} queues of {size} entries cannot be: give 1 to {} queues, and a power \
         of two from 4 to {} as their size",
        machine::block::QUEUES_MAX,
        machine::block::QUEUE_SIZE_MAX
    )]
    DiskQueues {
        /// Queues.
        queues: u16,
        /// Entries of each.
        size: u16,
    },
    /// A serial number that does not fit.
    #[error(
        "the disk's serial number '{serial}' is too long; at most {} bytes fit",
        machine::block::SERIAL_LENGTH
    )]
    DiskSerial {
        /// What was given.
        serial: String,
    },
    /// Queues that no network card has.
    #[error(
        "a network card with {queues} queues of {size} entries cannot be: give an even number up \
         to {}, and a power of two from 4 to {} as their size",
        2 * machine::net::PAIRS_MAX,
        machine::net::QUEUE_SIZE_MAX
    )]
    NetQueues {
        /// Queues.
        queues: u16,
        /// Entries of each.
        size: u16,
    },
    /// An MTU that IP does not allow.
    #[error("an MTU of {mtu} is too little; at least {min} is needed")]
    NetMtu {
        /// What was given.
        mtu: u16,
        /// What is needed.
        min: u16,
    },
    /// A card with two TAP devices.
    #[error("a network card has either a descriptor (fd) or a TAP device (tap, ip), not both")]
    NetTapAndDescriptor,
    /// Half an address.
    #[error("a TAP device's ip and mask belong together; give both or neither")]
    NetAddressAndMask,
    /// Half a limit.
    #[error(
        "a limit of {size} tokens in {refill_time} ms limits nothing: give both a size and a \
         refill time, or neither"
    )]
    RateLimit {
        /// Tokens.
        size: u64,
        /// Milliseconds.
        refill_time: u64,
    },
    /// A limit of one's own and one that is shared.
    #[error("a disk has either limits of its own or a rate_limit_group, not both")]
    RateLimitTwice,
    /// A group that is not there.
    #[error("there is no rate limit group '{id}'; describe it with --rate-limit-group id={id},…")]
    NoRateLimitGroup {
        /// Its name.
        id: String,
    },
    /// A balloon that takes all memory.
    #[error("a balloon of {size} bytes is too large for a guest with {memory} bytes of memory")]
    BalloonTooLarge {
        /// What was given.
        size: u64,
        /// The guest's memory.
        memory: u64,
    },
    /// A balloon that is not there.
    #[error("the virtual machine has no balloon; it must be created with one (--balloon size=0)")]
    NoBalloon,
    /// An address that no guest can have.
    #[error("a guest cannot have the cid {cid}; give one from 3 to 4294967294")]
    VsockCid {
        /// What was given.
        cid: u32,
    },
    /// A path that is too long for a socket.
    #[error("the path '{}' is too long for a socket of the guest; it takes {max} bytes", socket.display())]
    VsockSocket {
        /// What was given.
        socket: PathBuf,
        /// The most.
        max: usize,
    },
    /// More devices than the bus has room for.
    #[error("{count} devices are asked for; the PCI bus has room for {max}")]
    TooManyDevices {
        /// How many were asked for.
        count: usize,
        /// How many fit.
        max: usize,
    },
    /// Two devices with one name.
    #[error("two devices have the id '{id}'; give each its own")]
    DuplicateId {
        /// The name.
        id: String,
    },
    /// A second socket device.
    #[error("the virtual machine has a socket device; there can be only one")]
    TooManyVsocks,
    /// A slot that is not there, or is another device's.
    #[error("device '{id}' cannot be in PCI slot {slot}: slots are 1 to 31, each for one device")]
    Slot {
        /// The device.
        id: String,
        /// The slot.
        slot: u8,
    },
    /// A name that is this program's own.
    #[error("the id '{id}' cannot be given: names beginning with '__' are for built-in devices")]
    ReservedId {
        /// The name.
        id: String,
    },
    /// A VM's id is not what ids look like.
    #[error("'{text}' is no VM id; it takes 32 hexadecimal digits, with or without dashes")]
    VmId {
        /// What was given.
        text: String,
    },
    /// An address is not what addresses look like.
    #[error("'{text}' is no address; it takes tcp:ADDRESS:PORT, as in tcp:192.0.2.1:7000")]
    Address {
        /// What was given.
        text: String,
    },
    /// A lease is not what leases look like.
    #[error("'{text}' is no lease; it takes file:PATH with an absolute path on shared storage")]
    Lease {
        /// What was given.
        text: String,
    },
    /// A fence is not what fences look like.
    #[error("'{text}' is no fence; it takes exec:COMMAND or none")]
    Fence {
        /// What was given.
        text: String,
    },
    /// Protection without an arbiter.
    #[error(
        "protection needs an arbiter that both hosts reach: give lease=file:PATH with a path on \
         shared storage"
    )]
    NoLease,
    /// The peer is not on this host, and the channel is not encrypted.
    #[error(
        "{address} is not on the loopback interface, and the channel is not encrypted yet: anybody \
         on the network could read or change the guest; allow it with insecure=on"
    )]
    Insecure {
        /// Where to.
        address: TcpAddress,
    },
    /// A failure detection time outside the sensible range.
    #[error("a detection timeout of {given} ms is outside {min} to {max} ms")]
    DetectionTimeout {
        /// What was given.
        given: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
}
