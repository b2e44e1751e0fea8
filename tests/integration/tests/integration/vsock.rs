//! Streams between the guest and programs of its host: alone, recorded, and behind the gate of a
//! pair.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use integration::chain::{BOOT, Chain, FAILOVER};
use integration::installation::Installation;
use integration::namespaces::Ground;
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::{Failure, Outcome};

/// A stream to a port of the guest.
fn connect(path: &Path, port: u32) -> Outcome<UnixStream> {
    let begun = Instant::now();
    loop {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(FAILOVER))?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 && byte != *b"\n" {
            answer.push(byte[0]);
        }
        if answer.starts_with(b"OK ") {
            return Ok(stream);
        }
        if begun.elapsed() > FAILOVER {
            return Err(Failure::new("the guest does not listen"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Gives back what comes on one stream.
fn echo_once(listener: UnixListener) -> std::thread::JoinHandle<std::io::Result<u64>> {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        std::io::copy(&mut &stream, &mut &stream)
    })
}

/// Both directions, both beginnings; the log of it all replays to one digest without the programs.
#[test]
fn guest_and_host_talk_over_streams() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let (log, socket) = (scratch.join("log"), scratch.join("vsock"));
    let mut vmm = Vmm::boot(
        &installation,
        &scratch,
        "vmm",
        &[
            "--vsock",
            &format!("cid=7,socket={}", socket.display()),
            "--record",
            &format!("path={}", log.display()),
        ],
    )?;
    vmm.console.expect("/ # ", BOOT)?;
    vmm.type_line("streams send 2 1234 1; echo so $?")?;
    vmm.console.expect("so 1", BOOT)?;
    let echo = echo_once(UnixListener::bind(scratch.join("vsock_1234"))?);
    vmm.type_line("streams send 2 1234 3")?;
    let expected = "of 3145728 bytes 3145728 came back, 0 of them wrong: end";
    vmm.console.expect(expected, BOOT)?;
    assert_eq!(echo.join().expect("the echo panicked")?, 3 << 20);
    vmm.type_line("streams echo 52 &")?;
    vmm.console.expect("streams: listening", BOOT)?;
    let mut stream = connect(&socket, 52)?;
    let sent: Vec<u8> = (0..2_000_000u32).map(|i| (i ^ (i >> 9)) as u8).collect();
    let (mut writer, bytes) = (stream.try_clone()?, sent.clone());
    let writing = std::thread::spawn(move || {
        writer.write_all(&bytes)?;
        writer.shutdown(Shutdown::Write)
    });
    let mut found = Vec::new();
    stream.read_to_end(&mut found)?;
    writing.join().expect("the writer panicked")?;
    assert!(found == sent, "{} bytes came back", found.len());
    vmm.console
        .expect("an echo ended after 2000000 bytes: end", BOOT)?;
    vmm.type_line("poweroff -f")?;
    let status = vmm.ended(BOOT)?;
    assert!(status.success(), "{status}: {}", vmm.errors.text());
    assert!(!socket.exists());

    let mut digests = Vec::new();
    for flush in ["", ",flush=7"] {
        let replay = format!("path={}{flush}", log.display());
        let output = Command::new(&installation.vmm)
            .args(["--replay", &replay])
            .output()?;
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        digests.push(text.lines().last().unwrap_or_default().to_owned());
    }
    assert_eq!(digests[0].len(), 16, "{digests:?}");
    assert_eq!(digests[0], digests[1]);
    Ok(())
}

/// A stream does not outlive its host, and the guest's program learns that; new ones go to the
/// survivor, over the same path.
#[test]
fn streams_are_reset_when_the_primary_is_lost() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let random = Random::from_environment();
    let socket = scratch.join("vsock");
    let vsock = format!("cid=7,socket={}", socket.display());
    let devices = ["--vsock", vsock.as_str()];
    let ground = Ground::Loopback;
    let mut chain = Chain::boot_devices(&installation, &scratch, ground, random, &devices)?;
    chain.primary.console.expect("/ # ", BOOT)?;
    chain.primary.type_line("streams echo 52 &")?;
    chain.primary.console.expect("streams: listening", BOOT)?;
    chain.protect()?;
    let mut stream = connect(&socket, 52)?;
    stream.write_all(b"hello")?;
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes)?;
    assert_eq!(&bytes, b"hello");
    chain.fail_over()?;
    assert_eq!(stream.read(&mut bytes).unwrap_or(0), 0);
    let primary = &mut chain.primary;
    // "Connection reset by peer" if it was reading, "Transport endpoint is not connected" if it reads
    // afterwards; not the stream's "end".
    primary
        .console
        .expect("an echo ended after 5 bytes: ", FAILOVER)?;
    primary.console.expect("onnect", FAILOVER)?;
    // The guest's program goes on to accept.
    let mut stream = connect(&socket, 52)?;
    stream.write_all(b"again")?;
    stream.read_exact(&mut bytes)?;
    assert_eq!(&bytes, b"again");
    let echo = echo_once(UnixListener::bind(scratch.join("vsock_9"))?);
    primary.type_line("streams send 2 9 1")?;
    let expected = "of 1048576 bytes 1048576 came back, 0 of them wrong: end";
    primary.console.expect(expected, FAILOVER)?;
    assert_eq!(echo.join().expect("the echo panicked")?, 1 << 20);
    Ok(())
}
