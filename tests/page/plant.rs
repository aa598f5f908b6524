//! A plant for the pictures of the page: three listeners, with healthy and with failing devices.

use std::convert::Infallible;
use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, date_time_ymd};
use tlsidecar::config::{
    BackendAddress, CertificateFiles, ClientAuth, ClientTrust, Config, ListenerConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::interval;

use super::strict;
use crate::support::backend::{echo, nobody};
use crate::support::certs::{Wish, replace};
use crate::support::client::{Session, say_and_hear};
use crate::support::proxy::{config, listener};
use crate::support::{Authority, Backend, Device, Pair, Proxy, eventually};

/// The listener of sensors, whose backend fails in [`Plant::fail`].
const MQTT: usize = 0;

/// The listener that requires certificates.
const MODBUS: usize = 1;

/// The listener without a backend.
const HISTORIAN: usize = 2;

/// The most open sessions of each listener, below their limits.
const MAX_HELD: [usize; 3] = [50, 12, 0];

/// A plant, and the directory with its certificates.
pub(super) struct Plant {
    servers: Authority,
    devices: Authority,
    /// The certificate of a device that has not been renewed.
    late: Pair,
    proxy: Proxy,
    dir: PathBuf,
    broker: Option<Backend>,
    /// Ends the sessions of the broker.
    broker_fails: watch::Sender<bool>,
    _registers: Backend,
    held: Vec<(usize, Session)>,
    steps: u64,
}

impl Plant {
    /// Starts it with certificates in `dir`, which the pictures show.
    pub(super) async fn new(dir: &Path) -> Self {
        let (servers, devices) =
            (Authority::new("Plant 7 Server CA"), Authority::new("Plant 7 Device CA"));
        let (broker_fails, fails) = watch::channel(false);
        let broker = Backend::serving(move |tcp| {
            let mut fails = fails.clone();
            async move {
                tokio::select! {
                    () = echo(tcp) => {}
                    _ = fails.wait_for(|fails| *fails) => {}
                }
            }
        })
        .await;
        let registers = Backend::echo().await;
        let backends = [broker.config(), registers.config()];
        let config = configured(backends, &servers, &devices, dir);
        let proxy = Proxy::on(config, None);
        let wish = Wish { years: (2020, 2022), ..Wish::of_device(&["plc-12"]) };
        let late = devices.issue("late", &wish);
        let (dir, broker) = (dir.to_owned(), Some(broker));
        Self {
            servers,
            devices,
            late,
            proxy,
            dir,
            broker,
            broker_fails,
            _registers: registers,
            held: Vec::new(),
            steps: 0,
        }
    }

    /// Returns the address of its status page.
    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.proxy.app.admin.unwrap())
    }

    /// Does some work while the devices of the plant connect, with one step in this time.
    pub(super) async fn during<T>(&mut self, pace: Duration, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            never = self.run(pace) => match never {},
        }
    }

    async fn run(&mut self, pace: Duration) -> Infallible {
        let mut turns = interval(pace);
        loop {
            turns.tick().await;
            self.step(self.steps).await;
            self.steps += 1;
        }
    }

    /// Ends the backend of the first listener, and makes a renewed certificate unreadable.
    pub(super) async fn fail(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.end().await;
        }
        self.broker_fails.send_replace(true);
        replace(&self.dir.join("modbus.crt"), "-----BEGIN CERTIFICATE-----\n");
        self.held.retain(|(listener, _)| *listener != MQTT);
        eventually("the sessions of the broker end", || {
            self.proxy.count("tlsidecar_connections_active{listener=\"mqtt\"}") == 0
        })
        .await;
        eventually("the reload fails", || self.proxy.reload_fails()).await;
    }

    /// Ends all sessions.
    pub(super) async fn end(mut self) {
        self.held.clear();
        let none = || self.proxy.text().matches("connections_active{").count() == 3;
        eventually("all have left", none).await;
    }

    fn at(&self, listener: usize) -> SocketAddr {
        self.proxy.app.listeners[listener].1
    }

    /// Connects one healthy device.
    async fn connect_healthy(&mut self, listener: usize, name: &str, from: u8) {
        let device = Device::showing(&self.servers, &self.devices.named("known", name));
        let tcp = dial(self.at(listener), from).await;
        let mut session = device.connect_over(tcp).await.unwrap();
        // Without its backend, the device is disconnected after the handshake.
        if say_and_hear(&mut session, b"reading").await.is_ok() {
            self.held.push((listener, session));
        }
        let held = self.held.iter().filter(|(of, _)| *of == listener).count();
        if held > MAX_HELD[listener] {
            let oldest = self.held.iter().position(|(of, _)| *of == listener).unwrap();
            let (_, mut oldest) = self.held.remove(oldest);
            oldest.shutdown().await.unwrap();
        }
    }

    /// Makes the connections of one step of the simulation.
    async fn step(&mut self, n: u64) {
        let every = |turns| n.is_multiple_of(turns);
        let busy = n % 97 < 40;
        let speaking = n as usize % self.held.len().max(1);
        if let Some((_, session)) = self.held.get_mut(speaking) {
            // The session of a device that has lost its power has ended.
            let _ended = say_and_hear(session, &[b'.'; 900]).await;
        }
        if busy || every(3) {
            self.connect_healthy(MQTT, &format!("sensor-{}", n % 120), (n % 60) as u8 + 10).await;
        }
        if every(9) {
            self.connect_healthy(MODBUS, &format!("plc-{}", n % 8), 90 + (n % 8) as u8).await;
        }
        if every(31) {
            self.connect_healthy(MQTT, "pump-7.hall-2.plant.example", 52).await;
            // It loses power: no close_notify, and a reset.
            if let Some((_, session)) = self.held.pop() {
                let tcp = session.into_inner().0;
                tcp.set_zero_linger().unwrap();
            }
        }
        self.step_of_failing(n).await;
    }

    /// Makes the connections of the devices that cannot connect.
    async fn step_of_failing(&self, n: u64) {
        let every = |turns| n.is_multiple_of(turns);
        if every(14) {
            let mut tcp = dial(self.at(MQTT), 23).await;
            tcp.write_all(b"\x10\x12\0\x04MQTT\x04").await.unwrap();
            let _closed = tcp.read(&mut [0; 16]).await;
        }
        if every(6) && n % 200 > 120 {
            let stranger = Device::new(&Authority::new("last year's"));
            let tcp = dial(self.at(MQTT), 31 + (n % 3) as u8).await;
            assert!(stranger.connect_over(tcp).await.is_err());
        }
        let nameless = Device::new(&self.servers);
        if every(26) {
            self.refused(&nameless, MODBUS, 44).await;
        }
        if every(17) {
            self.refused(&Device::showing(&self.servers, &self.late), MODBUS, 45).await;
        }
        if every(40) {
            self.refused(&nameless, HISTORIAN, 70).await;
        }
    }

    /// Connects a device that is disconnected after its part of the handshake.
    async fn refused(&self, device: &Device, listener: usize, from: u8) {
        let tcp = dial(self.at(listener), from).await;
        let mut refused = device.connect_over(tcp).await.unwrap();
        let _closed = refused.read(&mut [0; 1]).await;
    }
}

