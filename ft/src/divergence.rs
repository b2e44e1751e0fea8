//! Divergence: the backup's machine is not the primary's any more.
//!
//! Does: compare digests and outputs that the primary logged with those that the backup computed,
//! in whatever order the two become known. Does not: compute digests, or say who is right.
//!
//! Invariant: nothing is compared that is not of the same position; what differs is named by
//! component (beyond the paper, whose product compared nothing).

use std::collections::{BTreeMap, VecDeque};

use hypervisor::Position;
use machine::Output;

use crate::channel::Mismatch;
use crate::log::{ComponentDigest, OutputMark, hash_of};

/// Digests that wait for their counterpart. More than that many means that one side never sends
/// its own; the oldest are then forgotten.
const MAX_WAITING: usize = 64;

/// Compares as both halves come in.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Where each digest is taken.
    places: BTreeMap<u64, Position>,
    theirs: BTreeMap<u64, Vec<ComponentDigest>>,
    ours: BTreeMap<u64, Vec<ComponentDigest>>,
    /// Requests of devices that this side made and the primary's log has not told of yet.
    requests: VecDeque<OutputMark>,
    console: Vec<u8>,
    console_through: Option<u64>,
    compared: u64,
}

impl Comparison {
    /// How many digests were compared and found equal.
    pub(crate) fn compared(&self) -> u64 {
        self.compared
    }

    /// Both sides take digest `id` at `position`.
    pub(crate) fn digest_here(&mut self, id: u64, position: Position) {
        insert_bounded(&mut self.places, id, position);
    }

    /// The primary's values for digest `id`.
    pub(crate) fn primary_digest(
        &mut self,
        id: u64,
        components: Vec<ComponentDigest>,
    ) -> Result<(), Mismatch> {
        insert_bounded(&mut self.theirs, id, components);
        self.compare(id)
    }

    /// The backup's own values for it.
    pub(crate) fn own_digest(
        &mut self,
        id: u64,
        components: Vec<ComponentDigest>,
    ) -> Result<(), Mismatch> {
        insert_bounded(&mut self.ours, id, components);
        self.compare(id)
    }

    /// Whether the primary's values are known of a digest that the backup's machine has come to,
    /// and the backup's own are not.
    pub(crate) fn is_own_digest_awaited(&self) -> bool {
        let mut known = self.theirs.keys();
        known.any(|id| self.places.contains_key(id) && !self.ours.contains_key(id))
    }

    fn compare(&mut self, id: u64) -> Result<(), Mismatch> {
        let (Some(theirs), Some(ours)) = (self.theirs.get(&id), self.ours.get(&id)) else {
            return Ok(());
        };
        let position = self.places.remove(&id).unwrap_or_default();
        compare(position, theirs, ours)?;
        self.theirs.remove(&id);
        self.ours.remove(&id);
        self.compared += 1;
        Ok(())
    }

    /// The backup's machine made this.
    pub(crate) fn own_output(&mut self, output: &Output) {
        match output {
            Output::Console { through, bytes, .. } => {
                self.console.extend_from_slice(bytes);
                self.console_through = Some(*through);
            }
            Output::Device { submission, .. } => {
                self.requests
                    .push_back(OutputMark::of_submission(submission));
            }
        }
    }

    /// The primary logged this output, and the backup's machine has come to its position.
    pub(crate) fn primary_output(
        &mut self,
        position: Position,
        mark: &OutputMark,
    ) -> Result<(), Mismatch> {
        match mark {
            OutputMark::Console { through, hash } => {
                let found_through = self.console_through.unwrap_or(0);
                let found = hash_of(&std::mem::take(&mut self.console));
                let differs = |what: &str, expected, found| {
                    Err(Mismatch {
                        position,
                        component: what.to_owned(),
                        expected,
                        found,
                    })
                };
                if found_through != *through {
                    return differs("console output count", *through, found_through);
                }
                if found != *hash {
                    return differs("console output", *hash, found);
                }
                Ok(())
            }
            OutputMark::Device { id, hash, .. } => {
                let ours = self.requests.pop_front();
                if ours.as_ref() == Some(mark) {
                    return Ok(());
                }
                let (what, expected, found) = match ours {
                    None => ("device requests", *id, 0),
                    Some(OutputMark::Device {
                        id: found_id,
                        hash: found,
                        ..
                    }) if found_id == *id => ("device request", *hash, found),
                    Some(OutputMark::Device { id: found, .. }) => {
                        ("device request number", *id, found)
                    }
                    Some(OutputMark::Console { .. }) => ("device requests", *id, 0),
                };
                Err(Mismatch {
                    position,
                    component: what.to_owned(),
                    expected,
                    found,
                })
            }
        }
    }
}

