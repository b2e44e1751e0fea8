//! What arrives at a backup's port is not trusted.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::time::Duration;

use integration::chain::{Chain, Event};
use integration::count::Count;
use integration::failure::While;
use integration::installation::Installation;
use integration::namespaces::{Ground, Place};
use integration::process::{Vmm, free_port};
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::{Failure, Outcome};
use serde_json::Value;

/// The kinds of frame that are used here, as in `docs/log-format.md`.
const LOG_BATCH: u8 = 1;
const HELLO: u8 = 2;
const RAM_PAGES: u8 = 5;
const CLONE_END: u8 = 6;
const ACK: u8 = 7;

/// A frame as in `docs/log-format.md`, written down here a second time so that a mistake in the
/// project's own codec cannot hide.
fn seal(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xf1, kind];
    let mut length = payload.len();
    while length > 0x7f {
        frame.push(length as u8 | 0x80);
        length >>= 7;
    }
    frame.push(length as u8);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&frame), payload);
    frame.extend_from_slice(&checksum.to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A peer that says something wrong is told good-bye within this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that no honest peer sends first, by name.
fn wrong_beginnings(random: &mut Random) -> Vec<(&'static str, Vec<u8>)> {
    let hello = seal(HELLO, &[7; 40]);
    let changed = |at: usize, byte: u8| {
        let mut bytes = hello.clone();
        bytes[at] = byte;
        bytes
    };
    let garbage = (0..4096).map(|_| random.number() as u8).collect();
    vec![
        ("an HTTP request", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("random bytes", garbage),
        ("zeros", vec![0; 4096]),
        ("another version", changed(0, hello[0] ^ 3)),
        ("an unknown kind", changed(1, 0xee)),
        ("a hello that is no hello", hello.clone()),
        ("a wrong checksum", changed(hello.len() - 1, 8)),
        ("half a frame", hello[..hello.len() / 2].to_vec()),
        ("an acknowledgement first", seal(ACK, &[0; 16])),
        ("a batch first", seal(LOG_BATCH, &[1; 100])),
        ("memory first", seal(RAM_PAGES, &[1; 5000])),
        ("the end of the clone first", seal(CLONE_END, &[1; 64])),
        (
            // Kind Hello, a length of 2^28 - 1.
            "a frame of 256 MiB",
            vec![hello[0], hello[1], 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0],
        ),
        (
            "a length without end",
            [&hello[..2], &[0x80; 64][..]].concat(),
        ),
        ("nothing", Vec::new()),
    ]
}

/// What must not change: everything but counters of what was refused.
fn unchanged_part(vmm: &Vmm) -> Outcome<Value> {
    let mut json = vmm.ft_info()?.json().clone();
    if let Some(fields) = json.as_object_mut() {
        fields.retain(|name, _| !name.contains("error") && !name.contains("refused"));
    }
    Ok(json)
}

fn send(port: u16, bytes: &[u8]) -> Outcome<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).during("connecting as a bad peer")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // The other side may close before it has everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error).during("awaiting the end of the connection"),
    }
}

/// A waiting backup survives every bad peer, and then serves a good one.
#[test]
fn bad_peers_change_nothing() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let mut random = Random::from_environment();
    let port = free_port(&Place::loopback())?;
    let mut backup = Vmm::start(&installation, &scratch, "backup", &[])?;
    backup.ready()?;
    backup.remote(&["ft-receive", "--listen", &format!("tcp:127.0.0.1:{port}")])?;
    let before = unchanged_part(&backup)?;
    for (name, bytes) in wrong_beginnings(&mut random) {
        send(port, &bytes).map_err(|failure| failure.during(name))?;
        assert_eq!(unchanged_part(&backup)?, before, "after {name}");
        if let Some(status) = backup.has_ended()? {
            return Err(Failure::new(format!("{name}: it ended with {status}")));
        }
    }
    let said = backup.errors.text();
    assert!(!said.contains("panicked"), "{said}");

    let datagrams = UdpSocket::bind("127.0.0.1:0")?;
    for length in [0, 1, 16, 64, 1400] {
        let bytes: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
        datagrams.send_to(&bytes, ("127.0.0.1", port))?;
    }

    let count = Count {
        rounds: 1000,
        pause_ms: 10,
        mib: 1,
    };
    let mut chain = Chain::boot(&installation, &scratch, Ground::Loopback, random, count)?;
    chain.counts()?;
    chain.protect_with(backup, port)?;

    // And while it is a backup, strangers are still strangers.
    let mut random = Random::new(1);
    for (name, bytes) in wrong_beginnings(&mut random) {
        if let Err(error) = send(port, &bytes) {
            // Nobody needs to listen any more.
            eprintln!("{name}: {error}");
        }
    }
    chain.turn(Event::KillPrimary)?;
    Ok(())
}
