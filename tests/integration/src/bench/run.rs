//! One run of one engine, and what the guest's marker lines say of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ft::log::{FileError, FileItem, FileReader};

use crate::failure::{Failure, Outcome, While};

/// Nothing that a guest prints is further from the last line than this.
const PATIENCE: Duration = Duration::from_secs(900);
/// How much of a log is looked at at once.
const PIECE: usize = 64 << 10;
/// How much of a console a failure shows, in lines.
const SHOWN_LINES: usize = 20;

/// What something cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Time that went by, in seconds.
    pub wall: f64,
    /// Processor time of the whole process, in seconds.
    pub cpu: f64,
    /// Bytes that the log grew by.
    pub log: u64,
}

/// What a run brought.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// From the start of the process to its end. The log's bytes do not count what it begins
    /// with: the machine as it was created.
    pub whole: Cost,
    /// What each workload cost, each time that it was done.
    pub workloads: BTreeMap<String, Vec<Cost>>,
    /// The workloads in the order in which they first began.
    pub order: Vec<String>,
    /// The checksum of each workload, which was the same each time.
    pub checksums: BTreeMap<String, String>,
}

/// A line of the console, with the moment of its arrival.
struct Line {
    text: String,
    at: Moment,
}

#[derive(Clone, Copy)]
struct Moment {
    wall: Instant,
    cpu: f64,
    log: u64,
}

impl Moment {
    fn since(&self, before: &Moment) -> Cost {
        Cost {
            wall: (self.wall - before.wall).as_secs_f64(),
            cpu: self.cpu - before.cpu,
            log: self.log - before.log,
        }
    }
}

/// Runs `command` to its end. `log` is the file that it records to. A status other than success,
/// an end without the guest's last line, or a checksum that differs is a failure.
pub fn run(mut command: Command, log: Option<&Path>, last_line: &str) -> Outcome<Measured> {
    if let Some(log) = log {
        // What an earlier run left would be taken for this one's.
        std::fs::write(log, []).during(log.display())?;
    }
    let what = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let before = children_processor_time()?;
    let began = Instant::now();
    let mut child = Guard(command.spawn().during(&what)?);
    let result = watch(&mut child.0, log, last_line);
    if result.is_err() {
        // It is known what is wrong; that it may have ended already is not.
        let _ = child.0.kill();
    }
    let status = child.0.wait()?;
    let wall = began.elapsed().as_secs_f64();
    let mut measured = result.during(&what)?;
    success(status).during(&what)?;
    measured.whole = Cost {
        wall,
        cpu: children_processor_time()? - before,
        log: log.map_or(Ok(0), recorded_bytes)?,
    };
    Ok(measured)
}

/// Kills on drop, so that nothing stays behind.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

fn success(status: ExitStatus) -> Outcome<()> {
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("it ended with {status}")))
}

/// Reads the console to its end.
fn watch(child: &mut Child, log: Option<&Path>, last_line: &str) -> Outcome<Measured> {
    let clock = ProcessorClock::of(child.id())?;
    let stdout = child.stdout.take().expect("it was piped");
    let (sender, lines) = mpsc::channel();
    let path = log.map(Path::to_owned);
    thread::spawn(move || {
        for text in BufReader::new(stdout).split(b'\n') {
            let Ok(text) = text else { break };
            let at = Moment {
                wall: Instant::now(),
                cpu: clock.now(),
                log: size_of(path.as_deref()),
            };
            let text = String::from_utf8_lossy(&text).trim_end().to_owned();
            if sender.send(Line { text, at }).is_err() {
                break;
            }
        }
    });

    let mut markers = Markers::default();
    let mut shown = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                markers.take(&line)?;
                shown.push(line.text);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(tail(&shown).during("nothing more came, after"));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    if !shown.iter().any(|line| line.contains(last_line)) {
        return Err(tail(&shown).during(format_args!("it ended without {last_line:?}, after")));
    }
    Ok(markers.measured)
}

fn tail(shown: &[String]) -> Failure {
    let from = shown.len().saturating_sub(SHOWN_LINES);
    Failure::new(shown[from..].join("\n"))
}

/// The bytes of a recording behind the machine that it begins with. Another program's has none of
/// that.
fn recorded_bytes(path: &Path) -> Outcome<u64> {
    let file = std::fs::read(path).during(path.display())?;
    let mut reader = FileReader::new();
    // In pieces, of which the one that ends the beginning is looked at byte by byte.
    let mut before = FileReader::new();
    for (index, piece) in file.chunks(PIECE).enumerate() {
        reader.feed(piece);
        let Ok(is_behind) = ends_the_beginning(&mut reader) else {
            break;
        };
        if is_behind {
            let start = index * PIECE;
            for piece in file[..start].chunks(PIECE) {
                before.feed(piece);
                ends_the_beginning(&mut before).during(path.display())?;
            }
            for (offset, byte) in piece.iter().enumerate() {
                before.feed(&[*byte]);
                if ends_the_beginning(&mut before).during(path.display())? {
                    return Ok((file.len() - start - offset - 1) as u64);
                }
            }
        }
    }
    Ok(file.len() as u64)
}

