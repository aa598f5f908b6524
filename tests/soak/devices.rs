//! The devices of a soak, and the strangers beside them.
//!
//! **Not here.** The backend and the files: `site.rs`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::site::Site;
use crate::support::Device;
use crate::support::bytes::Bytes;
use crate::support::client::{Session, say_and_hear};
use crate::support::raw::client_hello;
use crate::support::wait::within;

/// Bytes of a transfer.
const TRANSFER: usize = 512 * 1024;

impl Site {
    /// Connects a device, and notes how long its handshake took.
    async fn connect(&self, device: &Device) -> io::Result<Session> {
        let start = Instant::now();
        let session = device.connect(self.sidecar.address).await?;
        self.latencies.handshakes.lock().unwrap().push(start.elapsed());
        Ok(session)
    }

    /// Sends a message and waits for its echo.
    async fn exchange(&self, session: &mut Session, message: &[u8]) -> io::Result<()> {
        self.books.on_sending(message.len());
        let start = Instant::now();
        say_and_hear(session, message).await?;
        self.latencies.exchanges.lock().unwrap().push(start.elapsed());
        Ok(())
    }
}

/// Ends a session with a close_notify, and reads the other one.
async fn end(session: &mut Session) -> io::Result<()> {
    session.shutdown().await?;
    match within("the end", session.read(&mut [0; 1])).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("a byte that nobody has sent")),
    }
}

/// Connects and leaves, each time in another way, half of the times by resumption.
pub(super) async fn churn(site: Arc<Site>, number: u64) {
    let devices = [site.device(), site.device().resuming()];
    for round in 0_usize.. {
        if !site.is_running() {
            return;
        }
        let begun = Instant::now();
        if let Err(error) = visit(&site, &devices[round % 2], round / 2 % 3).await {
            site.may_fail(begun, &format!("a device failed: {error}"));
        }
        site.pause(Duration::from_millis(200 + 7 * number)).await;
    }
}

async fn visit(site: &Site, device: &Device, end_by: usize) -> io::Result<()> {
    const REPORT: &[u8] = b"a report of the size that devices send, every few minutes";
    let mut session = site.connect(device).await?;
    site.exchange(&mut session, REPORT).await?;
    match end_by {
        0 => {
            end(&mut session).await?;
            site.books.on_received(REPORT.len());
        }
        1 => session.get_ref().0.set_zero_linger()?,
        _ => {}
    }
    Ok(())
}

/// Stays connected, sends a byte now and then, and comes back after its backend was restarted.
pub(super) async fn idle(site: Arc<Site>, number: u64) {
    let device = site.device();
    while site.is_running() {
        let begun = Instant::now();
        let stayed = async {
            let mut session = site.connect(&device).await?;
            while site.is_running() {
                site.exchange(&mut session, b"x").await?;
                site.pause(Duration::from_millis(1500 + 11 * number)).await;
            }
            end(&mut session).await
        };
        if let Err(error) = stayed.await {
            site.may_fail(begun, &format!("an idle session failed: {error}"));
            site.pause(Duration::from_millis(100)).await;
        }
    }
}

/// Asks and gets an answer, again and again.
pub(super) async fn ask(site: Arc<Site>) {
    let device = site.device();
    while site.is_running() {
        let begun = Instant::now();
        let asked = async {
            let mut session = site.connect(&device).await?;
            while site.is_running() {
                site.exchange(&mut session, &[7; 128]).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            end(&mut session).await
        };
        if let Err(error) = asked.await {
            site.may_fail(begun, &format!("a request failed: {error}"));
            site.pause(Duration::from_millis(100)).await;
        }
    }
}

/// Asks and gets an answer, again and again, from a backend without the proxy between.
pub(super) async fn ask_without_the_proxy(site: Arc<Site>) {
    let mut tcp = TcpStream::connect(site.control.address).await.unwrap();
    while site.is_running() {
        let start = Instant::now();
        say_and_hear(&mut tcp, &[7; 128]).await.unwrap();
        site.latencies.control.lock().unwrap().push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Transfers bytes to the backend and back, again and again, and compares each.
pub(super) async fn transfer(site: Arc<Site>, number: u64) {
    let device = site.device();
    for round in 0.. {
        if !site.is_running() {
            return;
        }
        let begun = Instant::now();
        let mut bytes = vec![0; TRANSFER];
        Bytes::new(number << 32 | round).fill(&mut bytes);
        if let Err(error) = one_transfer(&site, &device, &bytes).await {
            site.may_fail(begun, &format!("a transfer failed: {error}"));
        }
        site.pause(Duration::from_millis(500)).await;
    }
}

async fn one_transfer(site: &Site, device: &Device, bytes: &[u8]) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(site.connect(device).await?);
    let sending = async {
        for chunk in bytes.chunks(10_000) {
            site.books.on_sending(chunk.len());
            writer.write_all(chunk).await?;
        }
        writer.shutdown().await
    };
    let receiving = async {
        let (mut buffer, mut at) = (vec![0; 64 * 1024], 0);
        loop {
            match within("a part of a transfer", reader.read(&mut buffer)).await? {
                // The end, by a close_notify: an end without one is an error of rustls.
                0 if at == bytes.len() => return Ok::<_, io::Error>(at),
                // A backend that refuses. The device gets an end in order, and no byte.
                0 if at == 0 => return Err(io::ErrorKind::ConnectionRefused.into()),
                0 => panic!("a transfer ends in order after {at} of {} bytes", bytes.len()),
                read => {
                    assert!(bytes[at..].starts_with(&buffer[..read]), "other bytes from {at} on");
                    at += read;
                }
            }
        }
    };
    let (sent, received) = tokio::join!(sending, receiving);
    let received = received?;
    sent?;
    site.books.on_received(received);
    Ok(())
}

/// Strangers that send nothing, garbage, or half a ClientHello.
pub(super) async fn disturb(site: Arc<Site>) {
    let hello = client_hello();
    for round in 0_usize.. {
        if !site.is_running() {
            return;
        }
        let bytes = [&[][..], &[0x42; 64], &hello[..hello.len() / 2]][round % 3];
        let mut tcp = TcpStream::connect(site.sidecar.address).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        tcp.shutdown().await.unwrap();
        let _reset = within("it is closed", tcp.read_to_end(&mut Vec::new())).await;
        site.pause(Duration::from_millis(150)).await;
    }
}
