//! Clients of one guest whose hosts die, one after the other.
//!
//!     unshare --net soak-clients DIRECTORY FAILOVERS [SEED] [EVENT]
//!
//! DIRECTORY is what scripts/guest-services.sh or scripts/guest-disk.sh made. This process is the
//! client; each host is a network namespace, and both reach a copy of the disk. In each turn the
//! guest is given a backup, clients work, and at a random moment the primary is killed (SIGKILL) or, in
//! every other turn, freezes (SIGSTOP) and dies when its backup is live. EVENT `kill` or `freeze`
//! leaves out the other.
//!
//! An ssh session and a pulse of datagrams go on for the whole time, a download in each turn. Clients
//! of redis, and of PostgreSQL if it is there, record what they were told; `fio --verify` works in
//! the guest if that is there. The status is 0 if no connection broke, every byte was right, every
//! history is linearizable, and in the end `fsck` finds nothing.
//!
//! Nothing is judged by how fast it is: where two guests and all clients share two processors, and
//! others work there too, a guest may have to wait for a processor for most of the time. Each line
//! says for how long, so that this can be told from a guest that is stuck.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use integration::chain::Chain;
use integration::clients::checker;
use integration::clients::load::{Load, Recorded, Service, Shape};
use integration::clients::postgresql::PostgreSql;
use integration::clients::redis::Redis;
use integration::clients::sessions::{self, PATIENCE, ended_well, run_in_guest};
use integration::failure::While;
use integration::installation::Installation;
use integration::namespaces::{Ground, Wire};
use integration::process::Vmm;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::site::{GUEST, Site};
use integration::{Failure, Outcome};

const SHAPE: Shape = Shape {
    clients: 4,
    keys: 4,
    pause: Duration::from_millis(5),
};
/// Silence after which a peer is lost, in milliseconds. Not 50: here both hosts and all clients share
/// the processors.
const DETECTION_TIMEOUT: u64 = 500;
/// The latest moment, after the clients began, at which something happens.
const LATEST: Duration = Duration::from_millis(1500);
/// So many answers each service gives before something happens.
const ANSWERS: usize = 40;
/// How long clients work after a failover.
const AFTERWARDS: Duration = Duration::from_millis(1500);
/// Debian needs a minute and a half for it if it has a processor.
const BOOT: Duration = Duration::from_secs(1200);
/// With less, PostgreSQL and fio read their programs again and again.
const MEMORY: &str = "size=512M";
/// A download of this length takes some 5 s.
const DOWNLOAD: u64 = 24 << 20;
const DOWNLOAD_PAUSE: Duration = Duration::from_millis(3);
/// Works for longer than a turn needs, and verifies what it wrote then.
const FIO: &str = "fio --name=verify --filename=/root/fio.bin --size=8M --rw=randwrite --bs=4k \
    --direct=1 --ioengine=libaio --iodepth=8 --verify=crc32c --do_verify=1 --verify_fatal=1 \
    --rate=2m --output-format=terse --minimal";

struct Arguments {
    directory: PathBuf,
    failovers: usize,
    random: Random,
    events: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Kill,
    Freeze,
}

fn main() -> ExitCode {
    match arguments().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Outcome<Arguments> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [directory, failovers, rest @ ..] = given.as_slice() else {
        let usage = "usage: unshare --net soak-clients DIRECTORY FAILOVERS [SEED] [kill|freeze]";
        return Err(Failure::new(usage));
    };
    let random = match rest.first() {
        Some(seed) => Random::new(seed.parse::<u64>().during(seed)?),
        None => Random::from_environment(),
    };
    let events = match rest.get(1).map(String::as_str) {
        None => vec![Event::Kill, Event::Freeze],
        Some("kill") => vec![Event::Kill],
        Some("freeze") => vec![Event::Freeze],
        Some(other) => return Err(Failure::new(format!("{other:?} is no event"))),
    };
    Ok(Arguments {
        directory: directory.into(),
        failovers: failovers.parse::<usize>().during(failovers)?,
        random,
        events,
    })
}

fn at(port: u16) -> Outcome<SocketAddr> {
    let address = format!("{GUEST}:{port}");
    address.parse().during(address)
}

