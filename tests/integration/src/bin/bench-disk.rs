//! Small random reads and writes of a guest's disk, one and eight at a time, on several engines, timed
//! from outside.
//!
//!     bench-disk [ROUNDS [BLOCKS [DIRECTORY]]]
//!
//! The image is made in the directory: /dev/shm shows what the engines cost, a real one what its
//! flushes do, which each write under protection waits for.
//!
//! Each round boots every engine once on the same image: ours alone, ours with a peer that
//! acknowledges without replaying, ours with a backup that replays, QEMU's TCG alone and recording.
//! Ratios are of times of the same round. `CH_BIN_DIR` and `CH_GUEST_DIR` as for the tests. The
//! table comes on standard output, in markdown.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use integration::bench::statistics::median;
use integration::chain::{BOOT, CLONE, Chain};
use integration::failure::While;
use integration::installation::Installation;
use integration::namespaces::{Ground, Place};
use integration::process::free_port;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::{Failure, Outcome};

const IMAGE_BYTES: u64 = 256 << 20;
/// What is done, by so many processes of the guest at the same time.
const KINDS: [(&str, usize); 4] = [("read", 1), ("write", 1), ("read", 8), ("write", 8)];
const ENGINES: [&str; 5] = ["ours", "acknowledged", "pair", "qemu", "qemu-record"];

/// Seconds for all blocks of each of [`KINDS`].
type Times = [f64; KINDS.len()];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench-disk: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let number = |index: usize, absent: usize| match std::env::args().nth(index) {
        None => Ok(absent),
        Some(text) => text
            .parse()
            .during("usage: bench-disk [ROUNDS [BLOCKS [DIRECTORY]]]"),
    };
    let (rounds, blocks) = (number(1, 3)?, number(2, 5000)?);
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let directory = std::env::args().nth(3).map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| scratch.path().to_owned());
    let name = format!("bench-disk-{}.img", std::process::id());
    let image = Image(directory.join(name));
    let result = measure(&installation, &scratch, &image.0, (rounds, blocks));
    print(&result?, blocks);
    Ok(())
}

/// A file that goes with its owner.
struct Image(PathBuf);

