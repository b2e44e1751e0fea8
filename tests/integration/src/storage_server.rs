//! A storage server that two hosts reach, each by a mount of its own.
//!
//! Does: serve one image to any number of clients, each through an NBD server that keeps what the
//! client has not flushed to itself, and mount it for the client. Does not: lock: a lock that one
//! client takes is not seen by the others.
//!
//! Invariant: what a client wrote and did not flush is seen by nobody else, and is gone when the
//! client is dropped. One kernel's page cache is not shared either: each mount has its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome, While};
use crate::scratch::Scratch;

const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// One client of the server.
#[derive(Debug)]
pub struct StorageClient {
    server: Child,
    mount: Child,
    directory: PathBuf,
}

impl StorageClient {
    /// What is missing on this host, if something is.
    pub fn missing() -> Option<&'static str> {
        for (program, what) in [("nbdkit", "no nbdkit"), ("nbdfuse", "no nbdfuse")] {
            if Command::new(program).arg("--version").output().is_err() {
                return Some(what);
            }
        }
        (!Path::new("/dev/fuse").exists()).then_some("no /dev/fuse")
    }

    /// Serves `image` to the client `name`, and mounts it.
    pub fn new(scratch: &Scratch, image: &Path, name: &str) -> Outcome<Self> {
        let socket = scratch.join(format!("{name}.sock"));
        let directory = scratch.join(name);
        std::fs::create_dir(&directory).during(directory.display())?;
        // The cache is the client's: what it has not flushed goes with it.
        let server = Command::new("nbdkit")
            .args(["--foreground", "--exit-with-parent", "--filter=cache"])
            .arg("--unix")
            .arg(&socket)
            .arg("file")
            .arg(image)
            .arg("cache=writeback")
            .stdin(Stdio::null())
            .spawn()
            .during("nbdkit")?;
        let mut client = StorageClient {
            server,
            mount: Command::new("true").spawn().during("true")?,
            directory,
        };
        until("nbdkit listens", || socket.exists())?;
        client.mount.wait()?;
        client.mount = Command::new("nbdfuse")
            .arg(client.path())
            .arg("--unix")
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .during("nbdfuse")?;
        let path = client.path();
        until("nbdfuse mounts", || path.exists())?;
        Ok(client)
    }

    /// The image, as the client sees it.
    pub fn path(&self) -> PathBuf {
        self.directory.join("disk.img")
    }

    /// A shell's command that drops it, and what it has not flushed.
    pub fn drop_command(&self) -> String {
        format!("kill -9 {}", self.server.id())
    }
}

impl Drop for StorageClient {
    fn drop(&mut self) {
        // Each may be gone already.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.directory)
            .output();
        for child in [&mut self.mount, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn until(what: &str, holds: impl Fn() -> bool) -> Outcome<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return Err(Failure::new(format!("waited in vain: {what}")));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
