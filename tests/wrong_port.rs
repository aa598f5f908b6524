//! The commands that read from the admin port, at an address where another program answers: they read a bounded number of
//! bytes, and end with an error.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::process::by_shell;
use crate::support::wait::within;
use crate::support::{Authority, Backend, command, file};

/// The bytes that the sockets between a command and a server hold, at most.
const IN_SOCKETS: usize = 16 << 20;

const MIB: usize = 1 << 20;

/// The commands that read one answer.
const OF_ONE_ANSWER: [&[&str]; 8] = [
    &["status"],
    &["status", "--json"],
    &["sessions"],
    &["sessions", "--end", "--yes", "--peer", "192.0.2.7"],
    &["top"],
    &["reload"],
    &["drain"],
    &["check", "--live"],
];

/// The commands that read lines until the answer ends.
const OF_LINES: [&[&str]; 3] =
    [&["events"], &["trace", "--peer", "192.0.2.7"], &["trace", "--peer", "192.0.2.7", "--pcap"]];

/// Returns the program under test. It is ended with the code 124 if it does not end.
fn bounded() -> Command {
    by_shell("exec timeout 15 \"$@\"")
}

/// A server that reads a request and sends a text, and then another one without an end.
struct Endless {
    server: Backend,
    sent: Arc<AtomicUsize>,
}

impl Endless {
    async fn new(start: &'static str, more: &str) -> Self {
        let sent = Arc::new(AtomicUsize::new(0));
        let (count, more) = (Arc::clone(&sent), more.repeat(65_536 / more.len()));
        let server = Backend::serving(move |mut tcp: TcpStream| {
            let (count, more) = (Arc::clone(&count), more.clone());
            async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(1..) = tcp.read_buf(&mut request).await else { return };
                }
                // Until the command closes the connection.
                if tcp.write_all(start.as_bytes()).await.is_ok() {
                    while tcp.write_all(more.as_bytes()).await.is_ok() {
                        count.fetch_add(more.len(), Ordering::SeqCst);
                    }
                }
            }
        })
        .await;
        Self { server, sent }
    }

    /// Runs a command at this server, in a directory with a configuration. Returns its exit code and its error.
    async fn run(&self, arguments: &[&str], dir: &Path) -> (i32, String) {
        let mut run = bounded();
        let admin = self.server.address.to_string();
        match arguments {
            ["check", ..] => run.args(arguments).arg(admin).arg(dir.join("candidate.toml")),
            [.., "--pcap"] => run.args(arguments).arg(dir.join("pcapng")).args(["--admin", &admin]),
            _ => run.args(arguments).args(["--admin", &admin]),
        };
        self.sent.store(0, Ordering::SeqCst);
        let ran = tokio::task::spawn_blocking(move || command::output(&mut run));
        let (code, _, errors) = within("the end of the command", ran).await.unwrap();
        (code, errors)
    }

    /// Checks that these commands fail with this error, before they have read much more than so many bytes.
    async fn fails(&self, commands: &[&[&str]], error: &str, bytes: usize) {
        let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
        let candidate = authority.dir().join("candidate.toml");
        std::fs::write(candidate, file::text(backend.address, &authority.server(), "")).unwrap();
        for arguments in commands {
            let (code, errors) = self.run(arguments, authority.dir()).await;
            assert_eq!(code, 1, "{arguments:?}: {errors}");
            assert!(errors.contains(error), "{arguments:?}: {errors}");
            let sent = self.sent.load(Ordering::SeqCst);
            assert!(sent < bytes + IN_SOCKETS, "{arguments:?} have read {sent} bytes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_an_end_end_each_command() {
    let server = Endless::new("HTTP/1.1 200 OK\r\n", "x-more: and more\r\n").await;
    let commands = [&OF_ONE_ANSWER[..], &OF_LINES].concat();
    server.fails(&commands, "the head of the answer has more than 65536 bytes", 65_536).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_without_an_end_ends_each_command() {
    let server = Endless::new("HTTP/1.1 200 OK\r\nx-more: ", "and more").await;
    let commands = [&OF_ONE_ANSWER[..], &OF_LINES].concat();
    server.fails(&commands, "the head of the answer has more than 65536 bytes", 65_536).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_an_end_ends_the_commands_that_read_one() {
    for start in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 404 Not Found\r\n\r\n"] {
        let server = Endless::new(start, "[[\"more\"],\n").await;
        server.fails(&OF_ONE_ANSWER, "the answer has more than 8388608 bytes", 8 * MIB).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_an_end_ends_the_commands_that_read_lines() {
    let server = Endless::new("HTTP/1.1 200 OK\r\n\r\n", "more").await;
    server.fails(&OF_LINES, "a line has more than 1048576 bytes", MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_an_end_ends_the_events_after_others_too() {
    let server = Endless::new("HTTP/1.1 200 OK\r\n\r\nid: 7\n: events\n\n", "more").await;
    server.fails(&[&["events"]], "a line has more than 1048576 bytes", MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_without_an_end_ends_the_commands_that_read_lines() {
    let server = Endless::new("HTTP/1.1 404 Not Found\r\n\r\n", "more\n").await;
    server.fails(&OF_LINES, "the answer has more than 8388608 bytes", 8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_reads_no_more_than_an_answer() {
    let server = Endless::new("HTTP/1.1 200 OK\r\n\r\n", "more").await;
    let probe = ["probe", "--ready"];
    server.fails(&[&probe], "the answer has more than 8388608 bytes", 8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_sessions_without_an_end_end_the_command_sessions() {
    let page = r#"{"matching":1,"next":7,"sessions":[]}"#;
    let length = page.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{page}");
    let server = crate::support::raw::answering(move |_| answer.clone()).await;
    let mut run = bounded();
    run.args(["sessions", "--admin", &server.to_string()]);
    let ran = tokio::task::spawn_blocking(move || command::output(&mut run));
    let (code, _, errors) = within("the end of the command", ran).await.unwrap();
    assert!(code == 1 && errors.contains("pages of sessions have no end"), "{errors}");
}
