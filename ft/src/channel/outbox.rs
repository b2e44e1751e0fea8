//! Bytes that wait to be written to the channel.
//!
//! Does: keep them in order and give them out in whatever pieces the socket takes. Does not: bound
//! itself; its owner stops producing when `len` says so.
//!
//! Invariant: every byte leaves once, in the order in which it came (paper §3.2: the log buffer of
//! the primary).

/// So much room is kept when everything has left.
const KEPT: usize = 1 << 20;

/// Bytes on their way out.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    total: u64,
}

impl Outbox {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes have left.
    pub fn total_sent(&self) -> u64 {
        self.total
    }

    /// What waits.
    pub fn waiting(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Where to append.
    pub fn end(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The first `count` of the waiting bytes have left.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn sent(&mut self, count: usize) {
        assert!(count <= self.len(), "more sent than there was");
        self.sent += count;
        self.total += count as u64;
        if self.is_empty() {
            self.bytes.clear();
            // A clone may have made it large; what follows is small.
            self.bytes.shrink_to(KEPT);
            self.sent = 0;
        } else if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Nobody will take them any more.
    pub fn discard(&mut self) {
        self.bytes = Vec::new();
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_leaves_once_and_in_order() {
        let mut outbox = Outbox::default();
        let mut seen = Vec::new();
        for i in 0..100u8 {
            outbox.end().extend([i, i, i]);
            let count = usize::from(i % 7).min(outbox.len());
            seen.extend_from_slice(&outbox.waiting()[..count]);
            outbox.sent(count);
        }
        seen.extend_from_slice(outbox.waiting());
        outbox.sent(outbox.len());
        let expected: Vec<u8> = (0..100).flat_map(|i| [i, i, i]).collect();
        assert_eq!(seen, expected);
        assert_eq!(outbox.total_sent(), 300);
        assert!(outbox.is_empty());
    }
}
