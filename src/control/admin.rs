//! The admin port: metrics, probes, status, sessions, reload, drain.
//!
//! **Promises.** It answers until the process ends. A probe never dials the backend: a legacy server that is
//! down is no reason to restart the sidecar in front of it. Probes and a drain are answered at once, whatever
//! other clients of this port do.
//!
//! **Not here.** Its connections (`admin/clients.rs`), the metrics (`metrics.rs`), the drain (`lifecycle.rs`),
//! the reload (`reload.rs`), the client on the command line (`commands/admin_client.rs`).

mod clients;
pub(crate) mod endpoint;
mod events;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod guard;
mod kill;
mod page;
mod query;
mod response;
mod rollouts;
mod runbooks;
pub(crate) mod status;
mod stream;
mod trace;
mod views;

use std::convert::identity;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use tokio::time::sleep;

use self::clients::{Clients, Turn};
use self::endpoint::{Caller, Endpoint, Scope};
use self::guard::Guard;
use self::kill::Refusal;
use self::response::{Reply, failed, json, not_allowed, page, text, typed, unauthorized};
use self::status::Status;
use crate::blocking::BlockingPool;
use crate::lifecycle::{Phase, Shutdown};
use crate::metrics::Metrics;
use crate::reload;
use crate::reload::rollouts::RolloutOrder;
use crate::sessions::Sessions;
use crate::terms::labels::ReloadOutcome;
use crate::terms::rollout::RolloutResult;
use crate::trust::rollout::trial::Verdict;
use crate::trust::token::TokenFile;

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections of each endpoint, however few there may be: one that is answered, and one that waits.
const MIN_CONNECTIONS: usize = 2;

/// Everything that the admin port shows and controls.
pub(crate) struct Admin {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) shutdown: Shutdown,
    pub(crate) reload: reload::Handle,
    pub(crate) status: Arc<Status>,
    /// The token that requests need, except those for metrics, probes and the page.
    pub(crate) token: Option<Arc<TokenFile>>,
    /// Makes responses that take a while with a hundred thousand sessions.
    pub(crate) pool: BlockingPool,
}

/// A request that the admin port answers.
struct AdminRoute {
    method: Verb,
    /// With [`ID`] at its end, it stands for every path with one more segment.
    path: &'static str,
    guard: Guard,
    access: Access,
    handler: Handler,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    /// GET, and HEAD with it.
    Get,
    Post,
    Delete,
}

/// The clients that may send a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Every client of every endpoint.
    Metrics,
    /// Every client, except of the endpoint for metrics. The page has no data: it asks for the token.
    Page,
    /// As `Page`, with the token if there is one.
    Token,
}

#[derive(Clone, Copy)]
enum Handler {
    /// Answers at once.
    Now(fn(&Admin) -> Reply),
    /// Answers after its turn, from the query or the id in the path: the response takes a while to make.
    Queued(Queued),
    /// Answers with a stream, which continues after the head of the response.
    Stream(fn(&Admin, &Request<Incoming>, Caller) -> Reply),
}

type Queued = for<'a> fn(&'a Admin, &'a str) -> Replying<'a>;

type Replying<'a> = Pin<Box<dyn Future<Output = Reply> + Send + 'a>>;

/// Makes a response from the live sessions and a query, or returns what is wrong with the query.
type View = fn(&Sessions, &str) -> Result<String, String>;

/// Ends sessions that a query or an id selects.
type Kill = fn(&Sessions, &str) -> Result<String, Refusal>;

/// The placeholder of an id in a path.
const ID: &str = "{id}";

