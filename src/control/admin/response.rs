//! Responses of the admin port.
//!
//! **Promises.** Each has a content type and is neither cached nor sniffed.
//!
//! **Not here.** Their content (`status.rs`, `views.rs`, `page.rs`).

use std::convert::Infallible;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::page::{PAGE, Page};

/// A response, whole or as a stream.
pub(super) type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    typed(status, body, "text/plain; charset=utf-8")
}

/// Returns a response of JSON, as [`to_json`] makes it.
pub(super) fn json(body: String) -> Reply {
    typed(StatusCode::OK, body, "application/json")
}

pub(super) fn failed(error: &std::io::Error) -> Reply {
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
}

/// Returns the refusal of a request without the token.
pub(super) fn unauthorized() -> Reply {
    let message = "this request needs the token of admin.token_file: Authorization: Bearer TOKEN\n";
    let mut response = text(StatusCode::UNAUTHORIZED, message);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

pub(super) fn not_allowed(allowed: &str) -> Reply {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("allowed: {allowed}\n"));
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

/// Returns the page for people.
pub(super) fn page() -> Reply {
    let Page { html, policy } = &*PAGE;
    let mut response = typed(StatusCode::OK, html.as_str(), "text/html; charset=utf-8");
    if let Ok(policy) = HeaderValue::from_str(policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

pub(super) fn typed(
    status: StatusCode,
    body: impl Into<Bytes>,
    content_type: &'static str,
) -> Reply {
    with_body(status, Full::new(body.into()), content_type)
}

/// Returns a response with this body, which may have no end yet.
pub(super) fn with_body(
    status: StatusCode,
    body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
    content_type: &'static str,
) -> Reply {
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns a value as one line of JSON.
pub(super) fn to_json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value);
    json.expect("views have text for keys, and nothing in them fails to serialize") + "\n"
}
