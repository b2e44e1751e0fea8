//! Times and sizes that an operator or a test may choose.
//!
//! Does: name them, with defaults. Does not: hold anything that both sides must agree on; the
//! detection timeout is told to the peer in the handshake.

use crate::Tick;

const MILLISECOND: Tick = 1_000_000;

/// Times and sizes of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// After this much silence the peer is taken for lost.
    pub timeout: Tick,
    /// Time between heartbeats.
    pub heartbeat_interval: Tick,
    /// A batch in which no output waits is sent when it is this old.
    pub flush_interval: Tick,
    /// Or when it has this many bytes.
    pub flush_bytes: usize,
    /// The primary stops its vCPU above this many bytes that wait to be written.
    pub send_buffer_bytes: usize,
    /// The primary stops its vCPU above this many bytes of output that wait to leave.
    pub gate_bytes: usize,
    /// The backup stops reading above this many bytes of entries that wait to be executed.
    pub receive_buffer_bytes: usize,
    /// A backup that receives nothing tells this often how far its execution is.
    pub progress_interval: Tick,
    /// A backup that is to be handed the VM has this long to catch up; and one that verifies its
    /// clone has this much longer for its first acknowledgement.
    pub hand_over_timeout: Tick,
    /// An arbiter that could not be reached is asked again after this time.
    pub retry_interval: Tick,
    /// The most guest memory that a backup takes on.
    pub max_ram_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            timeout: 1000 * MILLISECOND,
            heartbeat_interval: 100 * MILLISECOND,
            flush_interval: 20 * MILLISECOND,
            flush_bytes: 16 << 10,
            send_buffer_bytes: 4 << 20,
            gate_bytes: 1 << 20,
            receive_buffer_bytes: 8 << 20,
            progress_interval: 50 * MILLISECOND,
            hand_over_timeout: 10_000 * MILLISECOND,
            retry_interval: 500 * MILLISECOND,
            max_ram_bytes: 1 << 40,
        }
    }
}