/// The first difference between two digests taken at `position`.
pub(crate) fn compare(
    position: Position,
    expected: &[ComponentDigest],
    found: &[ComponentDigest],
) -> Result<(), Mismatch> {
    let differs = |component: &str, expected, found| {
        Err(Mismatch {
            position,
            component: component.to_owned(),
            expected,
            found,
        })
    };
    for (theirs, ours) in expected.iter().zip(found) {
        if theirs.name != ours.name {
            return differs(&theirs.name, theirs.value, 0);
        }
        if theirs.value != ours.value {
            return differs(&theirs.name, theirs.value, ours.value);
        }
    }
    if let Some(missing) = expected.get(found.len()) {
        return differs(&missing.name, missing.value, 0);
    }
    if let Some(extra) = found.get(expected.len()) {
        return differs(&extra.name, 0, extra.value);
    }
    Ok(())
}

fn insert_bounded<V>(map: &mut BTreeMap<u64, V>, id: u64, value: V) {
    map.insert(id, value);
    if map.len() > MAX_WAITING {
        map.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(values: &[(&str, u64)]) -> Vec<ComponentDigest> {
        values
            .iter()
            .map(|(name, value)| ComponentDigest {
                name: (*name).to_owned(),
                value: *value,
            })
            .collect()
    }

    #[test]
    fn the_component_that_differs_is_named() {
        let good = digest(&[("cpu", 1), ("ram", 2)]);
        let at = Position(5);
        let named = |found: &[(&str, u64)]| {
            compare(at, &good, &digest(found))
                .err()
                .map(|mismatch| mismatch.component)
        };
        assert_eq!(named(&[("cpu", 1), ("ram", 2)]), None);
        assert_eq!(named(&[("cpu", 1), ("ram", 3)]).as_deref(), Some("ram"));
        assert_eq!(named(&[("cpu", 1)]).as_deref(), Some("ram"));
        assert_eq!(named(&[("ram", 2)]).as_deref(), Some("cpu"));
        assert_eq!(
            named(&[("cpu", 1), ("ram", 2), ("rtc", 0)]).as_deref(),
            Some("rtc")
        );
    }

    #[test]
    fn digests_meet_in_any_order() {
        let mut comparison = Comparison::default();
        let at = Position(5);
        let one = digest(&[("cpu", 1)]);
        comparison.digest_here(1, at);
        comparison.digest_here(2, at);
        comparison.primary_digest(1, one.clone()).unwrap();
        comparison.own_digest(2, one.clone()).unwrap();
        comparison.own_digest(1, one.clone()).unwrap();
        assert_eq!(comparison.compared(), 1);
        let other = digest(&[("cpu", 7)]);
        let mismatch = comparison.primary_digest(2, other).unwrap_err();
        assert_eq!((mismatch.expected, mismatch.found), (7, 1));
        assert_eq!(mismatch.position, at);
    }

    #[test]
    fn console_bytes_are_compared_however_they_were_grouped() {
        let mut comparison = Comparison::default();
        let own = |through, bytes: &[u8]| Output::Console {
            position: Position(through),
            through,
            bytes: bytes.to_vec(),
        };
        comparison.own_output(&own(12, b"ab"));
        comparison.own_output(&own(13, b"c"));
        let mark = |through, bytes| OutputMark::Console {
            through,
            hash: hash_of(bytes),
        };
        let at = Position(20);
        assert_eq!(comparison.primary_output(at, &mark(13, b"abc")), Ok(()));
        comparison.own_output(&own(14, b"d"));
        let mismatch = comparison.primary_output(at, &mark(14, b"e")).unwrap_err();
        assert_eq!(mismatch.component, "console output");
        let mismatch = comparison.primary_output(at, &mark(15, b"")).unwrap_err();
        assert_eq!(mismatch.component, "console output count");
    }
}
