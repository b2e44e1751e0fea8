//! The output rule: nothing leaves before the peer can make it again.
//!
//! Does: hold outputs with the sequence number of their log entry, and let them go, each lane in its
//! order, when every member has acknowledged that entry. What only asks for something, as a read
//! does, goes at once: it may overtake what waits in its lane, for no two requests under way overlap.
//! Does not: stop the guest, which runs on meanwhile; or emit anything.
//!
//! Invariant: while guarded, an output whose entry some member has not acknowledged stays, if anybody
//! outside could tell that it left; while shut, all stay (paper §2.2: "the primary VM may not send an
//! output to the external world, until the backup VM has received and acknowledged the log entry
//! associated with the operation producing the output").

use std::collections::{BTreeMap, VecDeque};

use machine::{Lane, Output};

use crate::identity::Incarnation;

#[derive(Debug)]
enum Rule {
    /// Nobody else could ever continue this machine.
    Open,
    /// For each member that could, the first entry that it has not acknowledged.
    Guarded(BTreeMap<Incarnation, u64>),
    /// Somebody else may already be continuing it.
    Shut,
}

/// Outputs on their way out.
#[derive(Debug)]
pub struct OutputGate {
    rule: Rule,
    lanes: BTreeMap<Lane, VecDeque<(u64, Output)>>,
    /// What only asks for something.
    harmless: BTreeMap<Lane, VecDeque<(u64, Output)>>,
    bytes: usize,
}

impl Default for OutputGate {
    fn default() -> Self {
        OutputGate {
            rule: Rule::Open,
            lanes: BTreeMap::new(),
            harmless: BTreeMap::new(),
            bytes: 0,
        }
    }
}

impl OutputGate {
    /// From here on `members` must have acknowledged an output's entry, the first of which is
    /// `first_seq`, before it leaves.
    pub fn guard(&mut self, members: impl IntoIterator<Item = Incarnation>, first_seq: u64) {
        let members = members.into_iter().map(|member| (member, first_seq));
        self.rule = Rule::Guarded(members.collect());
    }

    /// Nothing leaves until `open`.
    pub fn shut(&mut self) {
        self.rule = Rule::Shut;
    }

    /// Everything may leave.
    pub fn open(&mut self) {
        self.rule = Rule::Open;
    }

    /// Whether acknowledgements decide.
    pub fn is_guarded(&self) -> bool {
        matches!(self.rule, Rule::Guarded(_))
    }

    /// Whether nothing leaves.
    pub fn is_shut(&self) -> bool {
        matches!(self.rule, Rule::Shut)
    }

    /// `member` has every entry below `next_expected`.
    pub fn acknowledged(&mut self, member: Incarnation, next_expected: u64) {
        if let Rule::Guarded(members) = &mut self.rule
            && let Some(known) = members.get_mut(&member)
        {
            *known = next_expected.max(*known);
        }
    }

    /// Adds an output. `seq` is that of its entry.
    pub fn push(&mut self, seq: u64, output: Output) {
        self.bytes += output.length();
        let lanes = if output.is_harmless() {
            &mut self.harmless
        } else {
            &mut self.lanes
        };
        let queue = lanes.entry(output.lane()).or_default();
        debug_assert!(queue.back().is_none_or(|(last, _)| *last <= seq));
        queue.push_back((seq, output));
    }

