//! Network cards: alone, and behind the gate of a pair.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration::chain::{BOOT, Chain, FAILOVER};
use integration::installation::Installation;
use integration::namespaces::{Ground, Wire};
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::site::{GUEST, MAC, Site, ip};
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
    chain.fail_over()?;
    let output = download.wait_with_output()?;
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    let sum = run(Command::new("sh").args(["-c", &format!("seq 1 {LINES} | sha256sum")]))?;
    assert_eq!(found, sum);
    chain.primary.console.expect("served 0", FAILOVER)?;
    ping(&site)
}

/// So many flows leave no queue unused.
const FLOWS: u32 = 24;

/// A TAP device on the host itself.
struct HostTap(String);

impl HostTap {
    fn new() -> Outcome<Self> {
        let tap = HostTap(format!("chit{}", std::process::id()));
        ip(&format!("tuntap add dev {} mode tap vnet_hdr", tap.0))?;
        ip(&format!("address add 10.67.0.1/24 dev {}", tap.0))?;
        ip(&format!("link set {} up", tap.0))?;
        Ok(tap)
    }

    /// One for `test`, which is skipped where there can be none.
    fn or_skip(test: &str) -> Option<Self> {
        HostTap::new()
            .inspect_err(|error| skip(test, &format!("no TAP device: {error}")))
            .ok()
    }

    /// A guest with a card on it, of these further options, that has an address.
    fn boot<'a>(
        &self,
        installation: &'a Installation,
        scratch: &'a Scratch,
        options: &str,
    ) -> Outcome<Chain<'a>> {
        let random = Random::from_environment();
        let card = format!("tap={},mac={MAC}{options}", self.0);
        let ground = Ground::Loopback;
        let mut chain =
            Chain::boot_devices(installation, scratch, ground, random, &["--net", &card])?;
        let primary = &mut chain.primary;
        primary.console.expect("/ # ", BOOT)?;
        primary
            .type_line("ip link set eth0 up; ip address add 10.67.0.2/24 dev eth0; echo so $?")?;
        primary.console.expect("so 0", BOOT)?;
        Ok(chain)
    }
}

impl Drop for HostTap {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "delete", &self.0])
            .output();
    }
}

/// A frozen primary keeps a TAP device from a survivor on the same host: its guest runs without a
/// network until the device is free, and has it then.
#[test]
fn a_survivor_gets_its_tap_device_when_it_is_free() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let Some(tap) = HostTap::or_skip("a_survivor_gets_its_tap_device_when_it_is_free") else {
        return Ok(());
    };
    let mut chain = tap.boot(&installation, &scratch, "")?;
    chain.protect()?;
    chain.primary.freeze()?;
    let survivor = chain.backup.take();
    let survivor = survivor.ok_or_else(|| Failure::new("there is no backup"))?;
    let mut frozen = std::mem::replace(&mut chain.primary, survivor);
    let primary = &mut chain.primary;
    primary.await_ft("live", FAILOVER, |info| info.is_unprotected())?;
    primary.type_line("echo runs $((40 + 2))")?;
    primary.console.expect("runs 42", FAILOVER)?;
    primary
        .errors
        .expect("no network until that changes", FAILOVER)?;
    frozen.kill()?;
    // Refused by the guest, which is an answer.
    let knock = "ip neighbour flush dev TAP; exec 3<>/dev/tcp/10.67.0.2/9 2>/dev/null; \
                 ip neighbour show 10.67.0.2 | grep -qi LLADDR-OF-GUEST"
        .replace("TAP", &tap.0)
        .replace("LLADDR-OF-GUEST", MAC);
    let deadline = Instant::now() + FAILOVER;
    while !Command::new("timeout")
        .args(["2", "bash", "-c", &knock])
        .status()?
        .success()
    {
        if Instant::now() > deadline {
            return Err(Failure::new("the guest does not answer"));
        }
    }
    Ok(())
}

/// Many flows to a port where nobody listens, which the guest answers on the queue that each flow's
/// hash chooses. A queue that does not work leaves some without an answer.
fn many_flows(address: &str) -> Outcome<()> {
    let knock = format!("exec 3<>/dev/tcp/{address}/9");
    for flow in 0..FLOWS {
        let began = Instant::now();
        let output = Command::new("timeout")
            .args(["5", "bash", "-c", &knock])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !said.contains("refused") {
            let waited = began.elapsed();
            let text = format!("flow {flow} had no answer in {waited:?}: {said}");
            return Err(Failure::new(text));
        }
    }
    Ok(())
}

/// A card with two pairs of queues, which the guest switches on and off; the survivor's goes on with
/// both.
#[test]
fn several_pairs_of_queues_work_on_both_hosts() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let Some(tap) = HostTap::or_skip("several_pairs_of_queues_work_on_both_hosts") else {
        return Ok(());
    };
    let mut chain = tap.boot(&installation, &scratch, ",num_queues=4")?;
    let primary = &mut chain.primary;
    primary.type_line("channels eth0 2")?;
    primary.console.expect("channels: 2 of 2", BOOT)?;
    many_flows("10.67.0.2")?;
    chain.protect()?;
    many_flows("10.67.0.2")?;
    chain.primary.kill()?;
    let survivor = chain.backup.take();
    chain.primary = survivor.ok_or_else(|| Failure::new("there is no backup"))?;
    let primary = &mut chain.primary;
    primary.await_ft("live", FAILOVER, |info| info.is_unprotected())?;
    many_flows("10.67.0.2")?;
    primary.type_line("channels eth0 1")?;
    primary.console.expect("channels: 1 of 2", FAILOVER)?;
    many_flows("10.67.0.2")?;
    primary.type_line("channels eth0 2")?;
    primary.console.expect("channels: 2 of 2", FAILOVER)?;
    many_flows("10.67.0.2")
}
