//! The judges of failover, judged: clients of servers on this host, which get killed.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration::clients::checker::{self, Violation};
use integration::clients::load::{Load, Recorded, Service, Shape};
use integration::clients::postgresql::PostgreSql;
use integration::clients::redis::Redis;
use integration::failure::While;
use integration::namespaces::Place;
use integration::process::free_port;
use integration::scratch::Scratch;
use integration::seed::Random;
use integration::skips::skip;
use integration::{Failure, Outcome};

const PATIENCE: Duration = Duration::from_secs(60);
const SHAPE: Shape = Shape {
    clients: 6,
    keys: 4,
    pause: Duration::from_millis(5),
};
/// How often the server is killed.
const KILLS: usize = 3;
/// How many answers come between two kills.
const ANSWERS: usize = 300;

/// A server on the loopback, started by a command again and again.
struct Server {
    command: Box<dyn Fn() -> Command>,
    address: SocketAddr,
    child: Child,
}

impl Server {
    fn start(address: SocketAddr, command: impl Fn() -> Command + 'static) -> Outcome<Self> {
        let mut server = Server {
            child: spawn(&mut command())?,
            command: Box::new(command),
            address,
        };
        server.listens()?;
        Ok(server)
    }

    fn listens(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.try_wait()?;
            if Instant::now() > deadline {
                let how = format!("the server does not listen (ended: {ended:?})");
                return Err(Failure::new(how));
            }
            // PostgreSQL refuses to start until the last process of its predecessor is gone.
            if ended.is_some() {
                self.child = spawn(&mut (self.command)())?;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn kill(&mut self) -> Outcome<()> {
        let group = libc::pid_t::try_from(self.child.id()).during("a process id")?;
        // SAFETY: kill(2) takes no memory. The process leads a group of its own and was not waited
        // for, so the id is not somebody else's.
        #[allow(unsafe_code)]
        let status = unsafe { libc::kill(-group, libc::SIGKILL) };
        if status != 0 {
            return Err(std::io::Error::last_os_error()).during("killing the server");
        }
        self.child.wait()?;
        Ok(())
    }

    /// Killed and started again, `KILLS` times, while clients are at work.
    fn under_load<S: Service>(&mut self, service: &S) -> Outcome<Recorded> {
        service.clear()?;
        let load = Load::start(service, SHAPE, &mut Random::from_environment());
        let answered = |wanted: usize| {
            let deadline = Instant::now() + PATIENCE;
            while load.answers() < wanted {
                if Instant::now() > deadline {
                    return Err(Failure::new("the clients get no answers"));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        };
        for kill in 1..=KILLS {
            answered(kill * ANSWERS)?;
            self.kill()?;
            self.child = spawn(&mut (self.command)())?;
            self.listens()?;
        }
        answered((KILLS + 1) * ANSWERS)?;
        load.finish()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may end between the two calls.
            let _ = self.kill();
        }
    }
}

fn spawn(command: &mut Command) -> Outcome<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // With its own process group, all of its processes can be killed at once.
    command.process_group(0);
    let what = format!("{command:?}");
    command.spawn().during(what)
}

fn loopback() -> Outcome<SocketAddr> {
    Ok(SocketAddr::from((
        [127, 0, 0, 1],
        free_port(&Place::loopback())?,
    )))
}

fn redis(scratch: &Scratch, address: SocketAddr, appendonly: &'static str) -> Outcome<Server> {
    let directory = scratch.path().to_owned();
    Server::start(address, move || {
        let mut command = Command::new("redis-server");
        command.args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            appendonly,
        ]);
        command.args([
            "--appendfsync",
            "always",
            "--port",
            &address.port().to_string(),
        ]);
        command.arg("--dir").arg(&directory);
        command
    })
}

fn has_redis() -> bool {
    let version = Command::new("redis-server").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

#[test]
fn redis_that_keeps_what_it_acknowledged_is_linearizable() -> Outcome<()> {
    if !has_redis() {
        skip(
            "redis_that_keeps_what_it_acknowledged_is_linearizable",
            "no redis-server",
        );
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let address = loopback()?;
    let mut server = redis(&scratch, address, "yes")?;
    let recorded = server.under_load(&Redis { address })?;
    assert!(
        recorded.connections > u64::from(SHAPE.clients),
        "nobody noticed the kills"
    );
    checker::check(&recorded.history).during("redis")
}

#[test]
fn redis_that_forgets_is_caught() -> Outcome<()> {
    if !has_redis() {
        skip("redis_that_forgets_is_caught", "no redis-server");
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let address = loopback()?;
    let mut server = redis(&scratch, address, "no")?;
    let recorded = server.under_load(&Redis { address })?;
    match checker::check(&recorded.history) {
        Err(Violation::NoOrder { .. }) => Ok(()),
        other => Err(Failure::new(format!("a loss was not caught: {other:?}"))),
    }
}

/// The newest of Debian's PostgreSQL servers, with the user that may run it.
fn postgresql() -> Option<(PathBuf, u32, u32)> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let newest = versions
        .filter_map(|entry| Some(entry.ok()?.path()))
        .max()?;
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let user = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut ids = user.split(':').skip(2).map(|id| id.parse().ok());
    Some((newest.join("bin"), ids.next()??, ids.next()??))
}

#[test]
fn postgresql_is_strictly_serializable() -> Outcome<()> {
    let test = "postgresql_is_strictly_serializable";
    let Some((programs, user, group)) = postgresql() else {
        skip(test, "no PostgreSQL server");
        return Ok(());
    };
    let scratch = Scratch::new()?;
    if let Err(error) = std::os::unix::fs::chown(scratch.path(), Some(user), Some(group)) {
        skip(
            test,
            &format!("only root can become the user postgres: {error}"),
        );
        return Ok(());
    }
    let data = scratch.join("data");
    let log = File::create(scratch.join("log")).during("the server's log")?;
    let initdb = Command::new(programs.join("initdb"))
        .args(["--auth=trust", "--username=postgres", "--no-sync", "-D"])
        .arg(&data)
        .current_dir(scratch.path())
        .uid(user)
        .gid(group)
        .output()
        .during("initdb")?;
    if !initdb.status.success() {
        return Err(Failure::new(String::from_utf8_lossy(&initdb.stderr)));
    }
    let address = loopback()?;
    let sockets = scratch.path().to_owned();
    let mut server = Server::start(address, move || {
        let mut command = Command::new(programs.join("postgres"));
        command.arg("-D").arg(&data).arg("-k").arg(&sockets);
        command.args(["-h", "127.0.0.1", "-p", &address.port().to_string()]);
        command.current_dir(&sockets).uid(user).gid(group);
        if let Ok(log) = log.try_clone() {
            command.stderr(log);
        }
        command
    })?;
    let service = PostgreSql {
        address,
        keys: SHAPE.keys,
    };
    // It listens before it has recovered.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = service.connect() {
        if Instant::now() > deadline {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let recorded = server.under_load(&service)?;
    assert!(
        recorded.connections > u64::from(SHAPE.clients),
        "nobody noticed the kills"
    );
    checker::check(&recorded.history).during("PostgreSQL")
}
