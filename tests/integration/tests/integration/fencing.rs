//! Primaries that are taken for dead and are not, with disks that both sides can write.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use integration::chain::{BOOT, CLONE, Chain, FAILOVER, halts};
use integration::ft_info::FtInfo;
use integration::installation::Installation;
use integration::namespaces::{Ground, Mount};
use integration::scratch::Scratch;
use integration::skips::skip;
use integration::storage_server::StorageClient;
use integration::{Failure, Outcome};

use super::disk::{check, image, judge, write, writer};

const FILES: usize = 12;

/// The primary is frozen while it writes, and its backup goes live.
fn freeze(chain: &mut Chain<'_>) -> Outcome<()> {
    chain.primary.console.expect("written-3-", BOOT)?;
    chain.primary.freeze()?;
    let backup = chain.backup.as_ref();
    let backup = backup.ok_or_else(|| Failure::new("there is no backup"))?;
    backup.await_ft("live", FAILOVER, |info| info.is_unprotected())?;
    Ok(())
}

/// The old primary goes on, finds that it lost, and writes no more than it had begun to.
fn thaw(chain: &mut Chain<'_>) -> Outcome<()> {
    chain.primary.thaw()?;
    halts(&mut chain.primary)?;
    chain.promote()?.kill()?;
    Ok(())
}

/// The frozen side keeps its lock on the image. The guest goes on without it, except for what the
/// old side may still write over.
#[test]
fn a_frozen_primary_does_no_harm_to_the_disk() -> Outcome<()> {
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let image = image(&scratch)?;
    let disk = format!("path={}", image.display());
    let mut chain = writer(&installation, &scratch, Ground::Loopback, &disk)?;
    chain.protect()?;
    write(&mut chain, FILES)?;
    freeze(&mut chain)?;
    if let Some(backup) = &mut chain.backup {
        backup.await_ft("waits for the fence", FAILOVER, |info| {
            info.json()["fencing"]["disks"] == 1
        })?;
        let read = "dd if=/dev/vda of=/dev/null bs=64k count=16 iflag=direct; echo read-$?-";
        backup.type_line(read)?;
        backup.console.expect("read-0-", BOOT)?;
    }
    thaw(&mut chain)?;
    let fenced = |info: &FtInfo| info.json()["fencing"].is_null();
    chain.primary.await_ft("is fenced", FAILOVER, fenced)?;
    let monitor = std::fs::read_to_string(chain.primary.events())?;
    let fencing = monitor.find("\"event\": \"fencing\"");
    let fenced = monitor.find("\"event\": \"fenced\"");
    assert!(fencing.is_some() && fencing < fenced, "{monitor}");
    judge(&mut chain.primary, FILES)?;
    check(&image)
}

/// An image on a server that both hosts mount for themselves: neither sees the other's lock, and
/// what a host has not flushed is lost with it. Without a fence there is no protection; with one
/// that drops the loser, nothing is missing.
#[test]
fn a_storage_server_drops_the_loser() -> Outcome<()> {
    let test = "a_storage_server_drops_the_loser";
    if let Some(why) = StorageClient::missing() {
        skip(test, why);
        return Ok(());
    }
    let may_mount = Command::new("unshare").args(["--mount", "true"]).status()?;
    if !may_mount.success() {
        skip(test, "no mount namespaces");
        return Ok(());
    }
    let installation = Installation::find()?;
    let scratch = Scratch::new()?;
    let image = image(&scratch)?;
    let clients = [
        StorageClient::new(&scratch, &image, "client-a")?,
        StorageClient::new(&scratch, &image, "client-b")?,
    ];
    let target = scratch.join("storage");
    std::fs::create_dir(&target)?;
    let mounts = [&clients[0], &clients[1]].map(|client| Mount {
        source: client.path().parent().unwrap_or(Path::new("/")).to_owned(),
        target: target.clone(),
    });
    let disk = format!("path={}", target.join("disk.img").display());
    let mut chain = writer(&installation, &scratch, Ground::Mounts(mounts), &disk)?;

    chain.offer()?;
    let refused = chain.primary.await_ft("refused", CLONE, |info| {
        info.is_unprotected() && info.json()["last_error"].to_string().contains("fence=exec")
    })?;
    assert!(
        refused.json()["last_error"]
            .to_string()
            .contains("not seen")
    );
    chain.backup = None;

    chain.fence = Some(format!("exec:{}", clients[0].drop_command()));
    chain.protect()?;
    write(&mut chain, FILES)?;
    freeze(&mut chain)?;
    if let Some(backup) = &chain.backup {
        // It goes on long before the old side thaws.
        backup.console.expect("written-6-", BOOT)?;
        let said = backup.errors.text();
        assert!(said.contains("the old side is fenced"), "{said}");
    }
    std::thread::sleep(Duration::from_millis(200));
    thaw(&mut chain)?;
    judge(&mut chain.primary, FILES)?;
    drop(clients);
    check(&image)
}