    /// The lanes of which something may leave.
    pub fn ready(&self) -> impl Iterator<Item = Lane> + '_ {
        // A lane that is in both is told of once.
        let harmless = self.harmless.keys();
        let others = self.lanes.keys();
        let others = others.filter(|lane| !self.harmless.contains_key(lane));
        let lanes = harmless.chain(others).copied();
        lanes.filter(|lane| self.is_ready(*lane))
    }

    /// Whether something of a lane may leave.
    pub fn is_ready(&self, lane: Lane) -> bool {
        self.has_harmless(lane) || self.is_first_ready(lane)
    }

    /// Whether something of a lane may leave that only asks.
    pub fn has_harmless(&self, lane: Lane) -> bool {
        let waiting = self.harmless.get(&lane);
        !self.is_shut() && waiting.is_some_and(|waiting| !waiting.is_empty())
    }

    fn is_first_ready(&self, lane: Lane) -> bool {
        let Some((seq, _)) = self.lanes.get(&lane).and_then(VecDeque::front) else {
            return false;
        };
        match &self.rule {
            Rule::Open => true,
            Rule::Guarded(members) => members.values().all(|next| seq < next),
            Rule::Shut => false,
        }
    }

    /// Bytes of the next output of a lane, 0 if there is none.
    pub fn first_bytes(&self, lane: Lane) -> usize {
        if self.has_harmless(lane) {
            return 0;
        }
        let first = self.lanes.get(&lane).and_then(VecDeque::front);
        first.map_or(0, |(_, output)| output.length())
    }

    /// The next output of a lane, if it may leave.
    pub fn take(&mut self, lane: Lane) -> Option<(u64, Output)> {
        let lanes = match () {
            () if self.has_harmless(lane) => &mut self.harmless,
            () if self.is_first_ready(lane) => &mut self.lanes,
            () => return None,
        };
        let (seq, output) = lanes.get_mut(&lane)?.pop_front()?;
        self.bytes -= output.length();
        Some((seq, output))
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use machine::{Extent, Position, Request, Submission};

    use super::*;

    fn output(through: u64) -> Output {
        Output::Console {
            position: Position(through),
            through,
            bytes: vec![0; 10],
        }
    }

    fn taken(gate: &mut OutputGate) -> Vec<u64> {
        std::iter::from_fn(|| gate.take(Lane::Console))
            .map(|o| o.0)
            .collect()
    }

    const A: Incarnation = Incarnation([1; 16]);
    const B: Incarnation = Incarnation([2; 16]);

    #[test]
    fn every_member_must_have_acknowledged() {
        let mut gate = OutputGate::default();
        gate.guard([A, B], 5);
        for seq in [5, 7, 9] {
            gate.push(seq, output(seq));
        }
        assert_eq!(gate.waiting_bytes(), 30);
        assert!(taken(&mut gate).is_empty());
        gate.acknowledged(A, 100);
        assert!(taken(&mut gate).is_empty());
        gate.acknowledged(B, 7);
        assert_eq!(taken(&mut gate), [5]);
        // An acknowledgement is never taken back, and strangers have no say.
        gate.acknowledged(B, 8);
        gate.acknowledged(B, 2);
        gate.acknowledged(Incarnation([3; 16]), 100);
        assert_eq!(taken(&mut gate), [7]);
        assert_eq!(gate.waiting_bytes(), 10);
    }

    #[test]
    fn a_read_waits_for_nobody() {
        let mut gate = OutputGate::default();
        gate.guard([A], 5);
        let request = |seq, request| {
            let submission = Submission {
                device: 1,
                id: seq,
                request,
            };
            let position = Position(seq);
            Output::Device {
                position,
                submission,
            }
        };
        let lane = Lane::Device(1);
        gate.push(5, request(5, Request::Flush));
        assert!(gate.ready().next().is_none());
        let extent = Extent {
            offset: 0,
            length: 512,
        };
        gate.push(6, request(6, Request::Read(extent)));
        gate.push(7, request(7, Request::Entropy { length: 1 }));
        assert!(gate.ready().eq([lane]));
        gate.shut();
        assert!(gate.take(lane).is_none());
        gate.guard([A], 5);
        let taken: Vec<u64> = std::iter::from_fn(|| gate.take(lane))
            .map(|o| o.0)
            .collect();
        assert_eq!(taken, [6, 7]);
        gate.acknowledged(A, 6);
        assert_eq!(gate.take(lane).map(|o| o.0), Some(5));
    }

    #[test]
    fn a_shut_gate_keeps_what_was_acknowledged() {
        let mut gate = OutputGate::default();
        gate.push(1, output(1));
        assert!(gate.is_ready(Lane::Console));
        gate.guard([A], 2);
        // Before protection began: its entry is not one of the log's.
        assert!(gate.is_ready(Lane::Console));
        gate.push(2, output(2));
        gate.acknowledged(A, 3);
        gate.shut();
        gate.acknowledged(A, 4);
        assert!(taken(&mut gate).is_empty());
        gate.open();
        assert_eq!(taken(&mut gate), [1, 2]);
    }
}
