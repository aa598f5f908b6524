//! The admin port: metrics, probes, reload, drain.
//!
//! **Promises.** It answers until the process ends. A probe never dials the backend: a legacy
//! server that is down is no reason to restart the sidecar in front of it. Probes and a drain are answered
//! whatever other clients of this port do or leave undone.
//!
//! **Not here.** Its connections (`admin/clients.rs`), what the metrics are (`metrics.rs`), how a drain runs (`lifecycle.rs`) or a reload
//! (`reload.rs`), and who asks from the command line (`commands/admin_client.rs`).

mod clients;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod page;
mod query;
pub(crate) mod status;
mod views;

use std::convert::identity;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, ORIGIN,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::sleep;

use self::clients::{Clients, Turn};
use self::status::Status;
use crate::blocking::Aside;
use crate::lifecycle::{Phase, Shutdown};
use crate::metrics::Metrics;
use crate::reload;
use crate::sessions::Sessions;
use crate::terms::labels::ReloadOutcome;

/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What this page has, for whoever asks for another.
const PATHS: &str =
    "GET / /status /metrics /sessions /top /livez /startupz /readyz, POST /reload /drain\n";

/// Why a name is refused.
const NOT_THIS_MACHINE: &str = "the admin port listens on this machine alone: ask for localhost, an address or a name without a dot\n";

/// Makes an answer of the live sessions and a query, or says what is wrong with the query.
type View = fn(&Sessions, &str) -> Result<Value, String>;

/// What the admin port shows and does.
pub(crate) struct Admin {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) shutdown: Shutdown,
    pub(crate) reload: reload::Handle,
    pub(crate) status: Arc<Status>,
    /// Whether only this machine can reach it.
    pub(crate) is_local: bool,
    /// Where answers are made that take a moment for a hundred thousand sessions.
    pub(crate) aside: Aside,
}

