//! The parts of the hot path, one case each, for the two programs that measure them.
//!
//! A case works in turns. [`Work::prepare`] creates the device's input of a turn (records, ClientHellos) in
//! advance, so that a turn contains only the proxy's work. All futures are polled by hand over sockets in
//! memory, on one thread: no scheduler, no kernel.

use std::fs;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tlsidecar::proxy::bench::{self, Server, Session};
use tokio_rustls::rustls::ClientConfig;

use crate::device::{self, Device};
use crate::wire::Wire;

/// A measured part.
pub struct Case {
    pub name: &'static str,
    /// Bytes of plaintext that a turn moves, or the length of the message that it parses.
    pub bytes: usize,
    pub setup: fn(&World, usize) -> Box<dyn Work>,
}

/// A prepared case.
pub trait Work {
    /// Creates the input of this many turns.
    fn prepare(&mut self, turns: usize);
    /// Runs one turn.
    fn turn(&mut self);
}

/// Every case.
pub const CASES: &[Case] = &[
    Case { name: "open 64 B", bytes: 64, setup: Open::setup },
    Case { name: "open 1 KiB", bytes: 1024, setup: Open::setup },
    Case { name: "open 16 KiB", bytes: 16 * 1024, setup: Open::setup },
    Case { name: "open 64 KiB", bytes: 64 * 1024, setup: Open::setup },
    Case { name: "seal 64 B", bytes: 64, setup: Seal::setup },
    Case { name: "seal 1 KiB", bytes: 1024, setup: Seal::setup },
    Case { name: "seal 16 KiB", bytes: 16 * 1024, setup: Seal::setup },
    Case { name: "seal 64 KiB", bytes: 64 * 1024, setup: Seal::setup },
    Case { name: "ClientHello look", bytes: 0, setup: Look::setup },
    Case { name: "handshake, to our flight", bytes: 0, setup: Flight::setup },
    Case { name: "handshake, from Finished", bytes: 0, setup: Finish::setup },
    Case { name: "relay turn, 128 B", bytes: 2 * 128, setup: Turn::setup },
];

/// Common state of all cases: a server, and the configuration of its devices.
#[derive(Clone)]
pub struct World {
    server: Rc<Server>,
    devices: Arc<ClientConfig>,
}

type Accepting = Pin<Box<dyn Future<Output = Session<Wire>>>>;

impl World {
    /// Creates a server with a new certificate (P-256), and devices that trust it.
    ///
    /// Needs a runtime with time: the server's deadlines are timers.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is a temporary directory");
        let (cert, key) = (dir.path().join("crt"), dir.path().join("key"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .expect("certificates can be made");
        fs::write(&cert, made.cert.pem()).expect("the directory is ours");
        fs::write(&key, made.signing_key.serialize_pem()).expect("the directory is ours");
        let server = Rc::new(Server::new(&cert, &key));
        Self { server, devices: device::config(made.cert.der().clone()) }
    }

    /// A device that has sent its ClientHello, and a server that has not read it yet.
    fn greeting(&self) -> (Device, Wire, Accepting) {
        let mut device = Device::new(&self.devices);
        let wire = Wire::default();
        wire.say(vec![device.say()]);
        wire.arrive();
        let (server, io) = (Rc::clone(&self.server), wire.clone());
        (device, wire, Box::pin(async move { server.accept(io).await }))
    }

    /// A device that has sent its Finished, and a server that has not read it yet.
    fn finishing(&self) -> (Device, Wire, Accepting) {
        let (mut device, wire, mut accepting) = self.greeting();
        assert!(walk(accepting.as_mut()).is_pending(), "a server waits for the device's Finished");
        device.hear(&wire.hear());
        wire.say(vec![device.say()]);
        wire.arrive();
        (device, wire, accepting)
    }

    /// An established session.
    fn session(&self) -> (Device, Wire, Session<Wire>) {
        let (mut device, wire, mut accepting) = self.finishing();
        let Poll::Ready(session) = walk(accepting.as_mut()) else {
            unreachable!("a handshake is over with the device's Finished")
        };
        // Reads the ticket.
        device.hear(&wire.hear());
        (device, wire, session)
    }
}

/// Maximum number of polls that a handshake needs for one flight of the device.
const TURNS: usize = 6;

/// Polls a handshake until it waits for the device. It yields between two expensive records.
fn walk<T>(mut accepting: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    for _ in 0..TURNS - 1 {
        if let Poll::Ready(session) = poll(accepting.as_mut()) {
            return Poll::Ready(session);
        }
    }
    poll(accepting)
}

/// Polls once. There is no waker: the next step is always known.
fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Reads and opens records of the device.
struct Open {
    device: Device,
    wire: Wire,
    session: Session<Wire>,
    plain: Vec<u8>,
}

impl Open {
    fn setup(world: &World, bytes: usize) -> Box<dyn Work> {
        let (device, wire, session) = world.session();
        Box::new(Self { device, wire, session, plain: vec![7; bytes] })
    }
}

impl Work for Open {
    fn prepare(&mut self, turns: usize) {
        self.wire.say((0..turns).map(|_| self.device.seal(&self.plain)).collect());
    }

