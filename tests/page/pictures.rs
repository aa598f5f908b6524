//! The pictures of the page, of a plant with healthy and with failing devices.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, date_time_ymd};
use tlsidecar::config::{
    BackendAddress, CertificateFiles, ClientAuth, ClientTrust, Config, ListenerConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, interval};

use super::{named, strict};
use crate::support::backend::nobody;
use crate::support::browser::OpenPage;
use crate::support::certs::Wish;
use crate::support::client::{Session, say_and_hear};
use crate::support::command::run;
use crate::support::proxy::{config, listener};
use crate::support::{Authority, Backend, Device, Pair, Proxy, eventually};

/// A plant for the pictures: three listeners, with healthy and with failing devices.
struct Plant {
    servers: Authority,
    devices: Authority,
    /// The certificate of a device that has not been renewed.
    late: Pair,
    proxy: Proxy,
    _backends: [Backend; 2],
    held: Vec<Session>,
}

impl Plant {
    async fn new(dir: &Path) -> Self {
        let (servers, devices) =
            (Authority::new("Plant 7 Server CA"), Authority::new("Plant 7 Device CA"));
        let backends = [Backend::echo().await, Backend::echo().await];
        let down = nobody().to_string().parse::<BackendAddress>().unwrap();
        let pair = |name: &str, past: u64, left: u64| {
            let days = |n: u64| Duration::from_secs(n * 86_400);
            let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_before = date_time_ymd(1970, 1, 1) + (today - days(past));
            params.not_after = date_time_ymd(1970, 1, 1) + (today + days(left));
            placed(&servers.sign(name, &params), dir, name)
        };
        let mqtt = listener(backends[0].config(), &pair("mqtt", 20, 70));
        let mut mqtt = ListenerConfig { name: "mqtt".to_owned(), ..mqtt };
        let trust = ClientTrust::new(devices.ca());
        mqtt.tls.client_auth = ClientAuth::Optional(trust);
        mqtt.limits.max_connections = Some(2000);
        let mut modbus =
            strict("modbus", backends[1].config(), &pair("modbus", 100, 265), &devices);
        modbus.limits.max_connections = Some(40);
        if let ClientAuth::Required(trust) = &mut modbus.tls.client_auth {
            trust.crls = vec![dir.join("devices.crl")];
            fs::copy(devices.dir().join("devices.crl"), &trust.crls[0]).unwrap();
        }
        let historian = listener(down, &pair("historian", 84, 6));
        let historian = ListenerConfig { name: "historian".to_owned(), ..historian };
        let whole = config(mqtt.clone());
        let proxy = Proxy::on(Config { listeners: vec![mqtt, modbus, historian], ..whole }, None);
        let wish = Wish { years: (2020, 2022), ..Wish::of_device(&["plc-12"]) };
        let late = devices.issue("late", &wish);
        Self { servers, devices, late, proxy, _backends: backends, held: Vec::new() }
    }

    fn at(&self, listener: usize) -> SocketAddr {
        self.proxy.app.listeners[listener].1
    }

    /// Connects one healthy device.
    async fn connect_healthy(&mut self, listener: usize, name: &str, from: u8, most: usize) {
        let device = Device::showing(&self.servers, &named(&self.devices, "known", name));
        let tcp = dial(self.at(listener), from).await;
        let mut session = device.connect_over(tcp).await.unwrap();
        if say_and_hear(&mut session, b"reading").await.is_ok() {
            self.held.push(session);
        }
        if self.held.len() > most {
            let mut oldest = self.held.remove(0);
            oldest.shutdown().await.unwrap();
        }
    }