/// All requests that are answered.
const ROUTES: &[AdminRoute] = &[
    get("/", Guard::Host, Access::Page, Handler::Now(|_| page())),
    get(
        "/status",
        Guard::Host,
        Access::Token,
        Handler::Queued(|admin, _| Box::pin(admin.status())),
    ),
    get(
        "/metrics",
        Guard::Host,
        Access::Metrics,
        Handler::Queued(|admin, _| Box::pin(admin.metrics())),
    ),
    get(
        "/sessions",
        Guard::Host,
        Access::Token,
        Handler::Queued(|admin, query| Box::pin(admin.view(query, views::sessions))),
    ),
    get(
        "/sessions/facts",
        Guard::Host,
        Access::Token,
        Handler::Queued(|admin, query| Box::pin(admin.view(query, views::facts))),
    ),
    get(
        "/offers",
        Guard::Host,
        Access::Token,
        Handler::Queued(|admin, query| Box::pin(admin.view(query, views::offers))),
    ),
    get(
        "/top",
        Guard::Host,
        Access::Token,
        Handler::Queued(|admin, query| Box::pin(admin.view(query, views::top))),
    ),
    get(
        "/events",
        Guard::Host,
        Access::Token,
        Handler::Stream(|admin, request, _| events::follow(admin, request)),
    ),
    get(
        "/runbooks/{id}",
        Guard::Host,
        Access::Page,
        Handler::Queued(|_, alert| Box::pin(async move { runbook(alert) })),
    ),
    get("/livez", Guard::Open, Access::Metrics, Handler::Now(|_| text(StatusCode::OK, "ok\n"))),
    get(
        "/startupz",
        Guard::Open,
        Access::Metrics,
        Handler::Now(|admin| admin.probe(admin.shutdown.phase() != Phase::Starting)),
    ),
    get(
        "/readyz",
        Guard::Open,
        Access::Metrics,
        Handler::Now(|admin| admin.probe(admin.shutdown.phase() == Phase::Running)),
    ),
    post("/reload", Handler::Queued(|admin, query| Box::pin(admin.reload(query)))),
    post("/drain", Handler::Now(Admin::drain)),
    post("/trace", Handler::Stream(trace::start)),
    delete("/sessions", |admin, query| Box::pin(admin.kill(query, kill::matching))),
    delete("/sessions/{id}", |admin, id| Box::pin(admin.kill(id, kill::one))),
];

const fn get(path: &'static str, guard: Guard, access: Access, handler: Handler) -> AdminRoute {
    AdminRoute { method: Verb::Get, path, guard, access, handler }
}

const fn post(path: &'static str, handler: Handler) -> AdminRoute {
    let (guard, access) = (Guard::NotFromBrowser, Access::Token);
    AdminRoute { method: Verb::Post, path, guard, access, handler }
}

const fn delete(path: &'static str, handler: Queued) -> AdminRoute {
    let (guard, access) = (Guard::OwnPage, Access::Token);
    AdminRoute { method: Verb::Delete, path, guard, access, handler: Handler::Queued(handler) }
}

impl AdminRoute {
    /// Returns the id in `path`, or `""` if the route's path has none. None: the path is another one.
    fn matches<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.path.strip_suffix(ID) {
            Some(before) => {
                path.strip_prefix(before).filter(|id| !id.is_empty() && !id.contains('/'))
            }
            None => (self.path == path).then_some(""),
        }
    }
}

impl Verb {
    /// The verbs, with their names in a list of routes and in an Allow header.
    const ALL: [(Self, &'static str, &'static str); 3] = [
        (Self::Get, "GET", "GET, HEAD"),
        (Self::Post, "POST", "POST"),
        (Self::Delete, "DELETE", "DELETE"),
    ];

    fn includes(self, method: &Method) -> bool {
        match self {
            Self::Get => [Method::GET, Method::HEAD].contains(method),
            Self::Post => *method == Method::POST,
            Self::Delete => *method == Method::DELETE,
        }
    }
}

/// Answers on all endpoints until the process ends, up to `max_connections` connections at a time. Each endpoint has its
/// share of them: clients of the endpoint for metrics cannot delay an operator.
pub(crate) fn serve(endpoints: Vec<Endpoint>, admin: &Arc<Admin>, max_connections: usize) {
    let status = Arc::clone(&admin.status);
    tokio::spawn(async move { status.history.run().await });
    let share = max_connections / endpoints.len().max(1);
    for endpoint in endpoints {
        let clients = Clients::new(share.max(MIN_CONNECTIONS));
        tokio::spawn(serve_endpoint(Arc::new(endpoint), Arc::clone(admin), clients));
    }
}

