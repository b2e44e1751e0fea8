//! Virtual time and the host's clock: how fast the guest's clock should run.
//!
//! Does: compare virtual time with the host's, measure how fast the host executes, and say which
//! rate the next anchor should set and how long the vCPU thread should wait. Does not: read a
//! clock, append an anchor or wait; the vCPU thread does. Knows nothing of the guest but two
//! numbers, its virtual time and its cost units.
//!
//! Invariant: what is measured here reaches the machine only as the rate of a logged anchor, which
//! a replaying side takes from the log. So only a live machine has one of these, and it is made anew
//! at go-live: the offset between the two clocks belongs to the live side alone (paper §2.1: what
//! is not deterministic is logged).
//!
//! How it steers, with `error` = virtual time − what the host's clock says it should be:
//!
//! - The rate aims to undo the error within [`HORIZON`]. Ahead, it goes down as far as it must;
//!   behind, it goes up by [`CATCH_UP_PERCENT`] at most, so a guest never sees time race.
//! - An anchor comes at most each [`ANCHOR_INTERVAL`] (each [`ANCHOR_INTERVAL_URGENT`] when far
//!   ahead), and only if the rate would change noticeably.
//! - Ahead by more than [`AHEAD_MAX`], the vCPU thread waits, outside guest time.
//! - A guest that turns from input and output to computing executes several times as much a second.
//!   Whoever believed the old speed for long would run ahead and wait, so a speed that was seen
//!   lately counts at once if it is higher. A lower one counts by and by: being behind stops nobody.
//! - Behind by more than [`BEHIND_MAX`] (a pause, a clone, a frozen host), the offset is derived
//!   anew: the guest's clock stays behind for good, as that of a machine that was asleep.
//! - An idle guest needs none of this: it sleeps until the host's clock reaches its deadline.

use machine::{RATE_MAX, RATE_MIN};

const MILLISECOND: u64 = 1_000_000;

/// The error should be gone after this.
pub const HORIZON: u64 = 200 * MILLISECOND;
/// How much faster than the host's clock virtual time runs at most.
pub const CATCH_UP_PERCENT: u64 = 10;
/// The least time between two anchors.
pub const ANCHOR_INTERVAL: u64 = 50 * MILLISECOND;
/// The least time between two anchors while virtual time is far ahead.
pub const ANCHOR_INTERVAL_URGENT: u64 = 10 * MILLISECOND;
/// So far ahead virtual time may be before the vCPU thread waits.
pub const AHEAD_MAX: u64 = 3 * MILLISECOND;
/// So far behind virtual time may be before it stays behind.
pub const BEHIND_MAX: u64 = 2000 * MILLISECOND;
/// The longest single wait of the vCPU thread for being ahead.
pub const WAIT_MAX: u64 = 10 * MILLISECOND;

/// An error below this, with a rate that is right by [`RATE_TOLERANCE_PERCENT`], is left alone.
const ERROR_TOLERANCE: u64 = 2 * MILLISECOND;
const RATE_TOLERANCE_PERCENT: f64 = 2.0;
/// Measurements older than about this much execution fade.
const SPEED_WINDOW: f64 = 100e6;
/// The same of what was seen lately.
const LATELY: f64 = 6e6;
/// Faster than this times the lasting speed is another speed.
const ANOTHER_SPEED: f64 = 1.2;
/// Less execution than this says nothing about the host's speed.
const SPEED_MEASURED: f64 = LATELY / 2.0;

/// What is to be done at this boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// Append an anchor: the present virtual time, and this rate.
    pub rate: Option<u64>,
    /// Wait this many nanoseconds before the next step.
    pub wait: u64,
}

/// How fast the host executes.
#[derive(Clone, Copy, Debug, Default)]
struct Speed {
    /// Host nanoseconds and cost units of recent execution, old ones faded.
    busy: f64,
    units: f64,
}

impl Speed {
    fn executed(&mut self, elapsed: u64, units: u64, window: f64) {
        self.busy += elapsed as f64;
        self.units += units as f64;
        if self.busy > window {
            self.busy /= 2.0;
            self.units /= 2.0;
        }
    }

    /// Host nanoseconds for a unit, if enough was seen for that to mean something.
    fn time_of_unit(&self) -> Option<f64> {
        let is_measured = self.busy >= SPEED_MEASURED && self.units > 0.0;
        is_measured.then(|| self.busy / self.units)
    }
}

/// Keeps virtual time near the host's clock.
#[derive(Clone, Debug)]
pub struct Pacer {
    /// Host time at which virtual time is zero.
    origin: i128,
    /// Nanoseconds per unit, 32.32, as last set.
    rate: u64,
    last_anchor: u64,
    lasting: Speed,
    lately: Speed,
}

impl Pacer {
    /// For a machine that at host time `host` is at virtual time `now` and runs at `rate`: their
    /// clocks agree by definition.
    pub fn new(host: u64, now: u64, rate: u64) -> Self {
        Pacer {
            origin: i128::from(host) - i128::from(now),
            rate,
            last_anchor: host,
            lasting: Speed::default(),
            lately: Speed::default(),
        }
    }

