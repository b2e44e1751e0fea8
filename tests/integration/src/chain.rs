//! One guest that outlives host after host.
//!
//! Does: run `count` in a guest, give it a backup, let something happen at a random moment, see
//! that the guest goes on, give it a fresh backup, and so on. Does not: know what the processes do
//! inside.
//!
//! Invariant: after every turn the lines shown so far are those of an undisturbed run, in order,
//! with at most one contiguous repeat at each failover.

use std::cell::RefCell;
use std::fmt;
use std::time::{Duration, Instant};

use crate::console::Console;
use crate::count::{Count, last_line};
use crate::emulation::Conditions;
use crate::failure::{Failure, Outcome};
use crate::ft_info::FtInfo;
use crate::installation::Installation;
use crate::namespaces::{Ground, Place};
use crate::process::{Output, Vmm, free_port};
use crate::scratch::Scratch;
use crate::seed::Random;
use crate::stitch::{History, Piece};

/// For a guest to boot, on a busy host and with every check on.
pub const BOOT: Duration = Duration::from_secs(180);
/// For protection to begin, on a host that is busy with more than that.
pub const CLONE: Duration = Duration::from_secs(300);
/// For a loss to be noticed, decided and survived.
pub const FAILOVER: Duration = Duration::from_secs(30);
/// The latest moment, after protection began, at which something happens.
const LATEST: Duration = Duration::from_millis(1500);
/// A wire of a bad day.
const POOR: Conditions = Conditions {
    lost: 20,
    delay: Duration::from_millis(3),
    jitter: Duration::from_millis(10),
};
/// A wire that is as good as cut.
const BAD: Conditions = Conditions {
    lost: 900,
    delay: Duration::from_millis(20),
    jitter: Duration::from_millis(200),
};
/// More than a peer may be silent for.
const SEVERAL_TIMEOUTS: Duration = Duration::from_millis(2500);
/// A count that does not end before the test does.
const ENDLESS: u64 = 100_000_000;

/// What happens to a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGKILL of the primary: the backup goes live.
    KillPrimary,
    /// SIGKILL of the backup: the primary claims the flag and goes on.
    KillBackup,
    /// SIGSTOP of the primary until the backup is live, then SIGCONT: it lets out at most one
    /// call, and halts.
    FreezePrimary,
    /// SIGSTOP of the backup: the primary claims the flag and goes on. SIGCONT then: the backup has
    /// shown nothing, and halts.
    FreezeBackup,
    /// Nothing gets through between the two any more: one of them goes on.
    CutWire,
    /// The same, but for heartbeats.
    CutStream,
    /// Heartbeats get lost. The log and its acknowledgements show that both are there: nothing
    /// happens.
    CutHeartbeats,
    /// On an emulated wire frames are late, overtake each other, and one of fifty gets lost: nothing
    /// happens.
    PoorWire,
    /// On an emulated wire hardly anything arrives: one side goes on.
    BadWire,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Event::KillPrimary => "kill-primary",
            Event::KillBackup => "kill-backup",
            Event::FreezePrimary => "freeze-primary",
            Event::FreezeBackup => "freeze-backup",
            Event::CutWire => "cut-wire",
            Event::CutStream => "cut-stream",
            Event::CutHeartbeats => "cut-heartbeats",
            Event::PoorWire => "poor-wire",
            Event::BadWire => "bad-wire",
        })
    }
}

/// What a turn showed.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// What happened.
    pub event: Event,
    /// How long after the event nothing new came out.
    pub silence: Duration,
    /// How many bytes came out twice.
    pub repeated: usize,
    /// The last line that had been shown when the turn ended.
    pub line: u64,
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {:.3} s without output, {} bytes repeated, now at line {}",
            self.event,
            self.silence.as_secs_f64(),
            self.repeated,
            self.line
        )
    }
}

