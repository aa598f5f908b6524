//! A real browser: Debian's Chromium, headless, with no network except loopback.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Instant;

use data_encoding::BASE64;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::command::run;
use super::wait::{PATIENCE, within};

/// A page after some seconds of its virtual time.
pub(crate) struct Rendered {
    /// The document without the text of its scripts and styles.
    pub(crate) dom: String,
    /// The messages on the console.
    pub(crate) console: String,
}

/// Opens a page and lets so many milliseconds of its virtual time pass.
pub(crate) async fn open(url: &str, milliseconds: u32) -> Rendered {
    let mut command = chromium(milliseconds);
    command.args(["--enable-logging=stderr", "--dump-dom", url]);
    // Both streams are one text, with the document first.
    let (good, text) = run(command).await;
    assert!(good, "{text}");
    let (dom, log) = text.rsplit_once("</html>").unwrap_or_else(|| panic!("no document:\n{text}"));
    let console =
        log.lines().filter(|line| line.contains("CONSOLE")).map(|line| format!("{line}\n"));
    Rendered { dom: without(&without(dom, "script"), "style"), console: console.collect() }
}

fn chromium(milliseconds: u32) -> Command {
    // A temporary profile that is removed afterwards. No D-Bus, no other machine.
    let script = "dir=$(mktemp -d) && trap 'rm -rf \"$dir\"' EXIT && \
        timeout --kill-after=2 60 chromium --user-data-dir=\"$dir\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", "--headless", "--no-sandbox", "--disable-gpu"]);
    command.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
    ]);
    command.args(["--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]);
    command.arg(format!("--virtual-time-budget={milliseconds}"));
    command
}

/// Returns the document without elements of this kind.
fn without(html: &str, tag: &str) -> String {
    let (start, end) = (format!("<{tag}"), format!("</{tag}>"));
    let mut parts = html.split(&start);
    let first = parts.next().unwrap_or_default().to_owned();
    let after = parts.map(|part| part.split_once(&end).map_or("", |(_, rest)| rest));
    first + &after.collect::<String>()
}

/// Returns the visible text of HTML, with one space for each tag.
pub(crate) fn text(html: &str) -> String {
    let mut text = String::new();
    for part in html.split('<').enumerate() {
        match part {
            (0, before) => text.push_str(before),
            (_, tag) => {
                text.push(' ');
                text.push_str(tag.split_once('>').map_or("", |(_, after)| after));
            }
        }
    }
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A page that stays open, so that a test can use it. Its browser is killed on drop.
pub(crate) struct OpenPage {
    browser: Child,
    _profile: tempfile::TempDir,
    devtools: TcpStream,
    requests: u32,
}

impl OpenPage {
    /// Opens a page in real time.
    pub(crate) async fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update"]);
        command.args(["--no-proxy-server", "--remote-debugging-port=0", "--hide-scrollbars"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut browser = command.spawn().unwrap();
        let port = devtools_port(browser.stderr.take().unwrap());
        let port = within("the port of the browser", port).await;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let devtools = within("the page", connect(address, url)).await;
        let mut page = Self { browser, _profile: profile, devtools, requests: 0 };
        // Before it, the browser shows an empty document.
        page.until(&format!("location.href === '{url}' && document.readyState === 'complete'"))
            .await;
        page
    }

    /// Evaluates an expression in the page. The value of a promise is waited for.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.request("Runtime.evaluate", &params).await;
        assert!(result["exceptionDetails"].is_null(), "{expression:.200}: {result}");
        result["result"]["value"].clone()
    }

    /// Gives the page this size, in pixels, and waits until the page has noticed.
    pub(crate) async fn resize(&mut self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.request("Emulation.setDeviceMetricsOverride", &size).await;
        self.until(&format!("innerWidth === {width} && innerHeight === {height}")).await;
        // The page hears of it with the next frame, and then marks what has become too wide.
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))").await;
    }

    /// Moves the pointer to the middle of an element.
    pub(crate) async fn point_at(&mut self, selector: &str) {
        let area = format!("document.querySelector('{selector}').getBoundingClientRect()");
        self.evaluate(&format!("document.querySelector('{selector}').scrollIntoView()")).await;
        let x = self.evaluate(&format!("{area}.x + {area}.width / 2")).await;
        let y = self.evaluate(&format!("{area}.y + {area}.height / 2")).await;
        let moved = json!({ "type": "mouseMoved", "x": x, "y": y });
        self.request("Input.dispatchMouseEvent", &moved).await;
    }

    /// Gives the page the dark or the light colours, and a size in pixels: that of its content if no height is given.
    pub(crate) async fn arrange(&mut self, dark: bool, width: u32, height: Option<u32>) {
        let scheme = if dark { "dark" } else { "light" };
        let colours = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.request("Emulation.setEmulatedMedia", &colours).await;
        self.resize(width, height.unwrap_or(900)).await;
        if height.is_none() {
            let whole = self.evaluate("document.documentElement.scrollHeight").await;
            self.resize(width, whole.as_u64().unwrap() as u32).await;
        }
    }

    /// Returns a picture of the visible part of the page, as PNG.
    pub(crate) async fn picture(&mut self) -> Vec<u8> {
        let drawn = self.request("Page.captureScreenshot", &json!({ "format": "png" })).await;
        BASE64.decode(drawn["data"].as_str().unwrap().as_bytes()).unwrap()
    }

    async fn request(&mut self, method: &str, params: &Value) -> Value {
        self.requests += 1;
        let request = json!({ "id": self.requests, "method": method, "params": params });
        send(&mut self.devtools, &request.to_string()).await;
        loop {
            let answer = within("an answer", receive(&mut self.devtools)).await;
            let answer: Value = serde_json::from_str(&answer).unwrap();
            if answer["id"] == json!(self.requests) {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// Waits until an expression is true in the page.
    pub(crate) async fn until(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.evaluate(expression).await != json!(true) {
            let now = self.evaluate("document.body?.innerText").await;
            assert!(Instant::now() < deadline, "not true: {expression}; the page has: {now}");
        }
    }
}

impl Drop for OpenPage {
    fn drop(&mut self) {
        // It fails if the browser has ended already.
        let _ended = self.browser.kill();
        let _ended = self.browser.wait();
    }
}

/// Returns the port that the browser reports on standard error.
async fn devtools_port(stderr: ChildStderr) -> u16 {
    let (sender, port) = oneshot::channel();
    std::thread::spawn(move || {
        let mut sender = Some(sender);
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let port = line.strip_prefix("DevTools listening on ws://127.0.0.1:");
            let port = port.and_then(|rest| rest.split('/').next()?.parse().ok());
            if let Some((sender, port)) = port.and_then(|port| Some((sender.take()?, port))) {
                let _gone = sender.send(port);
            }
        }
    });
    port.await.expect("the browser has ended")
}

/// Connects to the page with this address by the DevTools protocol, over a WebSocket (RFC 6455).
async fn connect(address: SocketAddr, url: &str) -> TcpStream {
    let path = loop {
        let list = list(address).await;
        let pages = list.as_array().cloned().unwrap_or_default();
        let page = pages.iter().find(|page| page["url"] == json!(url));
        let socket = page.and_then(|page| page["webSocketDebuggerUrl"].as_str());
        if let Some((_, path)) = socket.and_then(|socket| socket.split_once("/devtools")) {
            break format!("/devtools{path}");
        }
        tokio::task::yield_now().await;
    };
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    tcp.write_all(request.as_bytes()).await.unwrap();
    let answer = head(&mut tcp).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    tcp
}

/// Returns the browser's list of pages. The browser keeps the connection, so that its length has to be read.
async fn list(address: SocketAddr) -> Value {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /json/list HTTP/1.1\r\nHost: {address}\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut tcp).await;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length:")).unwrap();
    let mut body = vec![0; length.trim().parse().unwrap()];
    tcp.read_exact(&mut body).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

/// Reads the head of an answer.
async fn head(tcp: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Sends one text frame. A mask of zeros leaves the text as it is.
async fn send(tcp: &mut TcpStream, text: &str) {
    let mut frame = vec![0x81, 0x80 | 127];
    frame.extend((text.len() as u64).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    tcp.write_all(&frame).await.unwrap();
}

/// Receives one message.
async fn receive(tcp: &mut TcpStream) -> String {
    let mut message = Vec::new();
    loop {
        let first = tcp.read_u8().await.unwrap();
        let length = match tcp.read_u8().await.unwrap() {
            126 => u64::from(tcp.read_u16().await.unwrap()),
            127 => tcp.read_u64().await.unwrap(),
            length => u64::from(length),
        };
        let mut part = vec![0; length as usize];
        tcp.read_exact(&mut part).await.unwrap();
        message.extend(part);
        if first & 0x80 != 0 {
            return String::from_utf8(message).unwrap();
        }
    }
}
