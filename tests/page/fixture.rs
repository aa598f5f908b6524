//! A page in front of a fixed status: what it shows of it does not depend on a proxy.

use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::raw::answer_to;
use crate::support::{Authority, Backend, Proxy};

pub(super) const NOW: i64 = 1_800_000_000;

/// The page of a real process, with answers that a test chooses.
pub(super) struct Front {
    pub(super) url: String,
    status: Arc<Mutex<Value>>,
    _backend: Backend,
}

impl Front {
    pub(super) async fn new(status: Value) -> Self {
        let page = page().await;
        let status = Arc::new(Mutex::new(status));
        let shown = Arc::clone(&status);
        let backend = Backend::serving(move |mut tcp| {
            let (page, shown) = (page.clone(), Arc::clone(&shown));
            async move {
                let mut request = vec![0; 4096];
                let Ok(read) = tcp.read(&mut request).await else { return };
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or("/");
                let (kind, body) = match path.split('?').next().unwrap() {
                    "/" => ("text/html", page),
                    "/status" => ("application/json", shown.lock().unwrap().to_string()),
                    "/sessions" => ("application/json", sessions(path)),
                    _ => ("application/json", top()),
                };
                let length = body.len();
                let header = format!("content-type: {kind}\r\ncontent-length: {length}");
                let answer =
                    format!("HTTP/1.1 200 OK\r\n{header}\r\nconnection: close\r\n\r\n{body}");
                // The browser may have closed the connection.
                let _gone = tcp.write_all(answer.as_bytes()).await;
            }
        })
        .await;
        Self { url: format!("http://{}/", backend.address), status, _backend: backend }
    }

    /// Changes the status that the page gets from now on.
    pub(super) fn change(&self, change: impl FnOnce(&mut Value)) {
        change(&mut self.status.lock().unwrap());
    }
}

/// Returns the page as a process serves it.
async fn page() -> String {
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &Authority::new("ca").server());
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = String::from_utf8(answer_to(proxy.app.admin.unwrap(), request).await).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Returns three sessions; in another order if they are sorted by their bytes.
fn sessions(path: &str) -> String {
    let session = |id: u64| {
        json!({ "id": id, "listener": "mqtt", "peer": format!("192.0.2.{id}:40000"), "identity": format!("pump-{id}.hall-2.plant.example"),
            "sni": "gateway.plant.example", "tls": "1.3", "age_seconds": 60, "idle_seconds": 1, "bytes_to_backend": 10, "bytes_to_client": 20 })
    };
    let mut sessions: Vec<_> = (1..4).map(session).collect();
    if path.contains("sort=bytes") {
        sessions.reverse();
    }
    json!({ "matching": 3, "next": null, "sessions": sessions }).to_string()
}

fn top() -> String {
    let entries = json!([{ "name": "CN=plc-12, serial 07", "count": 3 }]);
    json!({ "entries": entries, "since": NOW, "error_at_most": 0 }).to_string()
}

/// Returns a status without problems: these listeners, and nothing else.
pub(super) fn status(listeners: Vec<(Value, Value)>) -> Value {
    let (listeners, recent): (Vec<_>, Vec<_>) = listeners.into_iter().unzip();
    json!({
        "version": "1", "host": "gateway", "now": NOW, "uptime_seconds": 60, "phase": "running",
        "drain": { "started": null, "timeout_seconds": 25, "waiting": 0, "exceeds_timeout": false },
        "listeners": listeners,
        "recent": { "ended_seconds_ago": [20, 10, 0], "listeners": recent },
        "certificates": [], "rollouts": [], "client_cas": [], "crls": [], "backends": [],
        "reload": { "failing": false, "last_success": NOW, "last_swap": null, "failures": [], "waiting": [] },
        "page_ends_sessions": true,
    })
}

/// Returns a listener and its last half minute, with the connections that just ended, by reason.
pub(super) fn fixture(
    name: &str,
    active: i64,
    handshakes: u64,
    closed: &[(&str, u64)],
) -> (Value, Value) {
    let now: Map<_, _> = closed.iter().map(|(r, n)| ((*r).to_owned(), json!([0, 0, n]))).collect();
    let ever: Map<_, _> = closed.iter().map(|(r, n)| ((*r).to_owned(), json!(n))).collect();
    let listener = json!({
        "name": name, "address": "0.0.0.0:1", "active": active, "limit": 10_000, "at_limit": false,
        "handshakes_in_progress": 0, "sessions": active, "accepted": 1, "handshakes": handshakes,
        "closed": ever, "bytes_to_backend": 0, "bytes_to_client": 0,
    });
    let recent = json!({
        "listener": name, "accepted": [0, 0, 0], "handshakes": [0, 0, handshakes],
        "active": [active, active, active], "closed": now,
    });
    (listener, recent)
}