/// The guest, who runs it now, and what was shown before.
pub struct Chain<'a> {
    installation: &'a Installation,
    scratch: &'a Scratch,
    ground: Ground,
    random: Random,
    count: Count,
    /// Milliseconds of silence after which a peer is lost; the default if none.
    pub detection_timeout: Option<u64>,
    /// How many lines are in the bytes of an undisturbed run, and these.
    expected: RefCell<(u64, Vec<u8>)>,
    /// What earlier hosts showed, in order.
    earlier: Vec<Vec<u8>>,
    /// The process that runs the guest.
    pub primary: Vmm,
    /// The process that replays it.
    pub backup: Option<Vmm>,
    /// What fresh processes are told to fence with.
    pub fence: Option<String>,
    started: u32,
}

impl<'a> Chain<'a> {
    /// Boots the guest, unprotected, on the first of the `ground`'s places, and does not wait for anything.
    pub fn boot(
        installation: &'a Installation,
        scratch: &'a Scratch,
        ground: Ground,
        random: Random,
        count: Count,
    ) -> Outcome<Self> {
        let parameter = count.parameter(ENDLESS);
        Chain::start(
            installation,
            scratch,
            ground,
            random,
            (count, &parameter),
            &[],
        )
    }

    /// Like [`Chain::boot`], to a shell instead of `count`.
    pub fn boot_shell(
        installation: &'a Installation,
        scratch: &'a Scratch,
        ground: Ground,
        random: Random,
    ) -> Outcome<Self> {
        Chain::boot_devices(installation, scratch, ground, random, &[])
    }

    /// Like [`Chain::boot_shell`], with these options for devices.
    pub fn boot_devices(
        installation: &'a Installation,
        scratch: &'a Scratch,
        ground: Ground,
        random: Random,
        devices: &[&str],
    ) -> Outcome<Self> {
        Chain::boot_with(installation, scratch, ground, random, ("", devices))
    }

    /// Like [`Chain::boot_devices`], with these words on the kernel's command line.
    pub fn boot_with(
        installation: &'a Installation,
        scratch: &'a Scratch,
        ground: Ground,
        random: Random,
        (parameter, devices): (&str, &[&str]),
    ) -> Outcome<Self> {
        let count = Count {
            rounds: 0,
            pause_ms: 0,
            mib: 1,
        };
        let count = (count, parameter);
        Chain::start(installation, scratch, ground, random, count, devices)
    }

    fn start(
        installation: &'a Installation,
        scratch: &'a Scratch,
        ground: Ground,
        random: Random,
        (count, parameter): (Count, &str),
        devices: &[&str],
    ) -> Outcome<Self> {
        let options = installation.guest(parameter, devices);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let primary = Vmm::start_at(
            installation,
            scratch,
            "host-1",
            &ground.places()[0],
            Output::Datagrams,
            &options,
        )?;
        let mut chain = Chain {
            installation,
            scratch,
            ground,
            random,
            count,
            detection_timeout: None,
            expected: RefCell::default(),
            earlier: Vec::new(),
            primary,
            backup: None,
            fence: None,
            started: 1,
        };
        chain.primary.ready()?;
        Ok(chain)
    }

    /// Waits until the guest counts.
    pub fn counts(&self) -> Outcome<()> {
        self.primary.console.expect("# count", BOOT)?;
        self.primary.console.expect_lines(2, BOOT)
    }

    /// Starts a fresh process at the other place, makes it the backup, and waits until it is.
    pub fn protect(&mut self) -> Outcome<()> {
        self.offer()?;
        self.protected()
    }

    /// Starts a fresh process at the other place and lets protection begin.
    pub fn offer(&mut self) -> Outcome<()> {
        self.started += 1;
        let name = format!("host-{}", self.started);
        let [first, second] = self.ground.places();
        let place = if self.primary.place() == &first {
            second
        } else {
            first
        };
        let port = free_port(&place)?;
        let mut backup = Vmm::start_at(
            self.installation,
            self.scratch,
            &name,
            &place,
            Output::Datagrams,
            &[],
        )?;
        backup.ready()?;
        let (address, insecure) = address(&place, port);
        let options = ["ft-receive", "--listen", &address, "--insecure", insecure];
        let timeout = self.detection_timeout.map(|timeout| timeout.to_string());
        let mut arguments = [&options, &*timeout_options(timeout.as_deref())].concat();
        if let Some(fence) = &self.fence {
            arguments.extend(["--fence", fence]);
        }
        backup.remote(&arguments)?;
        self.enable(backup, port)
    }

