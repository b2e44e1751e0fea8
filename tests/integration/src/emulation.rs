//! A wire on which frames are late, overtake each other, and get lost.
//!
//! Does: carry frames between two TAP devices, as the conditions of the moment say. Does not: look
//! into a frame. (`tc netem` does the same in the kernel, where the kernel has it.)
//!
//! Invariant: which frames get lost and how late the others are is the seed's choice, frame by frame.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use net_util::Tap;

use crate::failure::{Outcome, While};
use crate::seed::Random;

/// How often frames are looked for.
const PERIOD: Duration = Duration::from_micros(500);
/// The longest frame, with the header before it.
const FRAME: usize = 70 << 10;

/// What happens to frames; nothing unless told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// So many of 1000 get lost.
    pub lost: u64,
    /// How long each is on its way, at least.
    pub delay: Duration,
    /// And at most so much longer, so that they overtake each other.
    pub jitter: Duration,
}

impl Conditions {
    /// When a frame that is sent now arrives, if it does.
    fn due(&self, random: &mut Random) -> Option<Instant> {
        if random.below(1000) < self.lost {
            return None;
        }
        let late = match self.jitter {
            Duration::ZERO => Duration::ZERO,
            jitter => random.time_below(jitter),
        };
        Some(Instant::now() + self.delay + late)
    }
}

/// The wire.
#[derive(Debug)]
pub struct Emulation {
    conditions: Arc<Mutex<Conditions>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A frame on its way: when it is due, where it stands among all, to which end it goes, and what it
/// holds.
type Underway = Reverse<(Instant, u64, usize, Vec<u8>)>;

impl Emulation {
    /// One between two devices.
    pub fn start(mut ends: [Tap; 2], mut random: Random) -> Outcome<Self> {
        let conditions = Arc::<Mutex<Conditions>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (conditions_too, stop_too) = (Arc::clone(&conditions), Arc::clone(&stop));
        let run = move || {
            let mut underway = BinaryHeap::new();
            let mut buffer = vec![0; FRAME];
            let mut count = 0;
            while !stop_too.load(Ordering::Relaxed) {
                let conditions = *conditions_too.lock().expect("nobody panics with it");
                for (from, end) in ends.iter_mut().enumerate() {
                    // A device that is down has none.
                    while let Ok(Some(length)) = end.receive(&mut buffer) {
                        count += 1;
                        if let Some(due) = conditions.due(&mut random) {
                            let frame = buffer[..length].to_vec();
                            underway.push(Reverse((due, count, 1 - from, frame)));
                        }
                    }
                }
                deliver(&mut underway, &mut ends);
                thread::sleep(PERIOD);
            }
        };
        let thread = thread::Builder::new().name("wire".to_owned()).spawn(run);
        Ok(Emulation {
            conditions,
            stop,
            thread: Some(thread.during("starting a thread")?),
        })
    }

    /// From now on frames that are sent meet these conditions.
    pub fn set(&self, conditions: Conditions) {
        *self.conditions.lock().expect("nobody panics with it") = conditions;
    }
}

/// Hands over what is due.
fn deliver(underway: &mut BinaryHeap<Underway>, ends: &mut [Tap; 2]) {
    let now = Instant::now();
    while let Some(Reverse((due, ..))) = underway.peek()
        && *due <= now
        && let Some(Reverse((_, _, to, frame))) = underway.pop()
    {
        // A device that is down loses it.
        let _ = ends[to].send(&frame);
    }
}

impl Drop for Emulation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported.
            let _ = thread.join();
        }
    }
}