    /// Derives the offset anew, after the machine stood still on purpose.
    pub fn resync(&mut self, host: u64, now: u64) {
        self.origin = i128::from(host) - i128::from(now);
    }

    /// The virtual time that the host's clock asks for.
    pub fn target(&self, host: u64) -> u64 {
        u64::try_from(i128::from(host) - self.origin).unwrap_or(0)
    }

    /// The host time at which virtual time should be `now`.
    pub fn host_time(&self, now: u64) -> u64 {
        u64::try_from(i128::from(now) + self.origin).unwrap_or(0)
    }

    /// The machine executed `units` in `elapsed` host nanoseconds.
    pub fn executed(&mut self, elapsed: u64, units: u64) {
        self.lasting.executed(elapsed, units, SPEED_WINDOW);
        self.lately.executed(elapsed, units, LATELY);
        if let (Some(lately), Some(lasting)) =
            (self.lately.time_of_unit(), self.lasting.time_of_unit())
            && lasting > lately * ANOTHER_SPEED
        {
            self.lasting = self.lately;
        }
    }

    /// The rate at which virtual time would pass as the host's does.
    fn natural_rate(&self) -> Option<f64> {
        let time = self.lasting.time_of_unit()?;
        Some(time * (1u64 << 32) as f64)
    }

    /// What to do at a boundary at virtual time `now`, after execution.
    pub fn steer(&mut self, host: u64, now: u64) -> Steering {
        let mut error = i128::from(now) - i128::from(self.target(host));
        if error < -i128::from(BEHIND_MAX) {
            log::info!(
                "the guest's clock falls behind by {} ms",
                -error / 1_000_000
            );
            self.resync(host, now);
            error = 0;
        }
        let ahead = u64::try_from(error).unwrap_or(0);
        let mut steering = Steering::default();
        if let Some(rate) = self.better_rate(error)
            && host >= self.last_anchor + interval(ahead)
        {
            (self.rate, self.last_anchor) = (rate, host);
            steering.rate = Some(rate);
        }
        if ahead > AHEAD_MAX {
            steering.wait = ahead.min(WAIT_MAX);
        }
        steering
    }

    /// The rate for this error, if it is worth an anchor.
    fn better_rate(&self, error: i128) -> Option<u64> {
        let natural = self.natural_rate()?;
        let fastest = 1.0 + CATCH_UP_PERCENT as f64 / 100.0;
        let slope = (1.0 - error as f64 / HORIZON as f64).clamp(0.1, fastest);
        let rate = ((natural * slope) as u64).clamp(RATE_MIN, RATE_MAX);
        let change = (rate as f64 / self.rate as f64 - 1.0).abs() * 100.0;
        let is_off = error.unsigned_abs() > u128::from(ERROR_TOLERANCE);
        (rate != self.rate && (is_off || change > RATE_TOLERANCE_PERCENT)).then_some(rate)
    }
}

fn interval(ahead: u64) -> u64 {
    if ahead > AHEAD_MAX {
        ANCHOR_INTERVAL_URGENT
    } else {
        ANCHOR_INTERVAL
    }
}

/// How many steps the vCPU thread makes between two looks at the world.
#[derive(Clone, Debug)]
pub struct SliceLength {
    steps: u64,
}

/// A slice takes about this long.
const SLICE: u64 = 3 * MILLISECOND / 2;
const STEPS_MIN: u64 = 1_000;
const STEPS_MAX: u64 = 4_000_000;

impl Default for SliceLength {
    fn default() -> Self {
        SliceLength { steps: 100_000 }
    }
}