    /// Makes `backup`, which receives on `port`, the backup, and waits until it is.
    pub fn protect_with(&mut self, backup: Vmm, port: u16) -> Outcome<()> {
        self.enable(backup, port)?;
        self.protected()
    }

    fn enable(&mut self, backup: Vmm, port: u16) -> Outcome<()> {
        let lease = format!("file:{}", self.scratch.join("flag").display());
        let (address, insecure) = address(backup.place(), port);
        let timeout = self.detection_timeout.map(|timeout| timeout.to_string());
        let options = [
            "ft-enable",
            "--peer",
            &address,
            "--lease",
            &lease,
            "--insecure",
            insecure,
        ];
        self.primary
            .remote(&[&options, &*timeout_options(timeout.as_deref())].concat())?;
        self.backup = Some(backup);
        Ok(())
    }

    fn protected(&mut self) -> Outcome<()> {
        self.primary
            .await_ft("protected", CLONE, |info| info.is_protected())?;
        if let Some(backup) = &self.backup {
            backup.await_ft("a backup that replays", CLONE, |info| info.is_replaying())?;
        }
        Ok(())
    }

    /// The backup is the primary from now on; gives the old one, to which something is to happen.
    pub fn promote(&mut self) -> Outcome<Vmm> {
        let backup = self.backup.take();
        let backup = backup.ok_or_else(|| Failure::new("there is no backup"))?;
        Ok(std::mem::replace(&mut self.primary, backup))
    }

    /// Kills the primary, and waits until its backup is live.
    pub fn fail_over(&mut self) -> Outcome<FtInfo> {
        self.promote()?.kill()?;
        self.primary
            .await_ft("live", FAILOVER, |info| info.is_unprotected())
    }

    /// Lets `event` happen to the protected guest at a random moment, and sees that the guest goes
    /// on as if nothing had happened.
    pub fn turn(&mut self, event: Event) -> Outcome<Turn> {
        let moment = self.random.time_below(LATEST);
        std::thread::sleep(moment);
        let (silence, repeated) = match event {
            Event::KillPrimary => self.kill_primary(),
            Event::KillBackup => self.kill_backup(),
            Event::FreezePrimary => self.freeze_primary(),
            Event::FreezeBackup => self.freeze_backup(),
            Event::CutWire => self.cut_wire(),
            Event::CutStream => self.cut_stream(),
            Event::CutHeartbeats => self.cut_heartbeats(),
            Event::PoorWire => self.poor_wire(),
            Event::BadWire => self.bad_wire(),
        }
        .map_err(|failure| {
            failure.during(format_args!(
                "{event}, {:.6} s after protection began (seed {})",
                moment.as_secs_f64(),
                self.random.seed()
            ))
        })?;
        Ok(Turn {
            event,
            silence,
            repeated,
            line: last_line(&self.primary.console.bytes()),
        })
    }

    fn kill_primary(&mut self) -> Outcome<(Duration, usize)> {
        let at = Instant::now();
        let shown = self.primary.kill()?;
        self.succeed(at, shown)
    }

    /// The backup becomes the primary; `shown` is all that the old one showed.
    fn succeed(&mut self, at: Instant, shown: Vec<u8>) -> Outcome<(Duration, usize)> {
        self.earlier.push(shown);
        self.promote()?;
        self.primary
            .await_ft("live", FAILOVER, |info| info.is_unprotected())?;
        self.primary.console.expect_lines(3, FAILOVER)?;
        let (before, piece) = self.verify()?;
        let new = piece.before + before.shown().saturating_sub(piece.from);
        let silence = silence_after(&self.primary.console, at, new);
        Ok((silence, piece.repeated))
    }

    fn kill_backup(&mut self) -> Outcome<(Duration, usize)> {
        let at = Instant::now();
        let backup = self.backup.take();
        let mut backup = backup.ok_or_else(|| Failure::new("there is no backup"))?;
        silent(&backup.kill()?)?;
        self.go_on(at)
    }

