//! Network cards: alone, and behind the gate of a pair.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration::chain::{BOOT, Chain, FAILOVER};
use integration::installation::Installation;
use integration::namespaces::{Ground, Wire};
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::skips::skip;
use integration::{Failure, Outcome};

/// Lines that the client downloads.
const LINES: u32 = 20_000;
const MAC: &str = "2e:89:a8:e4:bf:95";

fn run(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{command:?}: {text}{errors}")))
}

fn ip(line: &str) -> Outcome<()> {
    run(Command::new("ip").args(line.split(' '))).map(drop)
}

/// A client's namespace with a bridge, to which both hosts' bridges are connected. Each host has a
/// TAP device on its bridge.
struct Site {
    client: String,
}

impl Site {
    fn new(wire: &Wire) -> Outcome<Self> {
        let client = format!("ch-it-{}-c", std::process::id());
        let site = Site {
            client: client.clone(),
        };
        ip(&format!("netns add {client}"))?;
        let bridge = |namespace: &str| {
            ip(&format!(
                "-n {namespace} link add lan type bridge forward_delay 0"
            ))?;
            ip(&format!("-n {namespace} link set lan up"))
        };
        bridge(&client)?;
        ip(&format!("-n {client} address add 10.66.0.1/24 dev lan"))?;
        for (index, place) in wire.places().iter().enumerate() {
            let host = place
                .namespace()
                .ok_or_else(|| Failure::new("a wire has namespaces"))?;
            bridge(host)?;
            ip(&format!(
                "-n {client} link add port{index} type veth peer name uplink netns {host}"
            ))?;
            ip(&format!("-n {host} tuntap add dev tap0 mode tap vnet_hdr"))?;
            for (namespace, port) in [
                (client.as_str(), format!("port{index}")),
                (host, "uplink".to_owned()),
                (host, "tap0".to_owned()),
            ] {
                ip(&format!("-n {namespace} link set {port} master lan"))?;
                ip(&format!("-n {namespace} link set {port} up"))?;
            }
        }
        Ok(site)
    }

    /// A shell's command line on the client.
    fn client(&self, line: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.client, "bash", "-c", line]);
        command
    }

    /// Begins to read what the guest says on a port.
    fn download(&self) -> Outcome<Child> {
        let line = "exec 3<>/dev/tcp/10.66.0.2/8000 && sha256sum <&3";
        Ok(self.client(line).stdout(Stdio::piped()).spawn()?)
    }

    fn ping(&self) -> Outcome<()> {
        let deadline = Instant::now() + FAILOVER;
        loop {
            // Whoever has no `ping` has ARP: a refused connection is an answer too.
            let line = "exec 3<>/dev/tcp/10.66.0.2/9 2>/dev/null; \
                        ip neighbour show 10.66.0.2 | grep -qi LLADDR-OF-GUEST"
                .replace("LLADDR-OF-GUEST", MAC);
            if self.client(&line).status()?.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::new("the guest does not answer"));
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The bridge goes with its namespace.
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.client])
            .output();
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
    let card = format!("tap=tap0,mac={MAC}");
    let ground = Ground::Wire(wire);
    let mut chain =
        Chain::boot_devices(&installation, &scratch, ground, random, &["--net", &card])?;
    let primary = &mut chain.primary;
    primary.console.expect("/ # ", BOOT)?;
    primary.type_line("ip link set eth0 up; ip address add 10.66.0.2/24 dev eth0; echo so $?")?;
    primary.console.expect("so 0", BOOT)?;
    site.ping()?;
    primary.type_line(&format!("seq 1 {LINES} > /tmp/x; echo made $?"))?;
    primary.console.expect("made 0", BOOT)?;
    chain.protect()?;
    // A pipe that fills slowly keeps the download going for a while.
    let serve = "(while read l; do echo $l; done < /tmp/x) | nc -l -p 8000; echo served $?";
    chain.primary.type_line(serve)?;
    std::thread::sleep(Duration::from_secs(1));
    let download = site.download()?;
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
    site.ping()
}
