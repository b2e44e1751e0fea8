//! Fencing: making sure that a side that was taken for dead no longer writes to shared disks.
//!
//! Does: count the disks for which that is not known yet, tell for how long, and run a command where
//! their locks do not show it. Does not: know which requests must wait for it (`host::disk` does).
//!
//! Invariant: a disk counts as fenced only when its own lock, in which the old side's was seen, was
//! taken here, or when the command has succeeded. A command that fails is run again.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::bell::Bell;

/// How long the locks have to show by themselves that the old side is gone.
const GRACE: Duration = Duration::from_millis(200);
/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a running command is looked at.
const POLL: Duration = Duration::from_millis(10);

/// What is known of the old side.
#[derive(Debug, Default)]
pub struct Fence {
    /// Disks of which it is not known.
    unfenced: AtomicUsize,
    /// The command has succeeded.
    done: AtomicBool,
    /// When the first of them began to wait.
    began: OnceLock<Instant>,
    /// Of those who wait for it.
    waiting: Mutex<Vec<Arc<Bell>>>,
}

impl Fence {
    /// Whether the old side writes no more, whatever the locks say.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    /// Whether nothing has to be waited for.
    pub fn is_complete(&self) -> bool {
        self.is_done() || self.unfenced.load(Ordering::SeqCst) == 0
    }

    /// How many disks wait, and since when; `None` before the locks had their time to show that
    /// nothing has to be waited for.
    pub fn wait(&self) -> Option<(usize, Duration)> {
        let waited = self.began.get()?.elapsed();
        let is_long = waited >= GRACE && !self.is_complete();
        is_long.then(|| (self.unfenced.load(Ordering::SeqCst), waited))
    }

    /// A disk begins to wait; `bell` wakes it.
    pub fn wait_for(&self, bell: Arc<Bell>) {
        self.began.get_or_init(Instant::now);
        self.unfenced.fetch_add(1, Ordering::SeqCst);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(bell);
    }

    /// A disk waits no more.
    pub fn one_is_fenced(&self) {
        self.unfenced.fetch_sub(1, Ordering::SeqCst);
    }

    fn succeed(&self) {
        self.done.store(true, Ordering::SeqCst);
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().for_each(|bell| bell.ring());
    }
}

/// Runs the command until it succeeds, on a thread of its own.
#[derive(Debug)]
pub struct FenceThread {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl FenceThread {
    /// Runs `command` in a shell, with these additional variables, unless the locks alone complete
    /// `fence`.
    pub fn start(
        fence: Arc<Fence>,
        command: String,
        variables: Vec<(&'static str, String)>,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stop_too = Arc::clone(&stop);
        let run = move || run(&fence, &command, &variables, &stop_too);
        let thread = thread::Builder::new().name("fence".to_owned()).spawn(run)?;
        let thread = Some(thread);
        Ok(FenceThread { stop, thread })
    }
}

impl Drop for FenceThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It panics only if the logger did.
            let _ = thread.join();
        }
    }
}

fn run(fence: &Fence, command: &str, variables: &[(&str, String)], stop: &AtomicBool) {
    let wait = |for_how_long: Duration| {
        let until = Instant::now() + for_how_long;
        while Instant::now() < until && !stop.load(Ordering::SeqCst) && !fence.is_complete() {
            thread::sleep(POLL);
        }
        stop.load(Ordering::SeqCst) || fence.is_complete()
    };
    if wait(GRACE) {
        return;
    }
    loop {
        log::warn!("the old side may still write: running the fence command");
        match attempt(command, variables, stop) {
            Ok(status) if status.success() => {
                log::warn!("the old side is fenced");
                fence.succeed();
                return;
            }
            Ok(status) => log::error!("the fence command has failed: {status}"),
            Err(error) => log::error!("the fence command has failed: {error}"),
        }
        if wait(PAUSE) {
            return;
        }
    }
}

fn attempt(
    command: &str,
    variables: &[(&str, String)],
    stop: &AtomicBool,
) -> io::Result<ExitStatus> {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::null());
    // Standard output may be the guest's console.
    shell.stdout(Stdio::null()).process_group(0);
    for (name, value) in variables {
        shell.env(name, value);
    }
    let mut child = shell.spawn()?;
    let until = Instant::now() + COMMAND_TIMEOUT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if stop.load(Ordering::SeqCst) || Instant::now() >= until {
            end(&mut child);
            let text = format!("it took more than {} s", COMMAND_TIMEOUT.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        thread::sleep(POLL);
    }
}

/// The shell and what it started.
#[allow(unsafe_code)]
fn end(child: &mut Child) {
    if let Ok(group) = libc::pid_t::try_from(child.id()) {
        // SAFETY: kill(2) takes no memory. The child leads a group of its own and was not waited
        // for, so the id is not somebody else's.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    // It was killed; there is nothing else to do about it.
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    fn until(what: impl Fn() -> bool) {
        let began = Instant::now();
        while !what() {
            assert!(began.elapsed() < Duration::from_secs(30));
            thread::sleep(POLL);
        }
    }

    #[test]
    fn a_command_is_run_until_it_succeeds() {
        let directory = TempDir::new().unwrap();
        let marks = directory.as_path().join("marks");
        let fence = Arc::new(Fence::default());
        let bell = Arc::new(Bell::default());
        fence.wait_for(Arc::clone(&bell));
        assert!(!fence.is_complete());
        until(|| fence.wait().is_some_and(|(disks, _)| disks == 1));
        let command = r#"echo "$VM" >> "$MARKS"; [ "$(wc -l < "$MARKS")" -ge 2 ]"#;
        let variables = vec![
            ("VM", "id".to_owned()),
            ("MARKS", marks.display().to_string()),
        ];
        let thread = FenceThread::start(Arc::clone(&fence), command.to_owned(), variables);
        until(|| fence.is_done());
        assert_eq!(fence.wait(), None);
        bell.wait(Duration::from_secs(1000));
        assert_eq!(std::fs::read_to_string(&marks).unwrap(), "id\nid\n");
        drop(thread.unwrap());
    }

    #[test]
    fn locks_spare_the_command() {
        let fence = Arc::new(Fence::default());
        fence.wait_for(Arc::default());
        let thread = FenceThread::start(Arc::clone(&fence), "exit 0".to_owned(), Vec::new());
        fence.one_is_fenced();
        assert!(fence.is_complete());
        thread::sleep(2 * GRACE);
        assert!(!fence.is_done());
        // A command that hangs does not keep the process.
        let hanging = Arc::new(Fence::default());
        hanging.wait_for(Arc::default());
        let hangs = FenceThread::start(hanging, "sleep 1000".to_owned(), Vec::new()).unwrap();
        thread::sleep(2 * GRACE);
        drop(hangs);
        drop(thread.unwrap());
    }
}