    fn freeze_backup(&mut self) -> Outcome<(Duration, usize)> {
        let at = Instant::now();
        let backup = self.backup.take();
        let mut backup = backup.ok_or_else(|| Failure::new("there is no backup"))?;
        backup.freeze()?;
        let turn = self.go_on(at)?;
        backup.thaw()?;
        halts(&mut backup)?;
        silent(&backup.kill()?)?;
        Ok(turn)
    }

    /// The primary has lost its backup, and goes on without it.
    fn go_on(&mut self, at: Instant) -> Outcome<(Duration, usize)> {
        self.primary
            .await_ft("unprotected", FAILOVER, |info| info.is_unprotected())?;
        self.primary.console.expect_lines(3, FAILOVER)?;
        self.verify()?;
        Ok((longest_silence(&self.primary.console, at), 0))
    }

    fn freeze_primary(&mut self) -> Outcome<(Duration, usize)> {
        self.primary.freeze()?;
        let at = Instant::now();
        let backup = self.backup.as_ref();
        let backup = backup.ok_or_else(|| Failure::new("there is no backup"))?;
        backup.await_ft("live", FAILOVER, |info| info.is_unprotected())?;
        backup.console.expect_lines(3, FAILOVER)?;

        let frozen = self.primary.console.bytes();
        let calls = self.primary.console.arrivals().len();
        self.primary.thaw()?;
        let end = halts(&mut self.primary)?;
        // Whatever it could still let out, it lets out now.
        std::thread::sleep(Duration::from_millis(500));
        let late_calls = self.primary.console.arrivals().len() - calls;
        let shown = self.primary.kill()?;
        if late_calls > 1 {
            return Err(Failure::new(format!(
                "the thawed primary made {late_calls} calls before {end}: {:?}",
                String::from_utf8_lossy(&shown[frozen.len()..])
            )));
        }
        // The late call shows what the backup shows too; the history is judged with it and
        // without it, since a client could see either order.
        let mut with_late = self.history()?;
        with_late.add(&shown)?;
        self.succeed(at, frozen)
    }

    /// Sees that one side, and only one, goes on, and makes it the primary.
    fn cut_wire(&mut self) -> Outcome<(Duration, usize)> {
        let at = Instant::now();
        self.ground.wire()?.cut()?;
        let result = self.survive_cut(at);
        self.ground.wire()?.mend()?;
        result
    }

    fn cut_stream(&mut self) -> Outcome<(Duration, usize)> {
        let at = Instant::now();
        self.ground.wire()?.cut_protocol("tcp")?;
        let result = self.survive_cut(at);
        self.ground.wire()?.mend_protocol()?;
        result
    }

    fn cut_heartbeats(&mut self) -> Outcome<(Duration, usize)> {
        let at = Instant::now();
        self.ground.wire()?.cut_protocol("udp")?;
        std::thread::sleep(SEVERAL_TIMEOUTS);
        self.ground.wire()?.mend_protocol()?;
        self.protected()?;
        self.primary.console.expect_lines(3, FAILOVER)?;
        self.verify()?;
        Ok((longest_silence(&self.primary.console, at), 0))
    }

    fn poor_wire(&mut self) -> Outcome<(Duration, usize)> {
        let at = Instant::now();
        self.ground.wire()?.set_conditions(POOR)?;
        std::thread::sleep(2 * SEVERAL_TIMEOUTS);
        self.protected()?;
        self.ground.wire()?.set_conditions(Conditions::default())?;
        self.primary.console.expect_lines(3, FAILOVER)?;
        self.verify()?;
        Ok((longest_silence(&self.primary.console, at), 0))
    }

    fn bad_wire(&mut self) -> Outcome<(Duration, usize)> {
        let at = Instant::now();
        self.ground.wire()?.set_conditions(BAD)?;
        let result = self.survive_cut(at);
        self.ground.wire()?.set_conditions(Conditions::default())?;
        result
    }

