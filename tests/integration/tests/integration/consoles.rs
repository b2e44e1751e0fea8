//! Consoles beside the serial port on standard output: pseudo-terminals and sockets, alone,
//! recorded, and behind the gate of a pair.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration::chain::{BOOT, Chain, FAILOVER};
use integration::console::Console;
use integration::failure::While;
use integration::installation::Installation;
use integration::namespaces::Ground;
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::{Failure, Outcome};

/// A shell on the virtio console.
const SHELL: &str = "setsid sh -c 'exec sh -i <>/dev/hvc0 >&0 2>&1' & echo started $?";

/// Somebody at a console's other end, until this goes away.
struct Visitor {
    input: Box<dyn Write>,
    output: Console,
    leave: Leave,
}

/// How somebody goes away.
enum Leave {
    /// The terminal is read and written by processes, which end. This one never has it open: a process
    /// that another test starts at this moment would have it too, until it runs its program.
    End([Child; 2]),
    Disconnect(UnixStream),
}

impl Visitor {
    fn of_pty(path: &Path) -> Outcome<Self> {
        let mut reader = Command::new("cat");
        let mut reader = reader.arg(path).stdout(Stdio::piped()).spawn()?;
        let mut writer = Command::new("sh");
        let mut writer = writer
            .args(["-c", "exec cat > \"$0\""])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()?;
        let ends = reader.stdout.take().zip(writer.stdin.take());
        let (output, input) = ends.ok_or_else(|| Failure::new("they were piped"))?;
        Ok(Visitor {
            input: Box::new(input),
            output: Console::of_pipe("visitor", output),
            leave: Leave::End([reader, writer]),
        })
    }

    fn of_socket(path: &Path) -> Outcome<Self> {
        let begun = Instant::now();
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    return Ok(Visitor {
                        input: Box::new(stream.try_clone()?),
                        output: Console::of_pipe("visitor", stream.try_clone()?),
                        leave: Leave::Disconnect(stream),
                    });
                }
                Err(_) if begun.elapsed() < FAILOVER => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn type_line(&mut self, line: &str) -> Outcome<()> {
        Ok(self.input.write_all(format!("{line}\n").as_bytes())?)
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        // Who is gone already need not go.
        match &mut self.leave {
            Leave::End(processes) => {
                for process in processes {
                    let _ = process.kill();
                    let _ = process.wait();
                }
            }
            Leave::Disconnect(stream) => {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn info_of(vmm: &Vmm) -> Outcome<serde_json::Value> {
    serde_json::from_str(&vmm.remote(&["info"])?).during("reading what vm.info says")
}

/// Where `vm.info` says that a console's pseudo-terminal is.
fn pty_of(vmm: &Vmm, console: &str) -> Outcome<PathBuf> {
    let info = info_of(vmm)?;
    let path = info["config"][console]["file"].as_str();
    let path = path.ok_or_else(|| Failure::new(format!("no pseudo-terminal: {info}")))?;
    Ok(path.into())
}

/// A session at two pseudo-terminals, one of another size than before: what was recorded replays to
/// one digest.
#[test]
fn a_session_at_pseudo_terminals_is_recorded() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let log = scratch.join("log");
    let mut vmm = Vmm::boot(
        &installation,
        &scratch,
        "vmm",
        &[
            "--serial",
            "pty",
            "--console",
            "pty",
            "--record",
            &format!("path={}", log.display()),
        ],
    )?;
    vmm.ready()?;
    let mut serial = Visitor::of_pty(&pty_of(&vmm, "serial")?)?;
    serial.output.expect("/ # ", BOOT)?;
    let path = pty_of(&vmm, "console")?;
    let mut console = Visitor::of_pty(&path)?;
    let resize = Command::new("stty")
        .args(["rows", "33", "cols", "111", "-F"])
        .arg(&path)
        .status()?;
    assert!(resize.success());
    serial.type_line(SHELL)?;
    serial.output.expect("started 0", BOOT)?;
    console.output.expect("/ # ", BOOT)?;
    console.type_line("until stty size | grep '33 111'; do usleep 100000; done")?;
    console.output.expect("\n33 111", BOOT)?;
    console.type_line("seq 1 5000 | sha256sum; seq 1 5000")?;
    console.output.expect("\n5000\r\n", BOOT)?;
    serial.type_line("echo $((6 * 7)) is the answer; poweroff -f")?;
    let status = vmm.ended(BOOT)?;
    assert!(status.success(), "{status}: {}", vmm.errors.text());
    let text = serial.output.text();
    assert!(text.contains("\n42 is the answer"), "{text}");

    let mut digests = Vec::new();
    for flush in ["", ",flush=7"] {
        let replay = format!("path={}{flush}", log.display());
        let output = Command::new(&installation.vmm)
            .args(["--replay", &replay])
            .output()?;
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("\n5000\r\n"), "what hvc0 showed is shown");
        digests.push(text.lines().last().unwrap_or_default().to_owned());
    }
    assert_eq!(digests[0].len(), 16, "{digests:?}");
    assert_eq!(digests[0], digests[1]);
    Ok(())
}

/// A shell on the virtio console outlives its host; whoever comes to the survivor finds what nobody
/// had read, and types on.
fn outlives(mode: &str, visit: impl Fn(&Vmm) -> Outcome<Visitor>) -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let mode = mode.replace("SCRATCH", &scratch.join("").to_string_lossy());
    let random = Random::from_environment();
    let devices = ["--console", mode.as_str()];
    let ground = Ground::Loopback;
    let mut chain = Chain::boot_devices(&installation, &scratch, ground, random, &devices)?;
    chain.primary.console.expect("/ # ", BOOT)?;
    chain.primary.type_line(SHELL)?;
    chain.primary.console.expect("started 0", BOOT)?;
    let mut visitor = visit(&chain.primary)?;
    visitor.output.expect("/ # ", BOOT)?;
    chain.protect()?;
    visitor.type_line("x=$((6 * 7)); echo x is $x")?;
    visitor.output.expect("\nx is 42", BOOT)?;
    drop(visitor);
    // Nobody is there to read this.
    chain
        .primary
        .type_line("echo left alone > /dev/hvc0; echo so $?")?;
    chain.primary.console.expect("so 0", BOOT)?;
    chain.fail_over()?;
    let mut visitor = visit(&chain.primary)?;
    visitor.output.expect("left alone", FAILOVER)?;
    visitor.type_line("echo x was $x")?;
    visitor.output.expect("\nx was 42", FAILOVER)
}

#[test]
fn a_pseudo_terminal_is_opened_again_on_the_survivor() -> Outcome<()> {
    outlives("pty", |vmm| Visitor::of_pty(&pty_of(vmm, "console")?))
}

#[test]
fn a_socket_is_opened_again_on_the_survivor() -> Outcome<()> {
    outlives("socket=SCRATCH/console", |vmm| {
        let info = info_of(vmm)?;
        let path = info["config"]["console"]["socket"].as_str();
        Visitor::of_socket(path.unwrap_or_default().as_ref())
    })
}