/// Returns the configuration of the three listeners.
fn configured(
    [broker, registers]: [BackendAddress; 2],
    servers: &Authority,
    devices: &Authority,
    dir: &Path,
) -> Config {
    let pair = |name: &str, past: u64, left: u64| {
        let days = |n: u64| Duration::from_secs(n * 86_400);
        let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(1970, 1, 1) + (today - days(past));
        params.not_after = date_time_ymd(1970, 1, 1) + (today + days(left));
        placed(&servers.sign(name, &params), dir, name)
    };
    let mqtt = listener(broker, &pair("mqtt", 20, 70));
    let mut mqtt = ListenerConfig { name: "mqtt".to_owned(), ..mqtt };
    mqtt.tls.client_auth = ClientAuth::Optional(ClientTrust::new(devices.ca()));
    mqtt.limits.max_connections = Some(2000);
    let mut modbus = strict("modbus", registers, &pair("modbus", 100, 265), devices);
    modbus.limits.max_connections = Some(40);
    if let ClientAuth::Required(trust) = &mut modbus.tls.client_auth {
        trust.crls = vec![dir.join("devices.crl")];
        fs::copy(devices.dir().join("devices.crl"), &trust.crls[0]).unwrap();
    }
    let down = nobody().to_string().parse::<BackendAddress>().unwrap();
    let historian = listener(down, &pair("historian", 84, 6));
    let historian = ListenerConfig { name: "historian".to_owned(), ..historian };
    let whole = config(mqtt.clone());
    Config { listeners: vec![mqtt, modbus, historian], ..whole }
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
