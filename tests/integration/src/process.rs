//! A `cloud-hypervisor` process, seen from outside.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::console::Console;
use crate::failure::{Failure, Outcome, While};
use crate::ft_info::FtInfo;
use crate::installation::Installation;
use crate::namespaces::Place;
use crate::scratch::Scratch;

/// How long a process may take to open its API socket, or to answer on it.
const API_PATIENCE: Duration = Duration::from_secs(10);
/// How often something is asked that cannot be waited for.
const POLL: Duration = Duration::from_millis(20);

/// What a process's standard output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A pipe.
    Pipe,
    /// A datagram socket, to count the calls that write to it.
    Datagrams,
}

/// A running `cloud-hypervisor`, killed on drop.
pub struct Vmm {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    remote: PathBuf,
    socket: PathBuf,
    place: Place,
    /// Its standard output.
    pub console: Console,
    /// Its standard error.
    pub errors: Console,
}

/// Where the event monitor of a process with this API socket writes.
fn events(socket: &Path) -> PathBuf {
    socket.with_extension("events")
}

impl Vmm {
    /// Starts one on this host, with an API socket and `arguments`.
    pub fn start(
        installation: &Installation,
        scratch: &Scratch,
        name: &str,
        arguments: &[&str],
    ) -> Outcome<Self> {
        let place = Place::loopback();
        Vmm::start_at(installation, scratch, name, &place, Output::Pipe, arguments)
    }

    /// Starts one on this host that boots the test guest, with `more` than its usual options
    /// ([`Installation::guest`]).
    pub fn boot(
        installation: &Installation,
        scratch: &Scratch,
        name: &str,
        more: &[&str],
    ) -> Outcome<Self> {
        let options = installation.guest("", more);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Vmm::start(installation, scratch, name, &options)
    }

    /// Starts one at `place`.
    pub fn start_at(
        installation: &Installation,
        scratch: &Scratch,
        name: &str,
        place: &Place,
        output: Output,
        arguments: &[&str],
    ) -> Outcome<Self> {
        let socket = scratch.join(format!("{name}.sock"));
        let mut command = place.command(&installation.vmm);
        let events = format!("path={}", events(&socket).display());
        command.arg("--api-socket").arg(&socket).args(arguments);
        command.arg("--event-monitor").arg(events);
        Vmm::spawn(installation, name, place, output, socket, command)
    }

    /// Starts one that nobody can ask anything.
    pub fn start_without_api(
        installation: &Installation,
        name: &str,
        arguments: &[&str],
    ) -> Outcome<Self> {
        let place = Place::loopback();
        let mut command = place.command(&installation.vmm);
        command.args(arguments);
        let socket = PathBuf::from("/dev/null");
        Vmm::spawn(installation, name, &place, Output::Pipe, socket, command)
    }

