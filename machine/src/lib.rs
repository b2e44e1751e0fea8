//! One guest machine as a pure function of its inputs.
//!
//! Does: join vCPU, RAM, devices and virtual time; apply inputs between two steps, make outputs at
//! known positions, save, restore, digest. Does not: know hosts, logs, peers or why inputs come.
//!
//! Invariant: two machines with the same state that are given the same inputs at the same positions
//! stay the same for ever.

mod board;
mod clock;
mod digest;
mod input;
mod machine;
mod state;
mod virtio;

pub use arch::cpuid::{Profile, UnknownProfile};
pub use board::PowerRequest;
pub use clock::{Clock, RATE_INITIAL, RATE_MAX, RATE_MIN, RATE_ONE};
pub use devices::PendingOutput;
pub use digest::{COMPONENTS, Digest, DigestJob, HashJob, SWEEP_PAGES, digest_of_state};
pub use hypervisor::{Position, Translation, Tuning};
pub use input::{Input, Lane, Output};
pub use machine::{CreateError, Exit, Machine, MachineConfig};
pub use memory::{GuestRam, PAGE_SIZE};
pub use state::{BootPayload, MachineState, STATE_VERSION, StateError};
pub use virtio::device_bar;
pub use virtio_devices::{
    BAR_SIZE, DeviceSpec, Event, Extent, Offloads, Outcome, Request, StreamCommand, StreamEvent,
    Submission, balloon, block, console, net, vsock,
};