async fn serve_endpoint(endpoint: Arc<Endpoint>, admin: Arc<Admin>, clients: Arc<Clients>) {
    loop {
        match endpoint.accept().await {
            Ok((stream, caller)) => {
                let permit = clients.permit().await;
                let (admin, endpoint) = (Arc::clone(&admin), Arc::clone(&endpoint));
                tokio::spawn(permit.serve(stream, move |request, turn| {
                    let (admin, endpoint) = (Arc::clone(&admin), Arc::clone(&endpoint));
                    async move { admin.answer((&endpoint, caller), &request, &turn).await }
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "admin port cannot accept a connection, trying again");
                // A closed connection of this port frees a file descriptor for the next.
                clients.evict_one();
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Admin {
    /// Answers a request that has come from `caller` to `endpoint`.
    async fn answer(
        &self,
        (endpoint, caller): (&Endpoint, Caller),
        request: &Request<Incoming>,
        turn: &Turn,
    ) -> Reply {
        let path = request.uri().path();
        let mut at_path = routes(endpoint.scope).filter_map(|r| Some((r, r.matches(path)?)));
        let found = at_path.find(|(route, _)| route.method.includes(request.method()));
        let (route, id) = found.unzip();
        let guard = route.map_or(Guard::Host, |route| route.guard);
        if let Err(refusal) =
            guard.check(endpoint.is_local, self.token.as_deref(), request.headers())
        {
            return text(StatusCode::FORBIDDEN, refusal);
        }
        if route.is_some_and(|route| route.access == Access::Token)
            && !guard::has_token(self.token.as_deref(), request.headers())
        {
            return unauthorized();
        }
        match route.map(|route| route.handler) {
            Some(Handler::Now(answer)) => answer(self),
            Some(Handler::Stream(answer)) => answer(self, request, caller),
            Some(Handler::Queued(answer)) => match turn.wait().await {
                Some(_turn) => {
                    let query = request.uri().query().unwrap_or_default();
                    answer(self, id.filter(|id| !id.is_empty()).unwrap_or(query)).await
                }
                None => text(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time\n"),
            },
            None => no_route(path, endpoint.scope),
        }
    }

    fn drain(&self) -> Reply {
        self.shutdown.drain();
        text(StatusCode::ACCEPTED, "draining\n")
    }

    /// Returns the phase, with 200 or with the 503 that a probe counts as a failure.
    fn probe(&self, good: bool) -> Reply {
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        text(status, format!("{}\n", self.shutdown.phase()))
    }

    async fn metrics(&self) -> Reply {
        let metrics = Arc::clone(&self.metrics);
        match self.pool.run(move || metrics.render()).await.and_then(identity) {
            Ok((body, content_type)) => typed(StatusCode::OK, body, content_type),
            Err(error) => failed(&error),
        }
    }

    async fn status(&self) -> Reply {
        let (status, metrics) = (Arc::clone(&self.status), Arc::clone(&self.metrics));
        let (shutdown, reload) = (self.shutdown.clone(), self.reload.status());
        let made = self.pool.run(move || {
            metrics.refresh();
            status.json(&shutdown, &reload, &metrics)
        });
        made.await.map_or_else(|error| failed(&error), json)
    }

    async fn view(&self, query: &str, view: View) -> Reply {
        let (sessions, query) = (Arc::clone(&self.sessions), query.to_owned());
        match self.pool.run(move || view(&sessions, &query)).await {
            Ok(Ok(body)) => json(body),
            Ok(Err(refusal)) => text(StatusCode::BAD_REQUEST, refusal),
            Err(error) => failed(&error),
        }
    }

    async fn kill(&self, selection: &str, kill: Kill) -> Reply {
        let (sessions, selection) = (Arc::clone(&self.sessions), selection.to_owned());
        match self.pool.run(move || kill(&sessions, &selection)).await {
            Ok(Ok(body)) => json(body),
            Ok(Err(Refusal::Invalid(refusal))) => text(StatusCode::BAD_REQUEST, refusal),
            Ok(Err(Refusal::Unknown(refusal))) => text(StatusCode::NOT_FOUND, refusal),
            Err(error) => failed(&error),
        }
    }

    async fn reload(&self, query: &str) -> Reply {
        match query::rollout_order(query) {
            Ok(None) => self.reload_files().await,
            Ok(Some(order)) => self.decide(order).await,
            Err(refusal) => text(StatusCode::BAD_REQUEST, refusal),
        }
    }

    /// Decides about rollouts. No file is read for it.
    async fn decide(&self, order: RolloutOrder) -> Reply {
        let (result, what) = match order.verdict {
            Verdict::Promote => (RolloutResult::Promoted, "promoted"),
            Verdict::RollBack => (RolloutResult::RolledBack, "rolled back"),
        };
        match self.reload.decide(order).await {
            None => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            Some(decided) if decided.is_empty() => {
                let message = format!("there is no certificate rollout that can be {what}\n");
                text(StatusCode::CONFLICT, message)
            }
            Some(decided) => text(StatusCode::OK, format!("{result}\n{}\n", decided.join("\n"))),
        }
    }

    async fn reload_files(&self) -> Reply {
        let Some(report) = self.reload.reload().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
        };
        let status = match report.outcome {
            ReloadOutcome::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            ReloadOutcome::Swapped | ReloadOutcome::Unchanged => StatusCode::OK,
        };
        let mut lines = vec![report.outcome.to_string()];
        lines.extend(report.failures);
        lines.extend(report.waiting);
        text(status, lines.join("\n") + "\n")
    }
}

/// Returns the runbook of an alert.
fn runbook(alert: &str) -> Reply {
    match runbooks::find(alert) {
        Some(found) => text(StatusCode::OK, found),
        None => {
            let known: Vec<_> = runbooks::names().collect();
            text(StatusCode::NOT_FOUND, format!("known runbooks: {}\n", known.join(", ")))
        }
    }
}

/// Answers a request that no route takes: its path has another method, or is unknown.
fn no_route(path: &str, scope: Scope) -> Reply {
    let has = |verb| routes(scope).any(|r| r.method == verb && r.matches(path).is_some());
    let allowed = Verb::ALL.iter().filter(|(verb, ..)| has(*verb)).map(|(.., allowed)| *allowed);
    let allowed: Vec<_> = allowed.collect();
    match allowed.is_empty() {
        true => text(StatusCode::NOT_FOUND, list(scope)),
        false => not_allowed(&allowed.join(", ")),
    }
}

/// Returns the routes of an endpoint.
fn routes(scope: Scope) -> impl Iterator<Item = &'static AdminRoute> {
    ROUTES.iter().filter(move |route| scope == Scope::Whole || route.access == Access::Metrics)
}

/// Returns the routes of an endpoint in one line.
fn list(scope: Scope) -> String {
    let lists = Verb::ALL.iter().filter_map(|(verb, name, _)| {
        let paths: Vec<_> = routes(scope).filter(|r| r.method == *verb).map(|r| r.path).collect();
        (!paths.is_empty()).then(|| format!("{name} {}", paths.join(" ")))
    });
    lists.collect::<Vec<_>>().join(", ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_path_is_answered_with_all_routes() {
        let expected = "GET / /status /metrics /sessions /sessions/facts /offers /top /events /runbooks/{id} \
                        /livez /startupz /readyz, POST /reload /drain /trace, DELETE /sessions /sessions/{id}\n";
        assert_eq!(list(Scope::Whole), expected);
        assert_eq!(list(Scope::Metrics), "GET /metrics /livez /startupz /readyz\n");
    }
}
