//! A disk that is full while files are replaced.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::certs::Wish;
use crate::support::client::Session;
use crate::support::command::{has, skipped};
use crate::support::process::by_shell;
use crate::support::{Authority, Backend, Device, Pair, Sidecar, file};

/// Room for the certificate and the key, one page each, and for two more.
const ROOM: &str = "16k";

/// Starts a sidecar in a mount namespace in which `dir` is a small disk with the files of a pair. Returns the directory
/// as this process sees it.
fn on_a_small_disk(
    authority: &Authority,
    dir: &Path,
    pair: &Pair,
    text: &str,
) -> (Sidecar, PathBuf) {
    let copy = |path: &Path| format!("cp {} {}", path.display(), dir.display());
    let script = format!(
        "mount -t tmpfs -o size={ROOM} tmpfs {} && {} && {} && exec \"$@\"",
        dir.display(),
        copy(&pair.files.cert),
        copy(&pair.files.key)
    );
    let mut command = by_shell(&format!("exec unshare --mount sh -c '{script}' sh \"$@\""));
    command.arg("--config").arg(file::write(authority.dir(), text));
    let sidecar = Sidecar::run(command);
    let seen = format!("/proc/{}/root{}", sidecar.pid(), dir.display());
    (sidecar, seen.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_a_full_disk_has_cut_is_not_loaded_and_a_whole_one_is() {
    let mounts = ["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"];
    if !has("unshare") || !Command::new("unshare").args(mounts).status().unwrap().success() {
        skipped("a disk cannot be mounted: not root");
        return;
    }
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let (dir, pair) = (authority.dir().join("disk"), authority.server());
    std::fs::create_dir(&dir).unwrap();
    let text = file::text(backend.address, &pair, "");
    let text = ["server.crt", "server.key"].iter().fold(text, |text, name| {
        let (old, new) = (authority.dir().join(name), dir.join(name));
        text.replace(old.to_str().unwrap(), new.to_str().unwrap())
    });
    let (sidecar, disk) = on_a_small_disk(&authority, &dir, &pair, &text);
    let device = Device::new(&authority);
    let before = device.echo(sidecar.address).await.unwrap();
    let shown = |session: &Session| session.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    // A program writes in place: it empties the file, and then the disk has no room for the new content.
    let wish = Wish { serial: 77, ..Wish::default() };
    let (chain, key) = authority.issue_pem(&wish);
    let mut emptied = File::create(disk.join("server.key")).unwrap();
    let fills = std::fs::write(disk.join("other"), [0; 64 * 1024]);
    assert_eq!(fills.unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(emptied.write_all(key.as_bytes()).unwrap_err().kind(), ErrorKind::StorageFull);
    drop(emptied);
    let (_, report) = sidecar.ask("POST", "/reload").unwrap();
    assert!(report.contains("server.key"), "{report}");
    assert_eq!(sidecar.count("tlsidecar_reload_failing"), 1);
    let meanwhile = device.echo(sidecar.address).await.unwrap();
    assert_eq!(shown(&meanwhile), shown(&before));
    // Somebody makes room, and writes again.
    std::fs::remove_file(disk.join("other")).unwrap();
    std::fs::write(disk.join("server.key"), key).unwrap();
    std::fs::write(disk.join("server.crt"), chain).unwrap();
    sidecar.ask("POST", "/reload").unwrap();
    assert_eq!(sidecar.count("tlsidecar_reload_failing"), 0);
    let after = device.echo(sidecar.address).await.unwrap();
    assert_ne!(shown(&after), shown(&before));
}
