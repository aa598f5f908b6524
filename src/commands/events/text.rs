//! An event for people: one line.
//!
//! **Promises.** Text of devices is escaped. An event of a later version is shown by its keys.
//!
//! **Not here.** The keys (`events.rs` of the crate).

use serde_json::Value;

use crate::text::for_terminal;
use crate::trust::x509::Timestamp;

/// An event.
struct Event<'a>(&'a Value);

/// Returns the line of an event.
pub(super) fn line(event: &Value) -> String {
    format!("{} {}", time(event["at"].as_f64().unwrap_or_default()), Event(event).sentence())
}

/// Returns a time in UTC, with milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest value of the integer"
)]
fn time(at: f64) -> String {
    let milliseconds = (at * 1000.0).round() as u64;
    let seconds = Timestamp::from_unix(milliseconds / 1000).to_string();
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), milliseconds % 1000)
}

impl Event<'_> {
    fn sentence(&self) -> String {
        match self.0["kind"].as_str().unwrap_or_default() {
            "opened" => format!("session {} opened: {}", self.connection(), self.opened()),
            "closed" => format!(
                "session {} closed ({}) after {:.1} s: {}, {} bytes to the backend, {} to the client",
                self.connection(),
                self.text("reason"),
                self.0["duration_seconds"].as_f64().unwrap_or_default(),
                self.device(),
                self.number("bytes_to_backend"),
                self.number("bytes_to_client"),
            ),
            "refused" => format!(
                "connection {} refused ({}): {}{}{}",
                self.connection(),
                self.text("reason"),
                self.refused(),
                self.after(": ", "error"),
                self.after("; likely cause: ", "likely_cause"),
            ),
            "reload" => self.reload(),
            "certificate" => self.certificate(),
            "trust" => self.trust(),
            "config" => {
                let of = self.after(" of listener ", "listener");
                format!("configuration{of} changed: {}", self.text("changed"))
            }
            "recheck" => format!(
                "sessions{} checked with the new trust: of {}, {} revoked, {} expired, {} not allowed",
                self.listener(),
                self.number("sessions"),
                self.number("revoked"),
                self.number("expired"),
                self.number("not_allowed"),
            ),
            "drain" => {
                let connections = self.number("connections");
                format!("drain: {}, {connections} connections are open", self.text("phase"))
            }
            "backend" => {
                let state = if self.0["up"] == true { "up" } else { "down" };
                format!("backend {}{} is {state}", self.text("backend"), self.listener())
            }
            "lost" => match self.0["count"].as_u64() {
                Some(1) => "1 event is missing here".to_owned(),
                Some(count) => format!("{count} events are missing here"),
                None => "events may be missing here".to_owned(),
            },
            _ => self.keys(),
        }
    }

    fn text(&self, key: &str) -> String {
        for_terminal(self.0[key].as_str().unwrap_or("unknown"))
    }

    fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or_default()
    }

    /// Returns a text with words before it; nothing if it is not known.
    fn after(&self, words: &str, key: &str) -> String {
        let text = self.0[key].as_str();
        text.map_or_else(String::new, |text| format!("{words}{}", for_terminal(text)))
    }

    /// Returns the listener, and its route if there is one.
    fn listener(&self) -> String {
        let listener = self.after(" of listener ", "listener");
        let route = self.0["route"].as_u64();
        route.map_or_else(|| listener.clone(), |route| format!("{listener} route[{route}]"))
    }

    fn connection(&self) -> String {
        format!("{}{}", self.number("connection"), self.listener())
    }

    /// Returns the name and the address of the device.
    fn device(&self) -> String {
        let name = self.0["identity"].as_str().map_or_else(|| "device".to_owned(), for_terminal);
        format!("{name} at {}", self.text("peer"))
    }

    fn opened(&self) -> String {
        let handshake = self.0["handshake"].as_str();
        [
            self.device(),
            self.after(", server name ", "sni"),
            self.after(", TLS ", "tls"),
            self.after(" ", "cipher"),
            handshake
                .map_or_else(String::new, |kind| format!(", {} handshake", for_terminal(kind))),
            self.after(", backend ", "backend"),
        ]
        .concat()
    }

    fn refused(&self) -> String {
        [
            self.device(),
            self.after(", server name ", "sni"),
            // Nothing verifies a certificate that was refused.
            self.after(", claims ", "cert_subject"),
            self.after(" by ", "cert_issuer"),
            self.after(" serial ", "cert_serial"),
        ]
        .concat()
    }

    fn reload(&self) -> String {
        let mut line = format!("reload: {}", self.text("outcome"));
        for key in ["failures", "waiting"] {
            let sentences = self.0[key].as_array().into_iter().flatten().filter_map(Value::as_str);
            line.extend(sentences.map(|sentence| format!("; {}", for_terminal(sentence))));
        }
        line
    }

    fn certificate(&self) -> String {
        let end = self.0["not_after"].as_i64().and_then(|end| u64::try_from(end).ok());
        let end =
            end.map_or_else(|| "unknown".to_owned(), |end| Timestamp::from_unix(end).to_string());
        let (file, of) = (self.text("cert"), self.listener());
        format!(
            "certificate {file}{of} is active: serial {}, valid until {end}",
            self.text("serial")
        )
    }

    fn trust(&self) -> String {
        let what = match self.0["object"].as_str().unwrap_or_default() {
            "client_ca" => "client CAs".to_owned(),
            "crl" => "CRL".to_owned(),
            "allow" => "allow rules".to_owned(),
            other => for_terminal(other),
        };
        let (file, of) = (self.after(" ", "file"), self.listener());
        let (added, removed) = (self.number("added"), self.number("removed"));
        format!("{what}{file}{of} changed: {added} added, {removed} removed")
    }

    /// Returns all keys of an event.
    fn keys(&self) -> String {
        let keys = self.0.as_object().into_iter().flatten();
        let keys = keys.filter(|(key, value)| {
            !matches!(&***key, "kind" | "at" | "number") && !value.is_null()
        });
        let shown = keys.map(|(key, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!(" {}={}", for_terminal(key), for_terminal(&value))
        });
        self.text("kind") + &shown.collect::<String>()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sentence(mut event: Value) -> String {
        event["at"] = json!(1_796_038_263.5);
        let line = line(&event);
        line.strip_prefix("2026-11-30T11:31:03.500Z ")
            .unwrap_or_else(|| panic!("{line}"))
            .to_owned()
    }

    #[test]
    fn each_kind_of_event_is_a_sentence() {
        let session = |kind: &str| {
            json!({
                "kind": kind, "connection": 7, "listener": "mqtt", "peer": "192.0.2.7:1", "identity": "pump-7", "sni": null,
                "tls": "1.3", "cipher": "TLS_AES_128_GCM_SHA256", "handshake": "full", "backend": "127.0.0.1:1883",
                "reason": "ok", "bytes_to_backend": 4, "bytes_to_client": 5, "duration_seconds": 1.25,
            })
        };
        for (event, expected) in [
            (
                session("opened"),
                "session 7 of listener mqtt opened: pump-7 at 192.0.2.7:1, TLS 1.3 TLS_AES_128_GCM_SHA256, full handshake, \
                 backend 127.0.0.1:1883",
            ),
            (
                session("closed"),
                "session 7 of listener mqtt closed (ok) after 1.2 s: pump-7 at 192.0.2.7:1, 4 bytes to the backend, 5 to the \
                 client",
            ),
            (
                json!({"kind": "reload", "outcome": "failed", "failures": ["a", "b"], "waiting": ["c"]}),
                "reload: failed; a; b; c",
            ),
            (
                json!({"kind": "certificate", "listener": "mqtt", "route": 1, "cert": "a.crt", "serial": "01", "not_after": 0}),
                "certificate a.crt of listener mqtt route[1] is active: serial 01, valid until 1970-01-01T00:00:00Z",
            ),
            (
                json!({"kind": "trust", "listener": "mqtt", "object": "crl", "file": "a.crl", "added": 2, "removed": 1}),
                "CRL a.crl of listener mqtt changed: 2 added, 1 removed",
            ),
            (
                json!({"kind": "config", "listener": null, "changed": "a"}),
                "configuration changed: a",
            ),
            (
                json!({"kind": "recheck", "listener": "mqtt", "sessions": 9, "revoked": 1, "expired": 2, "not_allowed": 3}),
                "sessions of listener mqtt checked with the new trust: of 9, 1 revoked, 2 expired, 3 not allowed",
            ),
            (
                json!({"kind": "drain", "phase": "closing", "connections": 3}),
                "drain: closing, 3 connections are open",
            ),
            (
                json!({"kind": "backend", "listener": "mqtt", "backend": "b:1", "up": false}),
                "backend b:1 of listener mqtt is down",
            ),
            (
                json!({"kind": "refused", "connection": 9, "listener": "mqtt", "peer": "192.0.2.7:1",
                    "reason": "client_tls_alert", "error": "the alert", "likely_cause": "clock_behind"}),
                "connection 9 of listener mqtt refused (client_tls_alert): device at 192.0.2.7:1: the alert; \
                 likely cause: clock_behind",
            ),
            (json!({"kind": "lost", "count": 7}), "7 events are missing here"),
            (json!({"kind": "lost", "count": null}), "events may be missing here"),
            (
                json!({"kind": "later", "number": 1, "a": [1], "b": null, "c": "d"}),
                "later a=[1] c=d",
            ),
        ] {
            assert_eq!(sentence(event), expected);
        }
    }

    #[test]
    fn text_of_devices_is_escaped() {
        let shown = sentence(json!({
            "kind": "refused", "connection": 8, "listener": "mqtt", "peer": "192.0.2.7:1", "identity": null,
            "sni": "a\nb", "reason": "client_cert_unknown_ca", "cert_subject": "CN=\u{1b}[2J", "cert_issuer": "CN=\u{202e}",
            "cert_serial": "01", "error": "c\rd",
        }));
        let expected = "connection 8 of listener mqtt refused (client_cert_unknown_ca): device at 192.0.2.7:1, server name \
                        a\\nb, claims CN=\\u{1b}[2J by CN=\\u{202e} serial 01: c\\rd";
        assert_eq!(shown, expected);
    }
}
