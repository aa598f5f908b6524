//! A device that sends messages all the time, and the longest time that one took.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

/// A certificate chain and its key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A session whose handshake is complete: one message was echoed.
pub(crate) struct Session(StreamOwned<ClientConnection, TcpStream>);

impl Session {
    pub(crate) fn new(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let tcp = TcpStream::connect(address).expect("the proxy listens");
        tcp.set_nodelay(true).expect("it is a TCP socket");
        let name = ServerName::try_from("localhost").expect("it is a name");
        let tls = ClientConnection::new(Arc::clone(config), name).expect("the settings are valid");
        let mut session = Self(StreamOwned::new(tls, tcp));
        assert!(session.echo(), "the device is served");
        session
    }

    /// Sends a message and waits for its echo. Returns false at the end of the session.
    fn echo(&mut self) -> bool {
        let mut heard = [0; 64];
        self.0.write_all(&heard).is_ok() && self.0.read_exact(&mut heard).is_ok()
    }

    /// Sends messages in a thread, until the session ends. Returns the longest time, in nanoseconds, which the reader resets.
    pub(crate) fn keep_busy(mut self) -> Arc<AtomicU64> {
        let longest = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&longest);
        thread::spawn(move || {
            loop {
                let start = Instant::now();
                if !self.echo() {
                    return;
                }
                shared.fetch_max(nanoseconds(start.elapsed()), Ordering::Relaxed);
            }
        });
        longest
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Echoes all bytes of all connections to the address that is returned.
pub(crate) fn backend() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = (&tcp).read(&mut bytes) {
                    if (&tcp).write_all(&bytes[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}