/// Answers on `listener` for ever, up to so many connections at a time.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>, max_connections: usize) {
    let status = Arc::clone(&admin.status);
    tokio::spawn(async move { status.history.run().await });
    let clients = Clients::new(max_connections);
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                let place = clients.place().await;
                let admin = Arc::clone(&admin);
                tokio::spawn(place.serve(tcp, move |request, turn| {
                    let admin = Arc::clone(&admin);
                    async move { admin.answer(&request, &turn).await }
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "the admin port cannot accept; trying again");
                // One of its own gives its descriptor back for the next, perhaps.
                clients.one_gives_way();
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Admin {
    async fn answer(&self, request: &Request<Incoming>, turn: &Turn) -> Response<Full<Bytes>> {
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        let posts = *request.method() == Method::POST;
        match request.uri().path() {
            "/livez" if reads => text(StatusCode::OK, "ok\n"),
            "/startupz" if reads => self.probe(self.shutdown.phase() != Phase::Starting),
            "/readyz" if reads => self.probe(self.shutdown.phase() == Phase::Running),
            _ if self.is_local && !may_mean_this_machine(request.headers().get(HOST)) => {
                text(StatusCode::FORBIDDEN, NOT_THIS_MACHINE)
            }
            "/" if reads => page(),
            "/drain" if posts && !is_of_a_page(request) => {
                self.shutdown.drain();
                text(StatusCode::ACCEPTED, "draining\n")
            }
            // Nothing above takes a moment: probes and a drain are answered whatever else is asked.
            path => match turn.work().await {
                Some(_turn) => self.work(path, request).await,
                None => text(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time\n"),
            },
        }
    }

    /// Answers what may take a moment.
    async fn work(&self, path: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        let posts = *request.method() == Method::POST;
        match path {
            "/status" if reads => self.status().await,
            "/metrics" if reads => self.metrics().await,
            "/sessions" if reads => self.view(request, views::sessions).await,
            "/top" if reads => self.view(request, views::top).await,
            "/reload" | "/drain" if posts && is_of_a_page(request) => {
                text(StatusCode::FORBIDDEN, "not for web pages\n")
            }
            "/reload" if posts => self.reload().await,
            "/" | "/status" | "/metrics" | "/sessions" | "/top" | "/livez" | "/startupz"
            | "/readyz" => not_allowed("GET, HEAD"),
            "/reload" | "/drain" => not_allowed("POST"),
            _ => text(StatusCode::NOT_FOUND, PATHS),
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let metrics = Arc::clone(&self.metrics);
        let rendered = self.aside.run(move || metrics.render()).await;
        match rendered.and_then(identity) {
            Ok((body, content_type)) => typed(StatusCode::OK, body, content_type),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// How it all is.
    async fn status(&self) -> Response<Full<Bytes>> {
        let (status, metrics) = (Arc::clone(&self.status), Arc::clone(&self.metrics));
        let (shutdown, files) = (self.shutdown.clone(), self.reload.status());
        let told = self.aside.run(move || {
            metrics.refresh();
            status.tell(&shutdown, &files, &metrics.names())
        });
        match told.await {
            Ok(value) => typed(StatusCode::OK, format!("{value}\n"), "application/json"),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// What `view` makes of the live sessions and the query.
    async fn view(&self, request: &Request<Incoming>, view: View) -> Response<Full<Bytes>> {
        let sessions = Arc::clone(&self.sessions);
        let query = request.uri().query().unwrap_or_default().to_owned();
        match self.aside.run(move || view(&sessions, &query)).await {
            Ok(Ok(value)) => typed(StatusCode::OK, format!("{value}\n"), "application/json"),
            Ok(Err(refusal)) => text(StatusCode::BAD_REQUEST, refusal),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// The phase, with the status that a probe looks at.
    fn probe(&self, good: bool) -> Response<Full<Bytes>> {
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        text(status, format!("{}\n", self.shutdown.phase()))
    }

    async fn reload(&self) -> Response<Full<Bytes>> {
        match self.reload.reload().await {
            Some(report) => {
                let status = match report.outcome {
                    ReloadOutcome::Failed => StatusCode::INTERNAL_SERVER_ERROR,
                    ReloadOutcome::Swapped | ReloadOutcome::Unchanged => StatusCode::OK,
                };
                let mut lines = vec![report.outcome.to_string()];
                lines.extend(report.failures);
                lines.extend(report.waiting);
                text(status, lines.join("\n") + "\n")
            }
            None => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        }
    }
}

/// Whether a request comes from a page in a browser of this machine, which can send a POST here. It has
/// an origin; curl, the kubelet and `tlsidecar drain` have none.
fn is_of_a_page(request: &Request<Incoming>) -> bool {
    request.headers().contains_key(ORIGIN)
}

/// Whether a request that came over loopback may have been meant for it. A page of `evil.example` that has
/// its name resolve to 127.0.0.1 (DNS rebinding) would read as its own what it is told here: its requests
/// have that name. Nobody outside can have a name of one label, one below `localhost` (RFC 6761 section
/// 6.3) or `internal`, by which containers reach their host.
fn may_mean_this_machine(host: Option<&HeaderValue>) -> bool {
    // No browser leaves it out: RFC 9112 section 3.2.
    let Some(host) = host else { return true };
    let Some(host) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    let last = name.trim_end_matches('.').rsplit_once('.').map_or("localhost", |(_, last)| last);
    let is_private = ["localhost", "internal"].iter().any(|own| own.eq_ignore_ascii_case(last));
    is_private || name.parse::<IpAddr>().is_ok()
}

/// The page for people.
fn page() -> Response<Full<Bytes>> {
    let page::Page { html, policy } = &*page::PAGE;
    let mut response = typed(StatusCode::OK, html.as_str(), "text/html; charset=utf-8");
    if let Ok(policy) = HeaderValue::from_str(policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, body, "text/plain; charset=utf-8")
}

fn typed(
    status: StatusCode,
    body: impl Into<Bytes>,
    content_type: &'static str,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("allowed: {allowed}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_stranger_can_have_is_not_ours() {
        let ours = |host: &str| may_mean_this_machine(Some(&HeaderValue::from_str(host).unwrap()));
        for host in ["localhost", "LocalHost.:9901", "127.0.0.1", "[::1]:9901", "192.0.2.7:80"] {
            assert!(ours(host), "{host}");
        }
        for host in ["a.localhost", "gateway:9901", "host.docker.internal:9901", "ip6-localhost"] {
            assert!(ours(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:9901", "", "a b", "127.0.0.1.evil"] {
            assert!(!ours(host), "{host}");
        }
        assert!(may_mean_this_machine(None));
    }
}