    fn turn(&mut self) {
        self.wire.arrive();
        let mut cx = Context::from_waker(Waker::noop());
        let mut opened = 0;
        // A read is 64 KiB. The records of this much plaintext are longer.
        while opened < self.plain.len() {
            let Poll::Ready(more) = self.session.poll_receive(&mut cx) else {
                unreachable!("the records have come whole")
            };
            opened += more;
        }
    }
}

/// Seals plaintext for the device and writes it.
struct Seal {
    wire: Wire,
    session: Session<Wire>,
    plain: Vec<u8>,
}

impl Seal {
    fn setup(world: &World, bytes: usize) -> Box<dyn Work> {
        let (mut device, wire, session) = world.session();
        let mut seal = Self { wire, session, plain: vec![7; bytes] };
        seal.turn();
        assert_eq!(device.hear(&seal.wire.hear()), bytes, "the device gets what was sealed");
        seal.wire.forget();
        Box::new(seal)
    }
}

impl Work for Seal {
    fn prepare(&mut self, _turns: usize) {}

    fn turn(&mut self) {
        self.session.send(&mut Context::from_waker(Waker::noop()), &self.plain);
    }
}

/// Reads and parses a complete ClientHello. Each turn has a new one, because rustls shuffles extensions.
struct Look {
    devices: Arc<ClientConfig>,
    hellos: Vec<Vec<u8>>,
    next: usize,
}

impl Look {
    fn setup(world: &World, _bytes: usize) -> Box<dyn Work> {
        Box::new(Self { devices: Arc::clone(&world.devices), hellos: Vec::new(), next: 0 })
    }
}

impl Work for Look {
    fn prepare(&mut self, turns: usize) {
        self.hellos = (0..turns).map(|_| Device::new(&self.devices).say()).collect();
        self.next = 0;
    }

    fn turn(&mut self) {
        let mut looking = std::pin::pin!(bench::look(&self.hellos[self.next]));
        let Poll::Ready(name) = poll(looking.as_mut()) else {
            unreachable!("the message is whole")
        };
        assert_eq!(name.as_deref(), Some("localhost"));
        self.next += 1;
    }
}

/// From the ClientHello of a full handshake to the server's complete flight: key exchange and signature.
struct Flight {
    world: World,
    greeting: Vec<Accepting>,
    flown: Vec<Accepting>,
}

impl Flight {
    fn setup(world: &World, _bytes: usize) -> Box<dyn Work> {
        Box::new(Self { world: world.clone(), greeting: Vec::new(), flown: Vec::new() })
    }
}

impl Work for Flight {
    fn prepare(&mut self, turns: usize) {
        self.flown = Vec::with_capacity(turns);
        self.greeting = (0..turns).map(|_| self.world.greeting().2).collect();
    }

    fn turn(&mut self) {
        let mut accepting = self.greeting.pop().expect("it was prepared");
        assert!(walk(accepting.as_mut()).is_pending(), "a server waits for the device's Finished");
        // Freeing it belongs to the next half.
        self.flown.push(accepting);
    }
}

/// From the device's Finished to the server's ticket.
struct Finish {
    world: World,
    finishing: Vec<Accepting>,
    finished: Vec<Session<Wire>>,
}

impl Finish {
    fn setup(world: &World, _bytes: usize) -> Box<dyn Work> {
        Box::new(Self { world: world.clone(), finishing: Vec::new(), finished: Vec::new() })
    }
}

impl Work for Finish {
    fn prepare(&mut self, turns: usize) {
        self.finished = Vec::with_capacity(turns);
        self.finishing = (0..turns).map(|_| self.world.finishing().2).collect();
    }

    fn turn(&mut self) {
        let mut accepting = self.finishing.pop().expect("it was prepared");
        let Poll::Ready(session) = walk(accepting.as_mut()) else {
            unreachable!("a handshake is over with the device's Finished")
        };
        self.finished.push(session);
    }
}

/// Relays a message of the device to the backend, and the backend's answer to the device.
struct Turn {
    device: Device,
    client: Wire,
    backend: Wire,
    relay: Pin<Box<dyn Future<Output = ()>>>,
    plain: Vec<u8>,
}

impl Turn {
    fn setup(world: &World, bytes: usize) -> Box<dyn Work> {
        let (device, client, session) = world.session();
        let backend = Wire::default();
        backend.forget();
        client.forget();
        let relay = Box::pin(world.server.relay(session, backend.clone()));
        Box::new(Self { device, client, backend, relay, plain: vec![7; bytes / 2] })
    }
}

impl Work for Turn {
    fn prepare(&mut self, turns: usize) {
        self.client.say((0..turns).map(|_| self.device.seal(&self.plain)).collect());
        self.backend.say(vec![self.plain.clone(); turns]);
    }

    fn turn(&mut self) {
        let (to_backend, to_client) = (self.backend.taken(), self.client.taken());
        self.client.arrive();
        assert!(poll(self.relay.as_mut()).is_pending(), "a relay lasts");
        assert_eq!(self.backend.taken() - to_backend, self.plain.len());
        self.backend.arrive();
        assert!(poll(self.relay.as_mut()).is_pending(), "a relay lasts");
        assert!(self.client.taken() - to_client > self.plain.len());
    }
}
