//! Network cards: alone, and behind the gate of a pair.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration::chain::{BOOT, Chain, FAILOVER};
use integration::installation::Installation;
use integration::namespaces::{Ground, Wire};
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::site::{GUEST, MAC, Site};
use integration::skips::skip;
use integration::{Failure, Outcome};

/// Lines that the client downloads.
const LINES: u32 = 20_000;

fn run(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{command:?}: {text}{errors}")))
}

/// Begins to read what the guest says on a port.
fn download(site: &Site) -> Outcome<Child> {
    let line = format!("exec 3<>/dev/tcp/{GUEST}/8000 && sha256sum <&3");
    Ok(site.client(&line).stdout(Stdio::piped()).spawn()?)
}

fn ping(site: &Site) -> Outcome<()> {
    let deadline = Instant::now() + FAILOVER;
    loop {
        // Whoever has no `ping` has ARP: a refused connection is an answer too.
        let line = format!(
            "exec 3<>/dev/tcp/{GUEST}/9 2>/dev/null; ip neighbour show {GUEST} | grep -qi {MAC}"
        );
        if site.client(&line).status()?.success() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new("the guest does not answer"));
        }
    }
}

/// The guest serves a file to a client; the primary's host dies in the middle; the client sees one
/// stream, whole and right, over the same connection.
#[test]
fn a_download_outlives_the_primary() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    if !Path::new("/dev/net/tun").exists() {
        skip("a_download_outlives_the_primary", "no /dev/net/tun");
        return Ok(());
    }
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => {
            let why = format!("no network namespaces: {error}");
            skip("a_download_outlives_the_primary", &why);
            return Ok(());
        }
    };
    let site = Site::new(&wire)?;
    let mut random = Random::from_environment();
    let moment = random.time_below(Duration::from_millis(700));
    let card = Site::card();
    let ground = Ground::Wire(wire);
    let mut chain =
        Chain::boot_devices(&installation, &scratch, ground, random, &["--net", &card])?;
    let primary = &mut chain.primary;
    primary.console.expect("/ # ", BOOT)?;
    primary.type_line("ip link set eth0 up; ip address add 10.66.0.2/24 dev eth0; echo so $?")?;
    primary.console.expect("so 0", BOOT)?;
    ping(&site)?;
    primary.type_line(&format!("seq 1 {LINES} > /tmp/x; echo made $?"))?;
    primary.console.expect("made 0", BOOT)?;
    chain.protect()?;
    // A pipe that fills slowly keeps the download going for a while.
    let serve = "(while read l; do echo $l; done < /tmp/x) | nc -l -p 8000; echo served $?";
    chain.primary.type_line(serve)?;
    std::thread::sleep(Duration::from_secs(1));
    let download = download(&site)?;
    std::thread::sleep(moment);
    chain.primary.kill()?;
    let survivor = chain.backup.take();
    chain.primary = survivor.ok_or_else(|| Failure::new("there is no backup"))?;
    chain
        .primary
        .await_ft("live", FAILOVER, |info| info.is_unprotected())?;
    let output = download.wait_with_output()?;
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    let sum = run(Command::new("sh").args(["-c", &format!("seq 1 {LINES} | sha256sum")]))?;
    assert_eq!(found, sum);
    chain.primary.console.expect("served 0", FAILOVER)?;
    ping(&site)
}
