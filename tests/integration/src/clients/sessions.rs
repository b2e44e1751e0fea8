//! Clients with one connection that must outlive a failover: an ssh session, a download, a pulse of
//! datagrams.
//!
//! Does: use it all the time, check whatever comes, and measure the longest gap. Does not: connect
//! again, ever.
//!
//! Invariant: what is wrong is an error at the end, whatever it was.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome, While};

/// How long an answer may take, whatever happens meanwhile: a host without processors for its guest
/// is no broken connection. Gaps are measured.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// Between two lines of an ssh session.
const LINE_PAUSE: Duration = Duration::from_millis(20);
/// Between two datagrams.
const PULSE: Duration = Duration::from_millis(2);

/// `ssh` as root in the guest, with this command.
pub fn ssh(key: &Path, host: &str, command: &str) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.arg("-i").arg(key);
    for option in [
        "BatchMode=yes",
        "LogLevel=ERROR",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ConnectTimeout=300",
    ] {
        ssh.args(["-o", option]);
    }
    ssh.arg(format!("root@{host}")).arg(command);
    ssh.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    ssh
}

/// Runs a command in the guest, and gives what it printed.
pub fn run_in_guest(key: &Path, host: &str, command: &str) -> Outcome<String> {
    let output = ssh(key, host, command).output().during("ssh")?;
    ended_well(command, &output)
}

/// What a command in the guest printed, if it ended well.
pub fn ended_well(command: &str, output: &std::process::Output) -> Outcome<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!(
        "in the guest: {command:?}: {}: {text}{errors}",
        output.status
    )))
}

/// A client on a thread of its own, until it is told to end.
#[derive(Debug)]
pub struct Session<T> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome<T>>,
}

impl<T: Send + 'static> Session<T> {
    fn start(run: impl FnOnce(&AtomicBool) -> Outcome<T> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stop_too = Arc::clone(&stop);
        Session {
            stop,
            thread: thread::spawn(move || run(&stop_too)),
        }
    }

    /// Ends it; what came of it.
    pub fn finish(self) -> Outcome<T> {
        self.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits for it to end by itself.
    pub fn wait(self) -> Outcome<T> {
        self.thread
            .join()
            .map_err(|_| Failure::new("a client panicked"))?
    }
}

/// What a session saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Lines, bytes or datagrams that came back.
    pub count: u64,
    /// The longest time in which nothing came.
    pub gap: Duration,
}

/// Measures the longest time between two calls.
struct Gap {
    last: Instant,
    longest: Duration,
}

impl Gap {
    fn new() -> Self {
        Gap {
            last: Instant::now(),
            longest: Duration::ZERO,
        }
    }

    fn came(&mut self) {
        let now = Instant::now();
        self.longest = self.longest.max(now - self.last);
        self.last = now;
    }
}

/// Ends a process that is not waited for otherwise.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An ssh session whose shell sends back every line that is typed.
pub fn shell(key: &Path, host: &str) -> Outcome<Session<Seen>> {
    let mut command = ssh(key, host, "while read -r line; do echo \"$line\"; done");
    let mut child = command.stdin(Stdio::piped()).spawn().during("ssh")?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (mut stdin, stdout) = stdin
        .zip(stdout)
        .ok_or_else(|| Failure::new("ssh has no pipes"))?;
    Ok(Session::start(move |stop| {
        let _child = Ended(child);
        let mut lines = BufReader::new(stdout).lines();
        let mut gap = Gap::new();
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            writeln!(stdin, "line {count}").during("typing into ssh")?;
            let line = lines.next().ok_or_else(|| Failure::new("ssh has ended"))?;
            let line = line.during("reading from ssh")?;
            if line != format!("line {count}") {
                return Err(Failure::new(format!(
                    "ssh: {line:?} instead of line {count}"
                )));
            }
            if count == 0 {
                // What came before was the login.
                gap = Gap::new();
            }
            count += 1;
            gap.came();
            thread::sleep(LINE_PAUSE);
        }
        Ok(Seen {
            count,
            gap: gap.longest,
        })
    }))
}

/// Downloads `bytes` from `serve` (`tests/guests/serve.c`), which pauses after every 16 KiB. Tells
/// every now and then what has come.
pub fn download(
    address: SocketAddr,
    bytes: u64,
    pause: Duration,
    mut tell: impl FnMut(Seen) + Send + 'static,
) -> Outcome<Session<Seen>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).during(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = vec![b'S'];
    request.extend((pause.as_micros() as u64).to_le_bytes());
    request.extend(bytes.to_le_bytes());
    stream.write_all(&request)?;
    Ok(Session::start(move |_| {
        let mut stream = BufReader::with_capacity(64 << 10, stream);
        let mut gap = Gap::new();
        let mut word = [0; 8];
        for index in 0..bytes / 8 {
            stream
                .read_exact(&mut word)
                .during(format_args!("byte {} of a download", index * 8))?;
            let expected = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if u64::from_le_bytes(word) != expected {
                return Err(Failure::new(format!(
                    "a download differs at byte {}",
                    index * 8
                )));
            }
            if index % 512 == 0 {
                gap.came();
                tell(Seen {
                    count: index * 8,
                    gap: gap.longest,
                });
            }
        }
        Ok(Seen {
            count: bytes,
            gap: gap.longest,
        })
    }))
}

/// Sends a numbered datagram every 2 ms to `serve`, which sends them back.
pub fn pulse(address: SocketAddr) -> Outcome<Session<Seen>> {
    let socket = UdpSocket::bind("0.0.0.0:0").during("a socket")?;
    socket.connect(address).during(address)?;
    socket.set_read_timeout(Some(PULSE))?;
    Ok(Session::start(move |stop| {
        let (mut sent, mut count) = (0u64, 0);
        let mut gap = Gap::new();
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                sent += 1;
                next += PULSE;
                // A network that is down loses it.
                let _ = socket.send(&sent.to_le_bytes());
            }
            let mut number = [0; 8];
            match socket.recv(&mut number) {
                Ok(8) if u64::from_le_bytes(number) <= sent => {
                    count += 1;
                    gap.came();
                }
                Ok(_) => return Err(Failure::new("a datagram that nobody sent")),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused
                    ) => {}
                Err(error) => return Err(error).during("the pulse"),
            }
        }
        Ok(Seen {
            count,
            gap: gap.longest,
        })
    }))
}