fn run(arguments: Arguments) -> Outcome<()> {
    let Arguments {
        directory,
        failovers,
        mut random,
        events,
    } = arguments;
    println!("seed {}", random.seed());
    let (installation, scratch) = (Installation::find()?, Scratch::new()?);
    let (disk, key) = (scratch.join("disk.raw"), directory.join("id_ed25519"));
    let copied = Command::new("cp")
        .arg("--sparse=always")
        .arg(directory.join("disk.raw"))
        .arg(&disk)
        .status()
        .during("cp")?;
    if !copied.success() {
        return Err(Failure::new("the disk cannot be copied"));
    }
    let wire = Wire::new()?;
    let site = Site::here(&wire)?;
    let began = Instant::now();
    let mut chain = Chain::boot_with(
        &installation,
        &scratch,
        Ground::Wire(wire),
        random.clone(),
        (
            &format!("root=/dev/vda ip={GUEST}::10.66.0.1:255.255.255.0:guest:eth0"),
            &[
                "--memory",
                MEMORY,
                "--disk",
                &format!("path={}", disk.display()),
                "--net",
                &Site::card(),
            ],
        ),
    )?;
    chain.detection_timeout = Some(DETECTION_TIMEOUT);
    await_ssh(&key)?;
    println!(
        "the guest answers ssh after {:.1} s{}",
        began.elapsed().as_secs_f64(),
        starved(&chain.primary)
    );
    let has = |program: &str| {
        let line = format!("command -v {program} >/dev/null && echo yes || echo no");
        Ok::<bool, Failure>(run_in_guest(&key, GUEST, &line)?.trim() == "yes")
    };
    let services = Services {
        redis: Redis { address: at(6379)? },
        postgresql: has("pg_ctlcluster")?.then_some(PostgreSql {
            address: at(5432)?,
            keys: SHAPE.keys,
        }),
        fio: has("fio")?,
    };
    if !has("serve")? {
        let program = installation.initramfs.with_file_name("serve");
        let program = std::fs::File::open(&program).during(program.display())?;
        let line = "cat >/usr/bin/serve; chmod 755 /usr/bin/serve; sync; \
                    setsid serve 5000 </dev/null >/dev/null 2>&1 &";
        let output = sessions::ssh(&key, GUEST, line)
            .stdin(program)
            .output()
            .during("ssh")?;
        ended_well("serve", &output)?;
    }
    patiently("redis", || services.redis.connect().map(drop))?;
    if let Some(postgresql) = &services.postgresql {
        patiently("PostgreSQL", || postgresql.connect().map(drop))?;
    }
    patiently("serve", || {
        std::net::TcpStream::connect(at(5000)?)
            .map(drop)
            .map_err(Failure::from)
    })?;

    let shell = sessions::shell(&key, GUEST)?;
    for turn in 1..=failovers {
        let event = events[(turn - 1) % events.len()];
        let moment = random.time_below(LATEST);
        let turned = services.turn(&mut chain, &key, event, moment, &mut random);
        let turned = turned.map_err(|failure| {
            let during = format!("turn {turn}, {event:?} after {moment:?}");
            let info = chain.primary.ft_info();
            let info = info.map_or_else(|error| error.to_string(), |info| info.to_string());
            Failure::new(format!(
                "{failure}; {info}{}; its standard error: {}",
                starved(&chain.primary),
                chain.primary.errors.text()
            ))
            .during(during)
        });
        println!("{turn:3} {}", turned?);
    }
    let seen = shell.finish()?;
    println!(
        "one ssh session: {} lines, the longest gap {:.3} s",
        seen.count,
        seen.gap.as_secs_f64()
    );
    // The connection may end before the answer.
    let _ = sessions::ssh(&key, GUEST, "poweroff")
        .output()
        .during("ssh")?;
    let status = chain.primary.ended(BOOT)?;
    if !status.success() {
        return Err(Failure::new(format!("the last host ended with {status}")));
    }
    let fsck = Command::new("e2fsck")
        .arg("-fn")
        .arg(&disk)
        .output()
        .during("e2fsck")?;
    ended_well("e2fsck -fn", &fsck)?;
    println!("powered off; fsck finds nothing");
    drop(site);
    Ok(())
}

