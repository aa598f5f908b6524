//! Does the demo do what the README says?

use std::process::Command;

use crate::support::command::run;
use crate::support::process::binary;
use crate::support::{Sidecar, eventually};

/// A demo on free ports, with its certificates in `dir`.
fn demo(dir: &std::path::Path) -> Sidecar {
    let mut command = binary();
    command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--dir"]).arg(dir);
    Sidecar::run(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_serves_the_python_device_and_takes_up_a_renewed_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = demo(dir.path());
    let device = |ca: &str| {
        let mut command = Command::new("python3");
        command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("examples/device.py");
        command.args(["--port", &demo.address.port().to_string(), "--ca", ca]);
        command
    };
    let ca = dir.path().join("ca.crt").display().to_string();
    let (good, text) = run(device(&ca)).await;
    assert!(good && text.contains("Hello, server!"), "{text}");
    let mut renew = binary();
    renew.args(["demo", "--renew", "--dir"]).arg(dir.path());
    assert!(run(renew).await.0);
    let swapped = || demo.count("tlsidecar_reloads_total{outcome=\"swapped\"}") > 0;
    eventually("the new certificate is in force", swapped).await;
    let (good, text) = run(device(&ca)).await;
    assert!(good, "{text}");
    demo.signal("INT");
    assert_eq!(demo.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_demo_keeps_the_certificates_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    drop(demo(dir.path()));
    let before = std::fs::read(dir.path().join("server.crt")).unwrap();
    drop(demo(dir.path()));
    assert_eq!(std::fs::read(dir.path().join("server.crt")).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_demo_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let demo = demo(dir.path());
    for key in ["ca.key", "server.key", "device.key"] {
        let mode = std::fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    assert!(!demo.log().contains("WARN"), "{}", demo.log());
}
