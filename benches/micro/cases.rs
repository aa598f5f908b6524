//! The cases: one for each part of the hot path, shared by the two programs that measure them.
//!
//! A case works in turns. The device's input for a turn (records, ClientHellos) is created before, by
//! [`Work::prepare`], so that a turn contains only the proxy's work. Futures are polled directly over sockets in
//! memory, on one thread, without a scheduler or the kernel.

use std::fs;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tlsidecar::proxy::bench::{self, BenchServer, BenchStream};
use tokio_rustls::rustls::ClientConfig;

use crate::device::{self, Device};
use crate::wire::Wire;

/// A measured part.
pub struct Case {
    pub name: &'static str,
    /// Bytes of plaintext that a turn moves, or of the message that it reads.
    pub bytes: usize,
    pub setup: fn(&World, usize) -> Box<dyn Work>,
}

/// A prepared case.
pub trait Work {
    /// Creates the input of `turns` turns.
    fn prepare(&mut self, turns: usize);
    /// Runs one turn.
    fn turn(&mut self);
}

/// All cases.
pub const CASES: &[Case] = &[
    Case { name: "open 64 B", bytes: 64, setup: Open::setup },
    Case { name: "open 1 KiB", bytes: 1024, setup: Open::setup },
    Case { name: "open 16 KiB", bytes: 16 * 1024, setup: Open::setup },
    Case { name: "open 64 KiB", bytes: 64 * 1024, setup: Open::setup },
    Case { name: "seal 64 B", bytes: 64, setup: Seal::setup },
    Case { name: "seal 1 KiB", bytes: 1024, setup: Seal::setup },
    Case { name: "seal 16 KiB", bytes: 16 * 1024, setup: Seal::setup },
    Case { name: "seal 64 KiB", bytes: 64 * 1024, setup: Seal::setup },
    Case { name: "open 64 B, rebuilt", bytes: 64, setup: Open::rebuilt },
    Case { name: "seal 64 B, rebuilt", bytes: 64, setup: Seal::rebuilt },
    Case { name: "ClientHello look", bytes: 0, setup: Look::setup },
    Case { name: "handshake, to our flight", bytes: 0, setup: Flight::setup },
    Case { name: "handshake, from Finished", bytes: 0, setup: Finish::setup },
    Case { name: "relay turn, 128 B", bytes: 2 * 128, setup: Turn::setup },
];

/// The shared parts of all cases: a server, and the configuration of its devices.
#[derive(Clone)]
pub struct World {
    server: Rc<BenchServer>,
    devices: Arc<ClientConfig>,
}

type Accepting = Pin<Box<dyn Future<Output = BenchStream<Wire>>>>;

impl World {
    /// Creates a server with a new P-256 certificate, and devices that trust it.
    ///
    /// Needs a runtime with timers, for the server's deadlines.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be created");
        let (cert, key) = (dir.path().join("crt"), dir.path().join("key"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .expect("certificates can be created");
        fs::write(&cert, made.cert.pem()).expect("the directory is writable");
        fs::write(&key, made.signing_key.serialize_pem()).expect("the directory is writable");
        let server = Rc::new(BenchServer::new(&cert, &key));
        Self { server, devices: device::config(made.cert.der().clone()) }
    }

    /// Returns a device that has sent its ClientHello, and a server that has not read it.
    fn hello_sent(&self) -> (Device, Wire, Accepting) {
        let mut device = Device::new(&self.devices);
        let wire = Wire::default();
        wire.script(vec![device.outgoing()]);
        wire.arrive();
        let (server, io) = (Rc::clone(&self.server), wire.clone());
        (device, wire, Box::pin(async move { server.accept(io).await }))
    }

    /// Returns a device that has sent its Finished, and a server that has not read it.
    fn finishing(&self) -> (Device, Wire, Accepting) {
        let (mut device, wire, mut accepting) = self.hello_sent();
        assert!(walk(accepting.as_mut()).is_pending(), "a server waits for the device's Finished");
        device.receive(&wire.take_written());
        wire.script(vec![device.outgoing()]);
        wire.arrive();
        (device, wire, accepting)
    }

    /// Returns an established session.
    fn session(&self) -> (Device, Wire, BenchStream<Wire>) {
        let (mut device, wire, mut accepting) = self.finishing();
        let Poll::Ready(session) = walk(accepting.as_mut()) else {
            unreachable!("a handshake is over with the device's Finished")
        };
        // The ticket.
        device.receive(&wire.take_written());
        (device, wire, session)
    }
}

/// Number of polls after which a handshake has processed one flight of the device.
const TURNS: usize = 6;

/// Polls a handshake until it waits for the device: it yields between two costly records.
fn walk<T>(mut accepting: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    for _ in 0..TURNS - 1 {
        if let Poll::Ready(session) = poll(accepting.as_mut()) {
            return Poll::Ready(session);
        }
    }
    poll(accepting)
}

/// Polls once. No wakers are needed: the order of the steps is fixed.
fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Reads and opens records of the device.
struct Open {
    device: Device,
    wire: Wire,
    session: BenchStream<Wire>,
    plain: Vec<u8>,
    /// The ciphers are dropped before each turn.
    is_rebuilt: bool,
}

impl Open {
    fn setup(world: &World, bytes: usize) -> Box<dyn Work> {
        Box::new(Self::new(world, bytes, false))
    }

