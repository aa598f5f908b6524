//! Large revocation lists: their memory while they load, and the relay meanwhile.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::certs::{device, replace};
use crate::support::client::say_and_hear;
use crate::support::process::binary;
use crate::support::wait::PATIENCE;
use crate::support::{Authority, Backend, Device, Sidecar, file};

/// A process with one worker thread that requires certificates of a CA with a CRL.
struct Scene {
    servers: Authority,
    devices: Authority,
    crl: PathBuf,
    sidecar: Sidecar,
    _backend: Backend,
}

impl Scene {
    async fn new() -> Self {
        let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
        let backend = Backend::echo().await;
        let crl = devices.crl("devices.crl", &[66]);
        let (ca, pair) = (devices.ca(), servers.server());
        // Without `dumpable`, the peak of the memory cannot be reset.
        let keys = format!(
            "tls.client_auth = \"required\"\ntls.client_ca = {ca:?}\ntls.crls = [{crl:?}]\n\
             [process]\ndumpable = true\n"
        );
        let config = file::write(servers.dir(), &file::text(backend.address, &pair, &keys));
        let mut command = binary();
        command.arg("--config").arg(config).env("TOKIO_WORKER_THREADS", "1");
        Self { servers, devices, crl, sidecar: Sidecar::run(command), _backend: backend }
    }

    /// Returns whether the list with so many entries is active.
    fn has_loaded(&self, entries: u64) -> bool {
        let entries = format!("entries={entries} ");
        self.sidecar
            .log()
            .lines()
            .any(|line| line.contains("CRL changed") && line.contains(&entries))
    }

    /// Returns a value of the process's memory in bytes, by its name in proc_pid_status(5).
    fn memory(&self, name: &str) -> u64 {
        let status = format!("/proc/{}/status", self.sidecar.pid());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

/// Returns serial numbers of eight bytes.
fn serials(count: u64) -> Vec<u64> {
    (0..count).map(|number| (1 << 62) + number * 7919).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crl_of_4_mb_arrives_without_a_stall_of_the_relay() {
    let scene = Scene::new().await;
    let device = Device::showing(&scene.servers, &device(&scene.devices, 65));
    let mut session = device.echo(scene.sidecar.address).await.unwrap();
    let list = scene.devices.crl_pem(2, &serials(120_000));
    assert!(list.len() > 4 << 20);
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    replace(&scene.crl, &list);
    while !scene.has_loaded(120_000) {
        assert!(began.elapsed() < PATIENCE, "{}", scene.sidecar.log());
        let sent = Instant::now();
        say_and_hear(&mut session, b"21.5").await.unwrap();
        longest = longest.max(sent.elapsed());
    }
    let whole = began.elapsed();
    // A relay that waits for the list would be silent for almost the whole time.
    assert!(longest < whole / 3, "{longest:?} of {whole:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crl_needs_less_than_twice_its_size_while_it_is_loaded() {
    for is_pem in [true, false] {
        let scene = Scene::new().await;
        let list = scene.devices.crl_until(2060, 2, &serials(200_000));
        // Below jemalloc's `oversize_threshold`: see trust/certs/crl_files.rs.
        let list = if is_pem { list.pem().unwrap().into_bytes() } else { list.der().to_vec() };
        let (before, size) = (scene.memory("VmRSS"), list.len() as u64);
        std::fs::write(format!("/proc/{}/clear_refs", scene.sidecar.pid()), "5").unwrap();
        let new = scene.crl.with_extension("new");
        std::fs::write(&new, list).unwrap();
        std::fs::rename(new, &scene.crl).unwrap();
        crate::support::eventually("it is loaded", || scene.has_loaded(200_000)).await;
        let more = scene.memory("VmHWM") - before;
        assert!(more <= 2 * size, "{more} bytes more for a list of {size}, PEM: {is_pem}");
    }
}
