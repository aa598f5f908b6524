//! A step of a trace for people: one line.
//!
//! **Promises.** Text of devices is escaped. A key of a later version is shown as well.
//!
//! **Not here.** The keys (`sessions/trace/step.rs`).

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::text::for_terminal;

/// Keys that each line begins with.
const COMMON: [&str; 7] = ["step", "connection", "listener", "peer", "matched", "at", "ms"];

/// The other keys, in the order of a line. Unknown ones follow.
const ORDER: [&str; 39] = [
    "identity",
    "sni",
    "backend",
    "age_seconds",
    "via",
    "bytes",
    "versions",
    "suites",
    "groups",
    "key_shares",
    "schemes",
    "alpn",
    "resumption",
    "early_data",
    "route",
    "rollout",
    "client_certificate",
    "verified",
    "names",
    "subject",
    "issuer",
    "serial",
    "sha256",
    "not_after",
    "key",
    "sender",
    "alert",
    "tls",
    "cipher",
    "group",
    "handshake",
    "connected",
    "reason",
    "phase",
    "error",
    "likely_cause",
    "bytes_to_backend",
    "bytes_to_client",
    "duration_ms",
];

/// Returns the line of a step.
pub(super) fn step(step: &Value) -> String {
    let empty = Map::new();
    let keys = step.as_object().unwrap_or(&empty);
    let text = |key: &str| for_terminal(keys.get(key).and_then(Value::as_str).unwrap_or_default());
    let number = |key: &str| keys.get(key).and_then(Value::as_f64).unwrap_or_default();
    let connection = keys.get("connection").and_then(Value::as_u64).unwrap_or_default();
    let (clock, ms, kind) = (clock(number("at")), number("ms"), text("step"));
    let mut line = format!("{clock} #{connection} +{ms:.1} ms {kind}");
    match &*text("matched") {
        "" | "verified" => {}
        matched => {
            // Writing to a String cannot fail.
            let _infallible = write!(line, " (by {matched})");
        }
    }
    if ["accepted", "connected"].contains(&&*kind) {
        let (listener, peer) = (text("listener"), text("peer"));
        let _infallible = write!(line, " listener={listener} peer={peer}");
    }
    let is_other = |key: &&str| !COMMON.contains(key) && !ORDER.contains(key);
    let others = keys.keys().map(String::as_str).filter(is_other);
    for key in ORDER.into_iter().chain(others) {
        if let Some(value) = keys.get(key).and_then(shown) {
            let _infallible = write!(line, " {}={value}", for_terminal(key));
        }
    }
    line
}

/// Returns the line of the start, of the end, or of the end of the capture.
pub(super) fn frame(frame: &Value) -> String {
    let number = |key: &str| frame[key].as_u64().unwrap_or_default();
    let (trace, seconds) = (number("trace"), number("seconds"));
    match frame["reason"].as_str() {
        None if frame["step"] == "truncated" => {
            format!(
                "trace {trace}: the capture has as many bytes as it may; later ones are missing"
            )
        }
        None => format!("trace {trace} has begun; it ends after {seconds} s"),
        Some(reason) => {
            let (reason, steps, lost) = (for_terminal(reason), number("steps"), number("lost"));
            let packets = match number("lost_packets") {
                0 => String::new(),
                lost => format!("; {lost} packets were lost"),
            };
            let end = if frame["truncated"] == true { "; the capture was cut" } else { "" };
            format!(
                "trace {trace} has ended ({reason}) after {steps} steps; {lost} were lost{packets}{end}"
            )
        }
    }
}

/// Returns a value as text; none without one.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) if text.contains([' ', ',', '"', '=']) || text.is_empty() => {
            Some(format!("\"{}\"", for_terminal(text).replace('"', "\\\"")))
        }
        Value::String(text) => Some(for_terminal(text)),
        Value::Array(list) if list.is_empty() => None,
        Value::Array(list) => Some(list.iter().filter_map(shown).collect::<Vec<_>>().join(",")),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => Some(value.to_string()),
    }
}

/// Returns the time of day in UTC, with milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest value of the integer"
)]
fn clock(at: f64) -> String {
    let milliseconds = (at * 1000.0).round() as u64;
    let seconds = milliseconds / 1000 % 86_400;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}Z", seconds % 60, milliseconds % 1000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_is_one_line_and_text_of_devices_is_escaped() {
        let shown = step(&json!({
            "connection": 7, "listener": "mqtt", "peer": "192.0.2.7:1", "matched": "claimed",
            "at": 1_796_038_263.5, "ms": 12.345, "step": "client_certificate", "verified": false,
            "names": ["a\u{1b}[2J", "b"], "alpn": ["a,b", "c"], "subject": "CN=a, O=b", "serial": null, "later": 1,
        }));
        let expected = "11:31:03.500Z #7 +12.3 ms client_certificate (by claimed) alpn=\"a,b\",c \
                        verified=false names=a\\u{1b}[2J,b subject=\"CN=a, O=b\" later=1";
        assert_eq!(shown, expected);
    }
}