    fn rebuilt(world: &World, bytes: usize) -> Box<dyn Work> {
        Box::new(Self::new(world, bytes, true))
    }

    fn new(world: &World, bytes: usize, is_rebuilt: bool) -> Self {
        let (device, wire, session) = world.session();
        Self { device, wire, session, plain: vec![7; bytes], is_rebuilt }
    }
}

impl Work for Open {
    fn prepare(&mut self, turns: usize) {
        self.wire.script((0..turns).map(|_| self.device.seal(&self.plain)).collect());
    }

    fn turn(&mut self) {
        self.wire.arrive();
        let mut cx = Context::from_waker(Waker::noop());
        if self.is_rebuilt {
            self.session.drop_ciphers();
        }
        let mut opened = 0;
        // A read is 64 KiB: the records of 64 KiB of plaintext are longer.
        while opened < self.plain.len() {
            let Poll::Ready(more) = self.session.poll_receive(&mut cx) else {
                unreachable!("the records have come whole")
            };
            opened += more;
        }
    }
}

/// Seals and writes plaintext for the device.
struct Seal {
    wire: Wire,
    session: BenchStream<Wire>,
    plain: Vec<u8>,
    /// The ciphers are dropped before each turn.
    is_rebuilt: bool,
}

impl Seal {
    fn setup(world: &World, bytes: usize) -> Box<dyn Work> {
        Box::new(Self::new(world, bytes, false))
    }

    fn rebuilt(world: &World, bytes: usize) -> Box<dyn Work> {
        Box::new(Self::new(world, bytes, true))
    }

    fn new(world: &World, bytes: usize, is_rebuilt: bool) -> Self {
        let (mut device, wire, session) = world.session();
        let mut seal = Self { wire, session, plain: vec![7; bytes], is_rebuilt };
        seal.turn();
        assert_eq!(
            device.receive(&seal.wire.take_written()),
            bytes,
            "the device gets what was sealed"
        );
        seal.wire.discard_writes();
        seal
    }
}

impl Work for Seal {
    fn prepare(&mut self, _turns: usize) {}

    fn turn(&mut self) {
        if self.is_rebuilt {
            self.session.drop_ciphers();
        }
        self.session.send(&mut Context::from_waker(Waker::noop()), &self.plain);
    }
}

/// Reads and parses a complete ClientHello, a new one each time: rustls shuffles extensions.
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
        self.hellos = (0..turns).map(|_| Device::new(&self.devices).outgoing()).collect();
        self.next = 0;
    }

    fn turn(&mut self) {
        let mut looking = std::pin::pin!(bench::read_hello(&self.hellos[self.next]));
        let Poll::Ready(name) = poll(looking.as_mut()) else {
            unreachable!("the message is whole")
        };
        assert_eq!(name.as_deref(), Some("localhost"));
        self.next += 1;
    }
}

/// Processes the ClientHello of a full handshake up to our flight: key exchange and signature.
struct Flight {
    world: World,
    started: Vec<Accepting>,
    flown: Vec<Accepting>,
}

impl Flight {
    fn setup(world: &World, _bytes: usize) -> Box<dyn Work> {
        Box::new(Self { world: world.clone(), started: Vec::new(), flown: Vec::new() })
    }
}

impl Work for Flight {
    fn prepare(&mut self, turns: usize) {
        self.flown = Vec::with_capacity(turns);
        self.started = (0..turns).map(|_| self.world.hello_sent().2).collect();
    }

    fn turn(&mut self) {
        let mut accepting = self.started.pop().expect("the turn was prepared");
        assert!(walk(accepting.as_mut()).is_pending(), "a server waits for the device's Finished");
        // Its memory is freed in the next half.
        self.flown.push(accepting);
    }
}

/// Processes the device's Finished up to our ticket.
struct Finish {
    world: World,
    finishing: Vec<Accepting>,
    finished: Vec<BenchStream<Wire>>,
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
        let mut accepting = self.finishing.pop().expect("the turn was prepared");
        let Poll::Ready(session) = walk(accepting.as_mut()) else {
            unreachable!("a handshake is over with the device's Finished")
        };
        self.finished.push(session);
    }
}

/// Relays the device's bytes to the backend, and the answer back.
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
        backend.discard_writes();
        client.discard_writes();
        let relay = Box::pin(world.server.relay(session, backend.clone()));
        Box::new(Self { device, client, backend, relay, plain: vec![7; bytes / 2] })
    }
}

impl Work for Turn {
    fn prepare(&mut self, turns: usize) {
        self.client.script((0..turns).map(|_| self.device.seal(&self.plain)).collect());
        self.backend.script(vec![self.plain.clone(); turns]);
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