    fn spawn(
        installation: &Installation,
        name: &str,
        place: &Place,
        output: Output,
        socket: PathBuf,
        mut command: Command,
    ) -> Outcome<Self> {
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let datagrams = match output {
            Output::Pipe => {
                command.stdout(Stdio::piped());
                None
            }
            Output::Datagrams => {
                let (ours, theirs) = UnixDatagram::pair()?;
                command.stdout(OwnedFd::from(theirs));
                Some(ours)
            }
        };
        let mut child = command
            .spawn()
            .during(format_args!("starting {}", installation.vmm.display()))?;
        // Closes our copy of the datagram socket's other end.
        drop(command);
        let errors = Console::of_pipe(
            &format!("{name}'s standard error"),
            child.stderr.take().expect("it was piped"),
        );
        let console = match datagrams {
            Some(socket) => Console::of_datagrams(name, socket)?,
            None => Console::of_pipe(name, child.stdout.take().expect("it was piped")),
        };
        Ok(Vmm {
            name: name.to_owned(),
            stdin: child.stdin.take(),
            child,
            remote: installation.remote.clone(),
            socket,
            place: place.clone(),
            console,
            errors,
        })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types a line into its standard input.
    pub fn type_line(&mut self, line: &str) -> Outcome<()> {
        let stdin = self.stdin.as_mut();
        let stdin = stdin.ok_or_else(|| Failure::new("its standard input is closed"))?;
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .during(format_args!("typing {line:?} into {}", self.name))
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until it answers on its API socket.
    pub fn ready(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + API_PATIENCE;
        loop {
            let error = match self.remote(&["ping"]) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = self.child.try_wait()? {
                return Err(Failure::new(format!(
                    "{} ended with {status} before it answered: {}",
                    self.name,
                    self.errors.text()
                )));
            }
            if Instant::now() > deadline {
                return Err(error.during(format_args!("{} does not answer", self.name)));
            }
            thread::sleep(POLL);
        }
    }

    /// Runs `ch-remote` with `arguments` for this process; gives what it prints.
    pub fn remote(&self, arguments: &[&str]) -> Outcome<String> {
        let what = format!("{}: ch-remote {}", self.name, arguments.join(" "));
        let output = Command::new(&self.remote)
            .arg("--api-socket")
            .arg(&self.socket)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .during(&what)?;
        if output.status.success() {
            return String::from_utf8(output.stdout).during(&what);
        }
        Err(Failure::new(format!(
            "{what}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )))
    }

    /// Where its event monitor writes.
    pub fn events(&self) -> PathBuf {
        events(&self.socket)
    }

    /// What it says of its protection.
    pub fn ft_info(&self) -> Outcome<FtInfo> {
        FtInfo::parse(&self.remote(&["ft-info"])?)
    }

    /// Waits until `holds` is true of what it says of its protection.
    pub fn await_ft(
        &self,
        what: &str,
        patience: Duration,
        holds: impl Fn(&FtInfo) -> bool,
    ) -> Outcome<FtInfo> {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.ft_info();
            if let Ok(info) = &answer
                && holds(info)
            {
                return answer;
            }
            if Instant::now() > deadline {
                let last = match answer {
                    Ok(info) => format!("it says {info}"),
                    Err(error) => error.to_string(),
                };
                return Err(Failure::new(format!(
                    "{} was to become {what} within {} s, but {last}; its standard error: {}",
                    self.name,
                    patience.as_secs_f32(),
                    self.errors.text()
                )));
            }
            thread::sleep(POLL);
        }
    }

    /// Stops it where it is (SIGSTOP), and waits until all its threads have stopped.
    pub fn freeze(&self) -> Outcome<()> {
        self.signal(libc::SIGSTOP)?;
        let deadline = Instant::now() + API_PATIENCE;
        while !self.is_stopped()? {
            if Instant::now() > deadline {
                return Err(Failure::new(format!("{} does not stop", self.name)));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) -> Outcome<()> {
        self.signal(libc::SIGCONT)
    }

    /// Kills it (SIGKILL) and gives everything that it had written.
    pub fn kill(&mut self) -> Outcome<Vec<u8>> {
        self.child.kill()?;
        self.child.wait()?;
        self.console.writer_is_gone();
        self.console.to_end(API_PATIENCE)
    }

    /// Waits for it to end by itself.
    pub fn ended(&mut self, patience: Duration) -> Outcome<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.console.writer_is_gone();
                self.console.to_end(API_PATIENCE)?;
                self.errors.to_end(API_PATIENCE)?;
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "{} was to end within {} s and runs; its console ends:\n{}",
                    self.name,
                    patience.as_secs_f32(),
                    tail(&self.console.text())
                )));
            }
            thread::sleep(POLL);
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> Outcome<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Its resident memory in bytes, without mappings of `guest_bytes` and more.
    pub fn resident_beside(&self, guest_bytes: u64) -> Outcome<u64> {
        let path = format!("/proc/{}/smaps", self.pid());
        let text = std::fs::read_to_string(&path).during(&path)?;
        let kib = |line: &str, name: &str| -> Option<u64> {
            let value = line.strip_prefix(name)?.trim().strip_suffix(" kB")?;
            value.parse().ok()
        };
        let (mut size, mut resident) = (0, 0);
        for line in text.lines() {
            if let Some(value) = kib(line, "Size:") {
                size = value << 10;
            }
            if let Some(value) = kib(line, "Rss:")
                && size < guest_bytes
            {
                resident += value << 10;
            }
        }
        Ok(resident)
    }

    /// The processor time that it has used.
    pub fn processor_time(&self) -> Outcome<Duration> {
        let path = format!("/proc/{}/stat", self.pid());
        let text = std::fs::read_to_string(&path).during(&path)?;
        // After the name, which is in parentheses: state is field 0, utime 11, stime 12.
        let fields = text.rsplit(") ").next().unwrap_or_default();
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks = |index: usize| {
            let field = fields
                .get(index)
                .and_then(|field| field.parse::<u64>().ok());
            field.ok_or_else(|| Failure::new(format!("{path} is not as expected: {text}")))
        };
        // A hundred ticks a second, whatever the kernel's own rate.
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
    }

    /// How long its vCPU thread has run, and how long it could have run and had no processor.
    pub fn vcpu_times(&self) -> Outcome<(Duration, Duration)> {
        let tasks = format!("/proc/{}/task", self.pid());
        for task in std::fs::read_dir(&tasks).during(&tasks)? {
            let path = task?.path();
            let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
            if read("comm").trim() != "vcpu0" {
                continue;
            }
            let text = read("schedstat");
            let mut times = text
                .split(' ')
                .map(|word| word.parse().map(Duration::from_nanos));
            if let (Some(Ok(ran)), Some(Ok(waited))) = (times.next(), times.next()) {
                return Ok((ran, waited));
            }
        }
        Err(Failure::new(format!("{} has no vCPU thread", self.name)))
    }

    fn is_stopped(&self) -> Outcome<bool> {
        let tasks = format!("/proc/{}/task", self.pid());
        for task in std::fs::read_dir(&tasks).during(&tasks)? {
            let path = task?.path().join("stat");
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            if !text
                .rsplit(") ")
                .next()
                .unwrap_or_default()
                .starts_with('T')
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn signal(&self, signal: libc::c_int) -> Outcome<()> {
        let pid = libc::pid_t::try_from(self.child.id()).during("a process id")?;
        // SAFETY: kill(2) takes no memory. The process is our child and was not waited for, so
        // the id is not somebody else's.
        #[allow(unsafe_code)]
        let status = unsafe { libc::kill(pid, signal) };
        if status == 0 {
            return Ok(());
        }
        Err(std::io::Error::last_os_error())
            .during(format_args!("signal {signal} to {}", self.name))
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may end between the two calls.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.console.writer_is_gone();
        if thread::panicking() {
            eprintln!(
                "--- {}: console ends:\n{}\n--- {}: standard error:\n{}",
                self.name,
                tail(&self.console.text()),
                self.name,
                self.errors.text()
            );
        }
    }
}

/// A port of `place` that nobody listens on.
pub fn free_port(place: &Place) -> Outcome<u16> {
    // Namespaces of our own have no other users. On the loopback the system chooses.
    if place.is_loopback() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        Ok(listener.local_addr()?.port())
    } else {
        Ok(7000)
    }
}

/// Makes an empty file.
pub fn touch(path: &Path) -> Outcome<()> {
    File::create(path).during(path.display()).map(drop)
}

fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(2000);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}