fn patiently(what: impl Display, mut attempt: impl FnMut() -> Outcome<()>) -> Outcome<()> {
    let deadline = Instant::now() + BOOT;
    while let Err(failure) = attempt() {
        if Instant::now() > deadline {
            return Err(failure.during(what));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn await_ssh(key: &Path) -> Outcome<()> {
    patiently("ssh", || run_in_guest(key, GUEST, "true").map(drop))
}

struct Services {
    redis: Redis,
    postgresql: Option<PostgreSql>,
    fio: bool,
}

impl Services {
    /// One failover under load; what is to be said of it.
    fn turn(
        &self,
        chain: &mut Chain<'_>,
        key: &Path,
        event: Event,
        moment: Duration,
        random: &mut Random,
    ) -> Outcome<String> {
        chain.protect()?;
        self.redis.clear()?;
        let redis = Load::start(&self.redis, SHAPE, random);
        let postgresql = match &self.postgresql {
            Some(service) => {
                service.clear()?;
                Some(Load::start(service, SHAPE, random))
            }
            None => None,
        };
        let fio = self
            .fio
            .then(|| sessions::ssh(key, GUEST, FIO).spawn().during("ssh"));
        let fio = fio.transpose()?;
        let download = sessions::download(at(5000)?, DOWNLOAD, DOWNLOAD_PAUSE, |_| {})?;
        let pulse = sessions::pulse(at(5000)?)?;
        let answered = |load: &Load| load.answers() >= ANSWERS;
        let deadline = Instant::now() + PATIENCE;
        while !(answered(&redis) && postgresql.as_ref().is_none_or(answered)) {
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "the clients get too few answers: {} of redis, {:?} of PostgreSQL",
                    redis.answers(),
                    postgresql.as_ref().map(Load::answers),
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(moment);

        let mut old = chain.promote()?;
        match event {
            Event::Kill => drop(old.kill()?),
            Event::Freeze => old.freeze()?,
        }
        let live = chain
            .primary
            .await_ft("live", PATIENCE, |info| info.is_unprotected())?;
        if event == Event::Freeze {
            // It still holds the disk's lock.
            old.kill()?;
        }
        thread::sleep(AFTERWARDS);

        let pulse = pulse.finish()?;
        let redis = judge("redis", redis)?;
        let postgresql = postgresql
            .map(|load| judge("PostgreSQL", load))
            .transpose()?;
        let download = download.wait()?;
        if let Some(fio) = fio {
            ended_well("fio --verify", &fio.wait_with_output().during("ssh")?)?;
        }
        let parts = &live.json()["failover_ms"];
        let part = |name: &str| parts[name].as_f64().unwrap_or(f64::NAN);
        Ok(format!(
            "{event:?}: detection {:.0} ms, drain {:.0}, flag {:.0}, start {:.0}; longest gap of datagrams \
             {:.0} ms, of a download {:.0} ms; {redis}{}{}{}",
            part("detection"),
            part("drain"),
            part("claim"),
            part("start"),
            pulse.gap.as_secs_f64() * 1e3,
            download.gap.as_secs_f64() * 1e3,
            postgresql.map_or_else(String::new, |text| format!("; {text}")),
            if self.fio { "; fio verified" } else { "" },
            starved(&chain.primary),
        ))
    }
}

/// For how much of its time the guest had no processor; nothing if that is not known.
fn starved(vmm: &Vmm) -> String {
    vmm.vcpu_times().map_or_else(
        |_| String::new(),
        |(ran, waited)| {
            let (ran, waited) = (ran.as_secs_f64(), waited.as_secs_f64());
            format!("; the vCPU ran {ran:.1} s and had no processor for {waited:.1} s")
        },
    )
}

/// What clients recorded: on one connection each, and what one copy of the data could have answered.
fn judge(name: &str, load: Load) -> Outcome<String> {
    let recorded: Recorded = load.finish()?;
    if recorded.connections != u64::from(SHAPE.clients) {
        let text = format!(
            "{name}: {} connections for {} clients",
            recorded.connections, SHAPE.clients
        );
        return Err(Failure::new(text));
    }
    checker::check(&recorded.history).during(name)?;
    Ok(format!("{name}: {} operations", recorded.history.len()))
}