impl SliceLength {
    /// Steps of the next slice.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// A slice of `steps` took `elapsed` host nanoseconds.
    pub fn took(&mut self, steps: u64, elapsed: u64) {
        // A slice that ended early says something only if it was slow.
        if steps < self.steps && elapsed < SLICE {
            return;
        }
        let ratio = SLICE as f64 / elapsed.max(1) as f64;
        let steps = self.steps as f64 * ratio.clamp(0.5, 2.0);
        self.steps = (steps as u64).clamp(STEPS_MIN, STEPS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use machine::{Clock, RATE_INITIAL};

    use super::*;

    /// A guest that computes without end on a host of a given speed.
    struct World {
        host: u64,
        units: u64,
        clock: Clock,
        pacer: Pacer,
        slice: SliceLength,
        /// Of the host: steps per millisecond.
        speed: u64,
        anchors: Vec<u64>,
        waited: u64,
    }

    impl World {
        fn new(speed: u64) -> World {
            World {
                host: 7 * MILLISECOND,
                units: 0,
                clock: Clock::new(),
                pacer: Pacer::new(7 * MILLISECOND, 0, RATE_INITIAL),
                slice: SliceLength::default(),
                speed,
                anchors: Vec::new(),
                waited: 0,
            }
        }

        fn now(&self) -> u64 {
            self.clock.now(self.units)
        }

        fn run_for(&mut self, duration: u64) {
            let end = self.host + duration;
            while self.host < end {
                let steps = self.slice.steps();
                let elapsed = steps * MILLISECOND / self.speed;
                self.host += elapsed;
                self.units += steps * 8;
                self.slice.took(steps, elapsed);
                self.pacer.executed(elapsed, steps * 8);
                let steering = self.pacer.steer(self.host, self.now());
                if let Some(rate) = steering.rate {
                    let now = self.now();
                    self.clock.anchor(self.units, now, rate);
                    assert_eq!(self.clock.rate, rate);
                    self.anchors.push(self.host);
                }
                self.host += steering.wait;
                self.waited += steering.wait;
            }
        }

        fn error(&self) -> i64 {
            self.now() as i64 - self.pacer.target(self.host) as i64
        }
    }

    #[test]
    fn virtual_time_follows_the_host() {
        for speed in [10_000, 60_000, 250_000, 1_000_000] {
            let mut world = World::new(speed);
            world.run_for(3000 * MILLISECOND);
            let error = world.error();
            assert!(error.unsigned_abs() < 3 * MILLISECOND, "{speed}: {error}");
            let steps = world.slice.steps();
            let slice = steps as f64 / speed as f64;
            assert!((1.0..2.1).contains(&slice) || steps == STEPS_MAX, "{slice}");
        }
    }

    #[test]
    fn anchors_are_few_and_fewer_when_all_is_well() {
        let mut world = World::new(80_000);
        world.run_for(1000 * MILLISECOND);
        assert!(world.anchors.len() <= 25, "{}", world.anchors.len());
        world.run_for(2000 * MILLISECOND);
        world.anchors.clear();
        world.run_for(5000 * MILLISECOND);
        assert!(world.anchors.len() < 20, "{:?}", world.anchors);
    }

    #[test]
    fn who_is_suddenly_fast_waits_and_slows_down() {
        let mut world = World::new(20_000);
        world.run_for(2000 * MILLISECOND);
        world.speed = 200_000;
        world.run_for(30 * MILLISECOND);
        assert!(world.error() < 15 * MILLISECOND as i64, "{}", world.error());
        world.run_for(1000 * MILLISECOND);
        assert!(world.error().unsigned_abs() < 3 * MILLISECOND);
        let per_second = world.anchors.len() / 3;
        assert!(per_second <= 50, "{per_second} anchors a second");
    }

    #[test]
    fn who_turns_to_computing_waits_little() {
        let mut world = World::new(250_000);
        // Requests, answers, halts: short runs of cold code.
        for _ in 0..10_000 {
            world.host += 200_000;
            world.units += 400 * 8;
            world.pacer.executed(20_000, 400 * 8);
            let (host, now) = (world.host, world.now());
            world.pacer.resync(host, now);
        }
        world.run_for(1000 * MILLISECOND);
        assert!(world.waited < 60 * MILLISECOND, "{}", world.waited);
        assert!(world.error().unsigned_abs() < 3 * MILLISECOND);
    }

    #[test]
    fn who_is_behind_catches_up_without_racing() {
        let mut world = World::new(100_000);
        world.run_for(2000 * MILLISECOND);
        // The host was frozen for a second.
        world.host += 1000 * MILLISECOND;
        let (host, now) = (world.host, world.now());
        world.run_for(1000 * MILLISECOND);
        let gained = (world.now() - now) as f64 / (world.host - host) as f64;
        assert!((1.05..1.12).contains(&gained), "{gained}");
        world.run_for(15_000 * MILLISECOND);
        assert!(world.error().unsigned_abs() < 3 * MILLISECOND);
    }

    #[test]
    fn who_is_far_behind_stays_there() {
        let mut world = World::new(100_000);
        world.run_for(1000 * MILLISECOND);
        world.host += 60_000 * MILLISECOND;
        let (host, now) = (world.host, world.now());
        world.run_for(1000 * MILLISECOND);
        let passed = (world.now() - now) as f64 / (world.host - host) as f64;
        assert!((0.95..1.05).contains(&passed), "{passed}");
        assert!(world.error().unsigned_abs() < 3 * MILLISECOND);
    }

    #[test]
    fn host_and_virtual_time_convert() {
        let pacer = Pacer::new(1_000, 5_000, RATE_INITIAL);
        assert_eq!(pacer.target(1_500), 5_500);
        assert_eq!(pacer.host_time(5_500), 1_500);
        // A machine older than this host.
        assert_eq!(pacer.host_time(10), 0);
        let mut pacer = pacer;
        pacer.resync(9_000, 5_000);
        assert_eq!(pacer.target(9_000), 5_000);
    }

    #[test]
    fn an_early_end_of_a_slice_says_nothing() {
        let mut slice = SliceLength::default();
        let steps = slice.steps();
        slice.took(10, 1_000);
        assert_eq!(slice.steps(), steps);
        slice.took(10, 10 * SLICE);
        assert_eq!(slice.steps(), steps / 2);
    }
}