    /// Makes the connections of one step of the simulation.
    async fn step(&mut self, n: u64) {
        let every = |turns| n.is_multiple_of(turns);
        let busy = n % 97 < 40;
        let speaking = n as usize % self.held.len().max(1);
        if let Some(session) = self.held.get_mut(speaking) {
            // The session of a device that has lost its power has ended.
            let _ended = say_and_hear(session, &[b'.'; 900]).await;
        }
        if busy || every(3) {
            self.connect_healthy(0, &format!("sensor-{}", n % 120), (n % 60) as u8 + 10, 60).await;
        }
        if every(9) {
            self.connect_healthy(1, &format!("plc-{}", n % 8), 90 + (n % 8) as u8, 60).await;
        }
        if every(14) {
            let mut tcp = dial(self.at(0), 23).await;
            tcp.write_all(b"\x10\x12\0\x04MQTT\x04").await.unwrap();
            let _closed = tcp.read(&mut [0; 16]).await;
        }
        if every(6) && n % 200 > 120 {
            let stranger = Device::new(&Authority::new("last year's"));
            let tcp = dial(self.at(0), 31 + (n % 3) as u8).await;
            assert!(stranger.connect_over(tcp).await.is_err());
        }
        if every(26) {
            let nameless = Device::new(&self.servers);
            let mut refused = nameless.connect_over(dial(self.at(1), 44).await).await.unwrap();
            let _closed = refused.read(&mut [0; 1]).await;
        }
        if every(17) {
            let late = Device::showing(&self.servers, &self.late);
            let mut refused = late.connect_over(dial(self.at(1), 45).await).await.unwrap();
            let _closed = refused.read(&mut [0; 1]).await;
        }
        if every(40) {
            let gateway = Device::new(&self.servers);
            let mut refused = gateway.connect_over(dial(self.at(2), 70).await).await.unwrap();
            let _closed = refused.read(&mut [0; 1]).await;
        }
        if every(31) {
            self.connect_healthy(0, "pump-7.hall-2.plant.example", 52, 60).await;
            // It loses power: no close_notify, and a reset.
            if let Some(session) = self.held.pop() {
                let tcp = session.into_inner().0;
                tcp.set_zero_linger().unwrap();
            }
        }
    }
}

/// Copies a certificate to a directory with a realistic name.
fn placed(pair: &Pair, dir: &Path, name: &str) -> Pair {
    let files = CertificateFiles {
        cert: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
    };
    fs::copy(&pair.files.cert, &files.cert).unwrap();
    fs::copy(&pair.files.key, &files.key).unwrap();
    Pair { files }
}

/// Connects from 127.0.0.`from`.
async fn dial(address: SocketAddr, from: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
    let tcp = socket.connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "draws docs/page*.png, in a quarter of an hour or TLSIDECAR_PICTURE_SECONDS"]
async fn the_pictures_of_the_page_are_drawn() {
    let dir = std::env::temp_dir().join("plant-7");
    fs::create_dir_all(&dir).unwrap();
    let mut plant = Plant::new(&dir).await;
    let seconds = std::env::var("TLSIDECAR_PICTURE_SECONDS");
    let seconds = seconds.map_or(900, |seconds| seconds.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut turns = interval(Duration::from_millis(300));
    for n in 0.. {
        turns.tick().await;
        plant.step(n).await;
        if Instant::now() > until {
            break;
        }
    }
    let url = format!("http://{}/", plant.proxy.app.admin.unwrap());
    let mut page = OpenPage::open(&url).await;
    // Throughput is the difference of two answers.
    page.until("document.getElementById('tiles').innerText.includes('B/s')").await;
    page.until("document.querySelectorAll('#sessions tr').length > 10").await;
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs");
    for (name, dark, width, height) in [
        ("page.png", false, 1280, None),
        ("page-dark.png", true, 1280, None),
        // The README shows the upper part, at a width at which it can be read.
        ("page-top.png", false, 1000, Some(760)),
        ("page-phone.png", false, 390, Some(1500)),
    ] {
        let file = docs.join(name);
        page.picture(dark, width, height, &file).await;
        // A page has few colours.
        let mut fewer = Command::new("pngquant");
        fewer.args(["--force", "--strip", "--output"]).arg(&file).arg("64").arg(&file);
        let (good, text) = run(fewer).await;
        assert!(good, "{text}");
    }
    drop(page);
    plant.held.clear();
    eventually("all have left", || plant.proxy.text().matches("connections_active{").count() == 3)
        .await;
    fs::remove_dir_all(dir).unwrap();
}
