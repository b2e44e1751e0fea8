//! Bytes of a console on their way out.
//!
//! Does: count what the guest wrote, keep what is not yet known to be emitted, so that whoever goes
//! live emits it first. Does not: emit.
//!
//! Invariant: `pending` holds exactly the bytes from `emitted` to `written`; repeats are possible
//! after a failover, gaps are not.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// A console's output, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingOutput {
    /// Bytes that the guest has written since the VM was created.
    pub written: u64,
    /// Of these, bytes known to be emitted.
    pub emitted: u64,
    /// The others.
    pub pending: VecDeque<u8>,
}

impl PendingOutput {
    /// Nothing written yet.
    pub fn new() -> PendingOutput {
        PendingOutput {
            written: 0,
            emitted: 0,
            pending: VecDeque::new(),
        }
    }

    /// The guest writes a byte.
    pub fn write(&mut self, byte: u8) {
        self.written += 1;
        self.pending.push_back(byte);
    }

    /// Bytes up to the count `through` are known to be emitted; what is beyond `written` is
    /// ignored.
    pub fn emitted(&mut self, through: u64) {
        let through = through.min(self.written);
        let known = through.saturating_sub(self.emitted);
        self.pending.drain(..known as usize);
        self.emitted += known;
    }

    /// The bytes from the count `from` on.
    pub fn since(&self, from: u64) -> Vec<u8> {
        let skip = from.clamp(self.emitted, self.written) - self.emitted;
        self.pending.iter().skip(skip as usize).copied().collect()
    }

    /// Refuses counts that contradict the bytes.
    pub fn validate(&self) -> bool {
        self.written.checked_sub(self.emitted) == Some(self.pending.len() as u64)
    }
}

impl Default for PendingOutput {
    fn default() -> Self {
        PendingOutput::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_is_what_was_written_and_not_emitted() {
        let mut output = PendingOutput::new();
        b"hello".iter().for_each(|&b| output.write(b));
        output.emitted(2);
        assert_eq!(output.since(0), b"llo");
        assert_eq!(output.since(4), b"o");
        output.emitted(1);
        assert_eq!(output.emitted, 2);
        output.emitted(99);
        assert_eq!((output.emitted, output.pending.len()), (5, 0));
        assert!(output.validate());
    }
}