    fn survive_cut(&mut self, at: Instant) -> Outcome<(Duration, usize)> {
        let lives = |vmm: &Vmm| vmm.ft_info().is_ok_and(|info| info.is_unprotected());
        let lost = |vmm: &mut Vmm| -> Outcome<bool> {
            Ok(vmm.has_ended()?.is_some() || vmm.ft_info().is_ok_and(|info| info.is_halted()))
        };
        let backup = self.backup.as_mut();
        let backup = backup.ok_or_else(|| Failure::new("there is no backup"))?;
        while at.elapsed() < FAILOVER {
            if lives(backup) && lost(&mut self.primary)? {
                let shown = self.primary.kill()?;
                return self.succeed(at, shown);
            }
            if lives(&self.primary) && lost(backup)? {
                silent(&backup.kill()?)?;
                self.backup = None;
                return self.go_on(at);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(Failure::new(format!(
            "no side won: {:?} and {:?}",
            self.primary.ft_info(),
            backup.ft_info()
        )))
    }

    /// The bytes of an undisturbed run, and some more than could have been shown, laid over what
    /// earlier hosts showed.
    fn history(&self) -> Outcome<History> {
        let consoles = [&self.primary].into_iter().chain(&self.backup);
        let last = consoles
            .map(|vmm| last_line(&vmm.console.bytes()))
            .chain(self.earlier.iter().map(|shown| last_line(shown)))
            .max();
        let needed = last.unwrap_or(0) + 64;
        let mut expected = self.expected.borrow_mut();
        if expected.0 < needed {
            let lines = needed * 2;
            *expected = (
                lines,
                self.count
                    .expected(&self.installation.count, lines, false)?,
            );
        }
        let mut history = History::new(expected.1.clone(), false);
        for (index, shown) in self.earlier.iter().enumerate() {
            history
                .add(shown)
                .map_err(|failure| failure.during(format_args!("host {}", index + 1)))?;
        }
        Ok(history)
    }

    /// Judges everything that was shown so far; gives what was shown before the current primary
    /// and the current primary's piece.
    pub fn verify(&self) -> Outcome<(History, Piece)> {
        let shown = self.primary.console.bytes();
        let before = self.history()?;
        let piece = before
            .clone()
            .add(&shown)
            .map_err(|failure| failure.during(self.primary.name()))?;
        Ok((before, piece))
    }
}

fn timeout_options(timeout: Option<&str>) -> Vec<&str> {
    timeout.map_or(Vec::new(), |timeout| vec!["--detection-timeout", timeout])
}

/// How `ft-receive` and `ft-enable` name an address, and what else they want for it.
fn address(place: &Place, port: u16) -> (String, &'static str) {
    let insecure = if place.is_loopback() { "off" } else { "on" };
    (format!("tcp:{}:{port}", place.address), insecure)
}

/// Waits until a thawed process has ended or halted; which of the two.
pub fn halts(vmm: &mut Vmm) -> Outcome<String> {
    let deadline = Instant::now() + FAILOVER;
    loop {
        if let Some(status) = vmm.has_ended()? {
            return Ok(format!("it ended with {status}"));
        }
        match vmm.ft_info() {
            Ok(info) if info.is_halted() => return Ok("it is halted".to_owned()),
            answer if Instant::now() > deadline => {
                let name = vmm.name();
                let text = format!("{name}, thawed, goes on: {answer:?}");
                return Err(Failure::new(text));
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What a backup showed, which must be nothing.
fn silent(shown: &[u8]) -> Outcome<()> {
    if shown.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the backup showed something: {:?}",
        String::from_utf8_lossy(shown)
    )))
}

/// The time from `at` to the arrival of the byte at `offset`.
fn silence_after(console: &Console, at: Instant, offset: usize) -> Duration {
    let arrivals = console.arrivals();
    let new = arrivals.iter().find(|arrival| arrival.end > offset);
    new.map_or(at.elapsed(), |arrival| arrival.at.duration_since(at))
}

/// The longest time without an arrival, from `at` on.
fn longest_silence(console: &Console, at: Instant) -> Duration {
    let mut last = at;
    let mut longest = Duration::ZERO;
    for arrival in console.arrivals().iter().filter(|arrival| arrival.at > at) {
        longest = longest.max(arrival.at.duration_since(last));
        last = arrival.at;
    }
    longest
}
