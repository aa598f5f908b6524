//! The plain relay: the least that a process can do to forward TCP, in the kernel's work and its own.
//!
//! A worker for each core has its own listening socket and epoll instance. A connection costs accept, connect, two
//! registrations, a read and a write for each direction of a message, and two closes. No option is set but O_NONBLOCK, no
//! error told apart, nothing counted or logged.
//!
//! **Promises.** Bytes are forwarded in order. One that the receiver does not take is held, and its sender not read.
//!
//! **Not here.** The limit of a proxy with TLS, of which this is one part (`limit.rs`).

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::{Domain, Socket, Type};

use super::peer::WORKERS;

const CHUNK: usize = 64 * 1024;
const BACKLOG: i32 = 4096;
const EVENTS: usize = 1024;

/// Event data of the listening socket. Those of a connection are twice its place, plus its side.
const LISTENER: u64 = u64::MAX;

/// A connection: the client's socket and the backend's, each with the bytes that it has not taken yet.
struct Pair {
    sides: [TcpStream; 2],
    held: [Vec<u8>; 2],
    ended: [bool; 2],
}

struct Worker {
    epoll: OwnedFd,
    listener: TcpListener,
    backend: SocketAddr,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    chunk: Box<[u8]>,
}

/// Forwards until the process is killed.
pub fn serve(listen: SocketAddr, backend: SocketAddr) {
    let workers = (0..WORKERS).map(|_| {
        let worker = Worker::new(listen, backend).expect("the address is free");
        std::thread::spawn(move || worker.run())
    });
    for worker in workers.collect::<Vec<_>>() {
        let _panicked = worker.join();
    }
}

impl Worker {
    fn new(listen: SocketAddr, backend: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        // Inherited by the accepted sockets (tcp(7)).
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        socket.listen(BACKLOG)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &socket, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let chunk = vec![0; CHUNK].into();
        let (pairs, free) = (Vec::new(), Vec::new());
        Ok(Self { epoll, listener: socket.into(), backend, pairs, free, chunk })
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            if epoll::wait(&self.epoll, spare_capacity(&mut events), None).is_err() {
                continue;
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    data => self.on_event(data),
                }
            }
        }
    }

    /// Accepts a connection, and connects to the backend. On loopback this does not wait.
    fn accept(&mut self) {
        let Ok((client, _)) = self.listener.accept() else { return };
        let Ok(backend) = TcpStream::connect(self.backend) else { return };
        for socket in [&client, &backend] {
            socket.set_nonblocking(true).expect("the socket is open");
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.pairs.push(None);
            self.pairs.len() - 1
        });
        for (socket, data) in [&client, &backend].into_iter().zip(2 * place as u64..) {
            let added = epoll::add(&self.epoll, socket, EventData::new_u64(data), EventFlags::IN);
            added.expect("the socket is new");
        }
        let (sides, held) = ([client, backend], [Vec::new(), Vec::new()]);
        self.pairs[place] = Some(Pair { sides, held, ended: [false; 2] });
    }

    /// Forwards what a socket has, or gives it what it has not taken.
    fn on_event(&mut self, data: u64) {
        let (place, side) = ((data / 2) as usize, (data % 2) as usize);
        let Some(pair) = &mut self.pairs[place] else { return };
        let moved = if pair.held[side].is_empty() {
            pair.forward(side, &mut self.chunk, &self.epoll, data)
        } else {
            pair.give(side, &self.epoll, data)
        };
        if moved.is_err() || pair.ended == [true; 2] {
            self.pairs[place] = None;
            self.free.push(place);
        }
    }
}

impl Pair {
    fn forward(&mut self, from: usize, chunk: &mut [u8], epoll: &OwnedFd, data: u64) -> Result<()> {
        let to = 1 - from;
        if self.ended[from] {
            // Both directions are closed, or reset: nothing else is reported for such a side.
            return Err(ErrorKind::ConnectionReset.into());
        }
        let read = match (&self.sides[from]).read(chunk) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            read => read?,
        };
        if read == 0 {
            self.ended[from] = true;
            set(epoll, &self.sides[from], data, EventFlags::empty())?;
            return self.sides[to].shutdown(Shutdown::Write);
        }
        let taken = send(&self.sides[to], &chunk[..read])?;
        if taken < read {
            self.held[to] = chunk[taken..read].to_vec();
            set(epoll, &self.sides[from], data, EventFlags::empty())?;
            set(epoll, &self.sides[to], data ^ 1, EventFlags::OUT)?;
        }
        Ok(())
    }

    /// Sends held bytes. After the last one both sides are read again.
    fn give(&mut self, to: usize, epoll: &OwnedFd, data: u64) -> Result<()> {
        let taken = send(&self.sides[to], &self.held[to])?;
        self.held[to].drain(..taken);
        if self.held[to].is_empty() {
            set(epoll, &self.sides[to], data, EventFlags::IN)?;
            set(epoll, &self.sides[1 - to], data ^ 1, EventFlags::IN)?;
        }
        Ok(())
    }
}

/// Sends as much as the kernel takes.
fn send(mut to: &TcpStream, bytes: &[u8]) -> Result<usize> {
    match to.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        taken => taken,
    }
}

fn set(epoll: &OwnedFd, socket: &impl AsFd, data: u64, flags: EventFlags) -> Result<()> {
    Ok(epoll::modify(epoll, socket, EventData::new_u64(data), flags)?)
}