impl Drop for Image {
    fn drop(&mut self) {
        // It may not have been made.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn measure(
    installation: &Installation,
    scratch: &Scratch,
    image: &Path,
    (rounds, blocks): (usize, usize),
) -> Outcome<Vec<[Times; ENGINES.len()]>> {
    // Holes would be quicker than data.
    std::fs::write(image, vec![0xA5; IMAGE_BYTES as usize])?;
    let mut all: Vec<[Times; ENGINES.len()]> = Vec::new();
    for round in 0..rounds {
        let mut times = [[0.0; KINDS.len()]; ENGINES.len()];
        for (index, engine) in ENGINES.iter().enumerate() {
            // Each reads from the host's memory.
            std::fs::read(image)?;
            // Recording is slow, and each block costs the same.
            let count = match *engine {
                "qemu-record" => blocks.div_ceil(10),
                _ => blocks,
            };
            let scale = blocks as f64 / count as f64;
            let run = match *engine {
                "qemu" | "qemu-record" => {
                    let log = (*engine == "qemu-record").then(|| scratch.join("rr"));
                    qemu(installation, image, log.as_deref(), count)
                }
                _ => {
                    let scratch = Scratch::new()?;
                    ours(installation, &scratch, image, engine, count)
                }
            };
            times[index] = run
                .map_err(|failure| failure.during(engine))?
                .map(|time| time * scale);
            eprintln!("round {round}: {engine}: {:?}", times[index]);
        }
        all.push(times);
    }
    Ok(all)
}

fn print(all: &[[Times; ENGINES.len()]], blocks: usize) {
    println!("| 4 KiB | at a time | engine | µs each | speed against ours alone | against qemu |");
    println!("|---|---|---|---|---|---|");
    for (kind, (name, processes)) in KINDS.iter().enumerate() {
        for (index, engine) in ENGINES.iter().enumerate() {
            let of = |figure: &dyn Fn(&[Times; ENGINES.len()]) -> f64| {
                let figures: Vec<f64> = all.iter().map(figure).collect();
                median(&figures).unwrap_or_default()
            };
            let each = of(&|times| times[index][kind] / blocks as f64 * 1e6);
            let ours = of(&|times| times[0][kind] / times[index][kind]);
            let qemu = of(&|times| times[3][kind] / times[index][kind]);
            println!("| {name} | {processes} | {engine} | {each:.0} | {ours:.2} | {qemu:.2} |");
        }
    }
}

/// Ours, with or without somebody who follows.
fn ours(
    installation: &Installation,
    scratch: &Scratch,
    image: &Path,
    engine: &str,
    blocks: usize,
) -> Outcome<Times> {
    let disk = format!("path={},image_type=raw", image.display());
    let random = Random::new(1);
    let devices = ["--disk", &disk];
    let mut chain = Chain::boot_devices(installation, scratch, Ground::Loopback, random, &devices)?;
    chain.primary.console.expect("/ # ", BOOT)?;
    let mut peer = None;
    match engine {
        "pair" => chain.protect()?,
        "acknowledged" => {
            let port = free_port(&Place::loopback())?;
            peer = Some(acknowledger(installation, port)?);
            let address = format!("tcp:127.0.0.1:{port}");
            let lease = format!("file:{}", scratch.join("flag").display());
            let words = ["ft-enable", "--peer", &address, "--lease", &lease];
            chain.primary.remote(&words)?;
            chain
                .primary
                .await_ft("protected", CLONE, |info| info.is_protected())?;
        }
        _ => {}
    }
    let mut times = [0.0; KINDS.len()];
    // A VMM does not trust what its host has cached of an image that others may have changed.
    std::fs::read(image)?;
    for ((kind, processes), time) in KINDS.iter().zip(&mut times) {
        let line = format!("disk-bench /dev/vda {kind} {blocks} {processes}");
        chain.primary.type_line(&line)?;
        let mark = format!("{kind} {processes}");
        let console = &mut chain.primary.console;
        console.expect(&format!("begins: {mark}"), BOOT)?;
        let began = Instant::now();
        console.expect(&format!("ends: {mark}"), BOOT)?;
        *time = began.elapsed().as_secs_f64();
    }
    chain.primary.kill()?;
    drop(peer);
    Ok(times)
}

/// Ends with its owner.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn acknowledger(installation: &Installation, port: u16) -> Outcome<Guard> {
    let program = installation.vmm.with_file_name("ack-peer");
    let child = Command::new(&program)
        .arg(format!("127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .during(program.display())?;
    let peer = Guard(child);
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > deadline {
            return Err(Failure::new("ack-peer does not listen"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(peer)
}

/// QEMU, booted for each kind: input would be one more thing to record.
fn qemu(
    installation: &Installation,
    image: &Path,
    log: Option<&Path>,
    blocks: usize,
) -> Outcome<Times> {
    let mut times = [0.0; KINDS.len()];
    for ((kind, processes), time) in KINDS.iter().zip(&mut times) {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-nodefaults", "-display", "none"]);
        command.args(["-no-reboot", "-serial", "stdio", "-m", "256M", "-smp", "1"]);
        command.arg("-kernel").arg(&installation.vmlinux);
        command.arg("-initrd").arg(&installation.initramfs);
        let test = format!("test=disk-bench:/dev/vda:{kind}:{blocks}:{processes}");
        command.args(["-append", &format!("console=ttyS0 panic=-1 quiet {test}")]);
        let drive = format!("file={},format=raw,if=none,id=disk", image.display());
        let disk = match log {
            None => {
                command.args(["-drive", &drive]);
                "disk"
            }
            Some(log) => {
                let icount = format!("shift=0,rr=record,rrfile={}", log.display());
                command.args(["-icount", &icount]);
                command.args(["-drive", &format!("{drive},snapshot=on")]);
                command.args(["-drive", "driver=blkreplay,if=none,image=disk,id=replay"]);
                "replay"
            }
        };
        command.args(["-device", &format!("virtio-blk-pci,drive={disk}")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Guard(command.spawn().during("qemu-system-x86_64")?);
        let Some(stdout) = child.0.stdout.take() else {
            return Err(Failure::new("QEMU has no console"));
        };
        let mut lines = BufReader::new(stdout).split(b'\n');
        let mut until = |word: &str| loop {
            let Some(line) = lines.next() else {
                return Err(Failure::new(format!("QEMU ended before it said {word:?}")));
            };
            let line = String::from_utf8_lossy(&line?).into_owned();
            if line.contains(word) {
                return Ok(Instant::now());
            }
        };
        let began = until(&format!("begins: {kind} {processes}"))?;
        *time = (until(&format!("ends: {kind} {processes}"))? - began).as_secs_f64();
    }
    Ok(times)
}
