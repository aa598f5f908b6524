//! Limits of inotify(7) that are used up: files are polled instead.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::certs::Wish;
use crate::support::client::Session;
use crate::support::command::{has, skipped};
use crate::support::process::by_shell;
use crate::support::{Authority, Backend, Device, Sidecar, file};

/// A sidecar in a user namespace, which has limits of its own (namespaces(7)).
struct Scene {
    sidecar: Sidecar,
    authority: Authority,
    _backend: Backend,
}

impl Scene {
    /// Starts it with this limit, a file of `/proc/sys/user`. Returns none if this machine does not allow that.
    async fn new(limit: &str, most: usize) -> Option<Self> {
        let set = format!("echo {most} > /proc/sys/user/{limit}");
        let namespace = ["--user", "--map-root-user", "sh", "-c"];
        let allowed = |()| Command::new("unshare").args(namespace).arg(&set).output().unwrap();
        if !has("unshare") || !allowed(()).status.success() {
            skipped("a user namespace with limits of its own cannot be made");
            return None;
        }
        let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
        let text = file::text(backend.address, &authority.server(), "");
        let script =
            format!("exec unshare {} '{set} && exec \"$@\"' sh \"$@\"", namespace.join(" "));
        let mut command = by_shell(&script);
        command.arg("--config").arg(file::write(authority.dir(), &text));
        Some(Self { sidecar: Sidecar::run(command), authority, _backend: backend })
    }

    async fn connected(&self) -> Session {
        Device::new(&self.authority).echo(self.sidecar.address).await.unwrap()
    }

    /// Replaces the server's certificate and returns the new one.
    fn renew(&self) -> Vec<u8> {
        let pair = self.authority.issue("server", &Wish { serial: 77, ..Wish::default() });
        pair.load().0[0].to_vec()
    }

    async fn shown(&self) -> Vec<u8> {
        self.connected().await.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    fn warnings(&self) -> usize {
        self.sidecar.log().matches("cannot watch").count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_inotify_files_are_read_on_request_and_that_is_logged_once() {
    for (limit, most) in [("max_inotify_instances", 0), ("max_inotify_watches", 1)] {
        let Some(mut scene) = Scene::new(limit, most).await else { return };
        // The thread that watches starts beside the listeners.
        scene.sidecar.until("it cannot watch", |log| log.contains("cannot watch"));
        let new = scene.renew();
        let (status, report) = scene.sidecar.ask("POST", "/reload").unwrap();
        assert_eq!(status, 200, "{report}");
        assert_eq!(scene.shown().await, new);
        assert_eq!(scene.warnings(), 1, "{}", scene.sidecar.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn without_inotify_a_new_certificate_is_found_within_a_minute() {
    let Some(scene) = Scene::new("max_inotify_instances", 0).await else { return };
    let (new, start) = (scene.renew(), Instant::now());
    while scene.shown().await != new {
        assert!(start.elapsed() < Duration::from_secs(70), "{}", scene.sidecar.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // The machine's own limit is as it was.
    assert_ne!(fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap(), "0\n");
}
