//! A client of the admin port that keeps its connection.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::proxy::metric;
use super::wait::{PATIENCE, within};

/// An open connection to an admin port.
pub(crate) struct Client {
    tcp: TcpStream,
}

impl Client {
    /// Connects and sends one request, so that the connection is accepted.
    pub(crate) async fn connect(admin: SocketAddr) -> Self {
        let mut client = Self { tcp: TcpStream::connect(admin).await.unwrap() };
        client.text().await;
        client
    }

    /// Returns all metrics as text.
    pub(crate) async fn text(&mut self) -> String {
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        self.tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        loop {
            let mut chunk = [0; 8192];
            let read = within("an answer", self.tcp.read(&mut chunk)).await.unwrap();
            assert_ne!(read, 0, "the admin port has closed");
            answer.extend_from_slice(&chunk[..read]);
            let text = String::from_utf8_lossy(&answer);
            let Some((header, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = header.lines().find_map(|line| line.strip_prefix("content-length: "));
            if length.and_then(|length| length.parse().ok()) == Some(body.len()) {
                return body.to_owned();
            }
        }
    }

    /// Returns the value of a counter.
    pub(crate) async fn count(&mut self, series: &str) -> u64 {
        let text = self.text().await;
        metric(&text, series).unwrap_or_else(|| panic!("no {series} in\n{text}"))
    }

    /// Waits until a metric meets a condition.
    pub(crate) async fn until(&mut self, series: &str, wanted: impl Fn(u64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.count(series).await;
            if wanted(now) {
                return;
            }
            assert!(Instant::now() < deadline, "{series} is still {now}");
        }
    }
}