/// Takes what has been fed; whether the end of the machine was among it.
fn ends_the_beginning(reader: &mut FileReader) -> Result<bool, FileError> {
    while let Some(item) = reader.next_item()? {
        if let FileItem::CloneEnd(_) = item {
            return Ok(true);
        }
    }
    Ok(false)
}

fn size_of(path: Option<&Path>) -> u64 {
    let metadata = path.and_then(|path| std::fs::metadata(path).ok());
    metadata.map_or(0, |metadata| metadata.len())
}

/// Makes costs of `@ begin NAME`, `@ end NAME` and `@ is NAME STATUS CHECKSUM`.
#[derive(Default)]
struct Markers {
    began: Option<(String, Moment)>,
    measured: Measured,
}

impl Markers {
    fn take(&mut self, line: &Line) -> Outcome<()> {
        let words: Vec<&str> = line.text.split(' ').collect();
        match words.as_slice() {
            ["@", "begin", name] => {
                if !self.measured.order.iter().any(|known| known == name) {
                    self.measured.order.push((*name).to_owned());
                }
                self.began = Some(((*name).to_owned(), line.at));
            }
            ["@", "end", name] => {
                let Some((began, at)) = self.began.take().filter(|(began, _)| began == name) else {
                    return Err(Failure::new(format!("{name} ended and had not begun")));
                };
                let costs = self.measured.workloads.entry(began).or_default();
                costs.push(line.at.since(&at));
            }
            ["@", "is", name, "0", checksum] => {
                let sums = &mut self.measured.checksums;
                let first = sums.entry((*name).to_owned());
                let first = first.or_insert_with(|| (*checksum).to_owned());
                if first != checksum {
                    return Err(Failure::new(format!(
                        "{name} gave {first} the first time and {checksum} now"
                    )));
                }
            }
            ["@", "is", ..] => return Err(Failure::new(format!("it failed: {}", line.text))),
            _ => {}
        }
        Ok(())
    }
}

/// The clock of all that a process, with all its threads, has computed.
#[derive(Clone, Copy)]
struct ProcessorClock(libc::clockid_t);

impl ProcessorClock {
    fn of(process: u32) -> Outcome<Self> {
        let pid = libc::pid_t::try_from(process).during("a process id")?;
        let mut clock = 0;
        // SAFETY: `clock` is writable and of the right type for the time of the call.
        #[allow(unsafe_code)]
        let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
        if error == 0 {
            Ok(ProcessorClock(clock))
        } else {
            Err(std::io::Error::from_raw_os_error(error)).during("the process's clock")
        }
    }

    /// Seconds; what was last known is lost when the process has been waited for.
    fn now(self) -> f64 {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is writable and of the right type for the time of the call.
        #[allow(unsafe_code)]
        let status = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        if status == 0 {
            time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
        } else {
            0.0
        }
    }
}

/// Processor time of all children that were waited for, in seconds.
fn children_processor_time() -> Outcome<f64> {
    // SAFETY: an all-zero `rusage` is a valid value: it has only integers.
    #[allow(unsafe_code)]
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable and of the right type for the time of the call.
    #[allow(unsafe_code)]
    let status = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    if status != 0 {
        return Err(std::io::Error::last_os_error()).during("the children's processor time");
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn markers_become_costs() {
        let script = "for i in 1 2 3; do echo @ begin nap; sleep 0.1; echo @ end nap; \
             echo @ is nap 0 abc; done; echo @ done";
        let measured = run(guest(script), None, "@ done").expect("it runs well");
        let naps = &measured.workloads["nap"];
        assert_eq!(naps.len(), 3);
        assert!(naps.iter().all(|nap| nap.wall >= 0.1));
        assert_eq!(measured.checksums["nap"], "abc");
        assert!(measured.whole.wall >= 0.3);
    }

    #[test]
    fn what_is_wrong_fails() {
        for (script, what) in [
            (
                "echo @ is a 0 x; echo @ is a 0 y; echo @ done",
                "x the first",
            ),
            ("echo @ is a 1 x; echo @ done", "it failed"),
            ("echo @ end a; echo @ done", "had not begun"),
            ("echo hello", "ended without"),
            ("echo @ done; exit 3", "exit status: 3"),
        ] {
            let failure = run(guest(script), None, "@ done").expect_err(script);
            assert!(failure.to_string().contains(what), "{script}: {failure}");
        }
    }
}
