//! Tests of the configuration file: defaults, keys, and the report of all problems together.

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tlsidecar::config::file::{self, ConfigError, ConfigProblem};
use tlsidecar::config::{
    BackendAddress, BackendList, Balance, BalancePolicy, ClientAuth, ClientTrust, Config,
    ConnectTime, CrlCheck, CrlRules, ExpiredCrl, GuardAction, Guards, KeyGroup, Rollout,
    SourceAddress, SourcePrefix, TlsConfig, TlsVersion, UnknownStatus,
};
use tlsidecar::logging::Format;
use tlsidecar::terms::labels::Cipher;

/// Returns a directory with the files that the configurations in this file name.
fn dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tls.crt", "tls.key", "ca.crt", "devices.crl", "allow.toml"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    dir
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    let dir = dir();
    file::parse(text, &dir.path().join("tlsidecar.toml"))
}

/// The shortest valid configuration.
const GOOD: &str = r#"
[[listener]]
name = "mqtt"
listen = "0.0.0.0:8883"
backend = "127.0.0.1:1883"
tls.certificates = [{ cert = "tls.crt", key = "tls.key" }]
"#;

#[test]
fn absent_keys_have_the_documented_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9901");
    assert_eq!(config.log.format, Format::Text);
    assert_eq!(config.log.filter.to_string(), "info");
    assert_eq!(config.shutdown.delay, Duration::ZERO);
    assert_eq!(config.shutdown.drain_timeout, Duration::from_secs(25));
    let [listener] = &config.listeners[..] else { panic!("one listener") };
    assert_eq!(listener.tls.min_version, TlsVersion::Tls12);
    assert_eq!(listener.tls.client_auth, ClientAuth::None);
    assert_eq!(listener.tls.tickets, 1);
    assert_eq!(listener.tls.max_record_bytes, 16384);
    assert!(!listener.tls.small_first_records);
    assert_eq!(listener.tls.max_chain_certificates, 10);
    assert_eq!(listener.tls.max_chain_bytes, 64 << 10);
    assert!(listener.tls.allow_v1);
    assert_eq!(listener.tls.guards, Guards::default());
    assert_eq!(listener.tls.rollout, None);
    assert_eq!(listener.timeouts.hello, Duration::from_secs(10));
    assert_eq!(listener.timeouts.handshake, Duration::from_secs(30));
    assert_eq!(listener.timeouts.connect, Duration::from_secs(5));
    assert_eq!(listener.timeouts.idle, Some(Duration::from_secs(3600)));
    assert_eq!(listener.timeouts.half_close, Some(Duration::from_secs(60)));
    assert_eq!(listener.timeouts.max_age, None);
    assert_eq!(listener.limits.max_connections, None);
    assert_eq!(listener.tcp.keepalive, Some(Duration::from_secs(60)));
    assert_eq!(listener.tcp.user_timeout, Some(Duration::from_secs(100)));
}

/// A file with other values than the defaults.
const EVERY_KEY: &str = r#"
[admin]
listen = "[::1]:9902"
[log]
format = "json"
filter = "info,access=warn"
[process]
max_buffered_bytes = "32MiB"
max_connections = 5000
[shutdown]
delay = "5s"
drain_timeout = "1m"
max_closes_per_second = 250
[[listener]]
name = "mqtt"
listen = "[::]:8883"
reuse_port = true
backend = ["unix:/run/broker.sock", "10.0.0.2:1883"]
[listener.balance]
policy = "least_sessions"
check_interval = "5s"
connect = "before_handshake"
max_connects_in_progress = 20
[listener.tls]
certificates = [{ cert = "tls.crt", key = "tls.key" }, { cert = "tls.crt", key = "tls.key" }]
min_version = "1.3"
suites = ["TLS_AES_256_GCM_SHA384", "ECDHE-RSA-AES128-GCM-SHA256"]
legacy_suites = ["TLS_AES_128_CCM_8_SHA256", "ECDHE-ECDSA-AES128-CCM8"]
groups = ["P-384", "x25519", "P-521"]
client_auth = "optional"
client_ca = "ca.crt"
crls = ["devices.crl"]
crl_check = "leaf"
crl_unknown = "allow"
crl_expired = "deny"
accept_expired_client_certs = true
send_ca_names = true
alpn = ["mqtt"]
tickets = 0
guards = { key_type = "refuse", issuer = "ignore", names = "refuse", not_yet_valid = "warn", intermediate = "refuse", flight = "ignore" }
rollout = { share = "20%", observe = "1h", min_addresses = 50, tolerance = "5%" }
max_record_bytes = 4096
small_first_records = true
max_chain_certificates = 4
max_chain_bytes = "16KiB"
allow_v1 = false
[listener.allow]
cn = ["pump 7", "valve-*"]
dns = ["*.devices.example"]
uri = ["spiffe://plant-a/device/*"]
ou = ["Line 2"]
spki_sha256 = ["ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="]
file = "allow.toml"
[listener.timeouts]
hello = "1s"
handshake = "2m"
connect = "500ms"
idle = "0s"
half_close = "0s"
max_age = "1day"
[listener.limits]
max_connections = 100
max_connections_per_source = 9
source_prefix = { v4 = 24 }
max_handshakes_in_progress = 4
max_handshakes_per_second = 50
[listener.tcp]
keepalive = "0s"
user_timeout = "0s"
[[listener.route]]
sni = ["plant-a.example", "*.plant-b.example"]
alpn = ["mqtt"]
backend = "tcp://broker:1883"
"#;

#[test]
fn a_unix_socket_cannot_be_connected_from_the_address_of_a_client() {
    let unix = GOOD.replace("127.0.0.1:1883", "unix:/run/broker.sock");
    assert_ne!(unix, GOOD);
    let client = format!("{unix}[listener.balance]\nsource = \"client\"\n");
    let Err(error) = parse(&client) else { panic!("it is accepted") };
    assert!(error.to_string().contains("listener[0].balance.source"), "{error}");
    let own = client.replace("\"client\"", "\"own\"");
    parse(&own).unwrap();
    let client = format!("{GOOD}[listener.balance]\nsource = \"client\"\n");
    assert_eq!(parse(&client).unwrap().listeners[0].balance.source, SourceAddress::Client);
}

#[test]
fn every_key_can_be_set() {
    let config = parse(EVERY_KEY).unwrap();
    assert_eq!(config.process.max_buffered_bytes, Some(32 << 20));
    assert_eq!(config.process.max_connections, Some(5000));
    assert_eq!(config.shutdown.max_closes_per_second, NonZeroU32::new(250));
    let listener = &config.listeners[0];
    assert_eq!(listener.limits.source_prefix, SourcePrefix { v4: 24, v6: 64 });
    assert!(listener.reuse_port);
    assert_eq!(listener.timeouts.idle, None);
    assert_eq!(listener.timeouts.half_close, None);
    assert_eq!(listener.timeouts.max_age, Some(Duration::from_secs(24 * 3600)));
    let limits = listener.limits;
    assert_eq!((limits.max_connections, limits.max_connections_per_source), (Some(100), Some(9)));
    assert_eq!(limits.max_handshakes_in_progress, Some(4));
    assert_eq!(limits.max_handshakes_per_second, Some(50));
    let tls = &listener.tls;
    assert_eq!((tls.max_chain_certificates, tls.max_chain_bytes), (4, 16 << 10));
    assert_eq!((tls.max_record_bytes, tls.small_first_records), (4096, true));
    assert!(!tls.allow_v1);
    assert_eq!(tls.suites, [Cipher::Tls13Aes256, Cipher::RsaAes128]);
    assert_eq!(tls.groups, [KeyGroup::Secp384r1, KeyGroup::X25519, KeyGroup::Secp521r1]);
    assert_eq!(tls.legacy_suites, [Cipher::Tls13Aes128Ccm8, Cipher::EcdsaAes128Ccm8]);
    let Guards { key_type, issuer, names, not_yet_valid, intermediate, flight } = tls.guards;
    let (ignore, warn, refuse) = (GuardAction::Ignore, GuardAction::Warn, GuardAction::Refuse);
    assert_eq!([key_type, names, intermediate], [refuse; 3]);
    assert_eq!((issuer, not_yet_valid, flight), (ignore, warn, ignore));
    let observe = Duration::from_secs(3600);
    let rollout = Rollout { share: 20, observe, min_addresses: 50, tolerance: 5 };
    assert_eq!(tls.rollout, Some(rollout));
    assert_eq!((listener.tcp.keepalive, listener.tcp.user_timeout), (None, None));
    let backends = ["unix:/run/broker.sock", "10.0.0.2:1883"];
    let backends = backends.map(|text| text.parse::<BackendAddress>().unwrap());
    assert_eq!(listener.backend, BackendList::new(backends.to_vec()));
    let Balance { policy, check_interval, connect, max_connects_in_progress, source } =
        listener.balance;
    assert_eq!(source, SourceAddress::Own);
    assert_eq!(policy, BalancePolicy::LeastSessions);
    assert_eq!(
        (check_interval, max_connects_in_progress),
        (Some(Duration::from_secs(5)), Some(20))
    );
    assert_eq!(connect, ConnectTime::BeforeHandshake);
    assert_eq!(listener.routes[0].backend, "broker:1883".parse::<BackendAddress>().unwrap().into());
    let ClientAuth::Optional(trust) = &tls.client_auth else { panic!("optional") };
    assert_eq!(trust.crls.len(), 1);
    let CrlRules { check, unknown, expired } = trust.crl_rules;
    assert_eq!(check, CrlCheck::Leaf);
    assert_eq!((unknown, expired), (UnknownStatus::Allow, ExpiredCrl::Deny));
    assert!(trust.accept_expired && trust.send_ca_names);
    assert_eq!(trust.allow.rules.count(), 6);
    assert!(trust.allow.file.as_ref().is_some_and(|file| file.ends_with("allow.toml")));
    assert_eq!(config.log.format, Format::Json);
}

#[test]
fn problems_of_a_list_of_backends_are_reported_with_their_places() {
    let backend = |value: &str| GOOD.replace("\"127.0.0.1:1883\"", value);
    let key = "listener[0].backend";
    let one = "\"a:1\"";
    assert!(parse(&backend(&format!("[{one}]"))).is_ok());
    assert_problem(&backend("[]"), (5, 11), key, &["empty list", "at least one"]);
    assert_problem(&backend("7"), (5, 11), key, &["`7`", "a list of these"]);
    let text = backend(&format!("[{one}, \"a\"]"));
    assert_problem(&text, (5, 19), &format!("{key}[1]"), &["\"a\"", "host:port"]);
    let text = backend(&format!("[{one}, \"b:1\", \"tcp://a:1\"]"));
    assert_problem(&text, (5, 26), &format!("{key}[2]"), &["\"a:1\"", "listener[0].backend[0]"]);
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let dir = dir();
    let config = file::parse(GOOD, &dir.path().join("tlsidecar.toml")).unwrap();
    assert_eq!(config.listeners[0].tls.certificates[0].cert, dir.path().join("tls.crt"));
}

/// Asserts that `text` has one problem, with this place, this key, and these words in its message.
fn assert_problem(text: &str, place: (usize, usize), key: &str, words: &[&str]) {
    let error = parse(text).unwrap_err();
    let [problem] = &error.problems[..] else { panic!("one problem, not {error}") };
    assert_eq!((problem.place, problem.key.as_str()), (Some(place), key), "{error}");
    for word in words {
        assert!(problem.message.contains(word), "{word:?} in {error}");
    }
}

#[test]
fn each_invalid_value_is_reported_with_its_place_and_the_allowed_values() {
    let listener = |line: &str| format!("{GOOD}{line}\n");
    let section = |line: &str| format!("{line}\n{GOOD}");
    let before = GOOD.lines().count() + 1;
    let place = (before, 1);
    // The place of an unknown key is its name, the place of an invalid value is the value.
    assert_problem(&section("colour = 1"), (1, 1), "colour", &["admin", "listener"]);
    assert_problem(&listener("colour = 1"), place, "listener[0].colour", &["timeouts", "backend"]);
    let after = |key: &str| (before, key.len() + 4);
    for (key, value, words) in [
        ("timeouts.idle", "\"5 parsecs\"", &["5 parsecs", "365d"][..]),
        ("timeouts.idle", "5", &["integer `5`", "\"500ms\""]),
        ("timeouts.idle", "\"366d\"", &["366d", "365d"]),
        ("timeouts.hello", "\"0s\"", &["0s", "1ms"]),
        ("timeouts.connect", "\"-1s\"", &["-1s"]),
        ("limits.max_connections", "-1", &["`-1`", "0 to 1000000"]),
        ("balance.source", "\"device\"", &["device", "\"own\" or \"client\""]),
        ("limits.source_prefix", "24", &["`24`", "{ v4 = 24, v6 = 56 }"]),
        ("limits.source_prefix.v4", "33", &["`33`", "1 to 32"]),
        ("limits.source_prefix.v6", "0", &["`0`", "1 to 128"]),
        ("limits.max_connections", "\"many\"", &["many", "whole number"]),
        ("tls.min_version", "\"1.1\"", &["1.1", "1.2", "1.3"]),
        ("tls.tickets", "5", &["`5`", "0 to 4"]),
        ("tls.guards.names", "\"deny\"", &["deny", "\"ignore\", \"warn\" or \"refuse\""]),
        ("tls.rollout.share", "\"51%\"", &["51%", "\"1%\" to \"50%\""]),
        ("tls.rollout.share", "5", &["`5`", "\"1%\" to \"50%\""]),
        ("tls.rollout.observe", "\"0s\"", &["0s", "1ms"]),
        ("tls.rollout.min_addresses", "0", &["`0`", "1 to 100000"]),
        ("tls.rollout.tolerance", "\"0%\"", &["0%", "\"1%\" to \"50%\""]),
        ("tls.rollout", "\"5%\"", &["share = \"5%\""]),
        ("tls.max_record_bytes", "511", &["`511`", "512 to 16384 bytes"]),
        ("tls.max_record_bytes", "16385", &["`16385`", "512 to 16384 bytes"]),
        ("tls.max_record_bytes", "\"17KiB\"", &["17KiB", "512 to 16384 bytes"]),
        ("tls.small_first_records", "4096", &["`4096`", "boolean"]),
        ("tls.max_chain_certificates", "0", &["`0`", "1 to 100"]),
        ("tls.max_chain_bytes", "\"65KiB\"", &["65KiB", "\"64KiB\""]),
        ("tls.max_chain_bytes", "\"16\"", &["16", "\"64KiB\""]),
        ("tls.max_chain_bytes", "16384", &["16384", "\"64KiB\""]),
        ("tls.allow_v1", "\"no\"", &["no", "boolean"]),
        ("tls.recheck_spread", "\"61m\"", &["61m", "\"0s\" to \"1h\""]),
        ("tls.min_version", "1.2", &["point `1.2`", "\"1.2\" or \"1.3\""]),
        ("tls.client_auth", "\"maybe\"", &["maybe", "required"]),
        ("tls.crl_check", "\"all\"", &["all", "\"chain\" or \"leaf\""]),
        ("tls.crl_unknown", "true", &["`true`", "\"deny\" or \"allow\""]),
        ("tls.crl_expired", "\"ignore\"", &["ignore", "\"warn\" or \"deny\""]),
        ("tls.accept_expired_client_certs", "1", &["`1`", "boolean"]),
        ("tls.client_auth", "true", &["`true`", "\"none\", \"optional\" or \"required\""]),
        ("tcp.keepalive", "true", &["true", "duration"]),
        ("proxy_protocol.send", "\"v3\"", &["v3", "\"none\", \"v1\" or \"v2\""]),
        ("proxy_protocol.tlvs", "[\"ssl\"]", &["send = \"v2\""]),
        ("balance.policy", "\"random\"", &["random", "\"first\", \"round_robin\" or"]),
        ("balance.policy", "\"round_robin\"", &["no backend", "list"]),
        ("balance.check_interval", "\"500ms\"", &["500ms", "\"1s\" to \"1h\""]),
        ("balance.connect", "\"first\"", &["first", "\"after_handshake\""]),
        ("balance.max_connects_in_progress", "-1", &["`-1`", "0 to 1000000"]),
        ("unknown_name", "\"drop\"", &["drop", "\"default\" or \"refuse\""]),
        ("tcp", "1", &["[listener.tcp]"]),
    ] {
        assert_problem(
            &listener(&format!("{key} = {value}")),
            after(key),
            &format!("listener[0].{key}"),
            words,
        );
    }
}

#[test]
fn each_invalid_value_of_a_list_or_of_the_process_is_reported_in_the_same_way() {
    let listener = |line: &str| format!("{GOOD}{line}\n");
    let before = GOOD.lines().count() + 1;
    for (key, value, words) in [
        ("allow.uri", "\"plant-a\"", &["plant-a", "spiffe://"][..]),
        ("allow.cn", "\"*\"", &["\"*\"", "pump-*"]),
        ("allow.dns", "\"a.*.b\"", &["a.*.b", "DNS name"]),
        ("proxy_protocol.tlvs", "\"cn\"", &["cn", "\"ssl\"", "\"client_cert\""]),
        ("proxy_protocol.accept_from", "\"10.1.2.3/8\"", &["10.1.2.3/8", "10.0.0.0/8"]),
        ("allow.spki_sha256", "1", &["`1`", "64 hexadecimal"]),
    ] {
        let text = listener(&format!("{key} = [{value}]"));
        assert_problem(&text, (before, key.len() + 5), &format!("listener[0].{key}[0]"), words);
    }
    for (section_of, key, value, words) in [
        ("admin", "listen", "\"localhost\"", &["localhost", "IP address"][..]),
        ("log", "format", "\"xml\"", &["xml", "json"]),
        ("log", "format", "1", &["`1`", "\"text\" or \"json\""]),
        ("log", "filter", "\"a=b=c\"", &["a=b=c", "info,access=warn"]),
        ("shutdown", "delay", "\"soon\"", &["soon"]),
    ] {
        let text = format!("[{section_of}]\n{key} = {value}\n{GOOD}");
        assert_problem(&text, (2, key.len() + 4), &format!("{section_of}.{key}"), words);
    }
}

#[test]
fn a_rollout_needs_a_share_and_an_empty_one_is_none() {
    let rollout = |table: &str| format!("{GOOD}tls.rollout = {table}\n");
    let config = parse(&rollout("{ share = \"5%\" }")).unwrap();
    assert_eq!(config.listeners[0].tls.rollout, Some(Rollout::to(5)));
    assert_eq!(parse(&rollout("{}")).unwrap().listeners[0].tls.rollout, None);
    let place = (GOOD.lines().count() + 1, 15);
    let key = "listener[0].tls.rollout.share";
    assert_problem(&rollout("{ observe = \"5m\" }"), place, key, &["missing", "\"50%\""]);
    let listener = "tls.rollout = { share = \"5%\", observe = \"1h\" }\n";
    let config = parse(&routed(listener, "tls.rollout = {}\n")).unwrap();
    assert_eq!(config.listeners[0].routes[0].tls.as_ref().unwrap().rollout, None);
}

#[test]
fn the_certificate_of_a_client_is_sent_in_the_tlv_of_its_session() {
    let section = "proxy_protocol.send = \"v2\"\nproxy_protocol.tlvs = [\"client_cert\"]\n";
    let key = "listener[0].proxy_protocol.tlvs";
    assert_problem(&format!("{GOOD}{section}"), (8, 23), key, &["client_cert", "\"ssl\""]);
}

#[test]
fn a_mistyped_key_of_a_pair_is_one_problem() {
    let text = GOOD.replace("{ cert =", "{ crt =");
    let key = "listener[0].tls.certificates[0].crt";
    assert_problem(&text, (6, 23), key, &["`crt`", "`cert` or `key`"]);
}

#[test]
fn a_missing_key_is_reported_with_the_expected_value() {
    let error = parse("[[listener]]\n").unwrap_err();
    let keys: Vec<_> = error.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(
        keys,
        ["listener[0].name", "listener[0].listen", "listener[0].tls", "listener[0].backend"]
    );
    assert!(error.problems.iter().all(|p| p.message.contains("expected")), "{error}");
    let error = parse("").unwrap_err();
    assert!(error.to_string().contains("[[listener]]"), "{error}");
}

#[test]
fn unreadable_files_are_reported_with_the_place_of_their_names() {
    let text = GOOD.replace("tls.crt", "nowhere.crt");
    assert_problem(
        &text,
        (6, 30),
        "listener[0].tls.certificates[0].cert",
        &["nowhere.crt", "No such file"],
    );
    let error = file::load(Path::new("/nonexistent.toml")).unwrap_err();
    assert!(error.problems[0].message.contains("No such file"), "{error}");
}

#[test]
fn names_and_addresses_must_be_distinct() {
    let error = parse(&format!("{GOOD}{GOOD}")).unwrap_err();
    let keys: Vec<_> = error.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["listener[1].name", "listener[1].listen"], "{error}");
    let text = format!("[admin]\nlisten = \"0.0.0.0:8883\"\n{GOOD}");
    assert_problem(&text, (6, 10), "listener[0].listen", &["0.0.0.0:8883", "admin.listen"]);
}

#[test]
fn a_listener_that_overlaps_the_admin_port_or_a_wildcard_address_is_an_error() {
    let text = GOOD.replace("0.0.0.0:8883", "127.0.0.1:9901");
    assert_problem(&text, (4, 10), "listener[0].listen", &["127.0.0.1:9901", "admin.listen"]);
    let text = GOOD.replace("0.0.0.0:8883", "0.0.0.0:9901");
    assert_problem(&text, (4, 10), "listener[0].listen", &["0.0.0.0:9901", "127.0.0.1:9901"]);
    let text = format!("[admin]\nlisten = \"127.0.0.1:9902\"\n{text}");
    assert!(parse(&text).is_ok());
}

#[test]
fn client_ca_and_client_auth_are_an_error_without_each_other() {
    let text = format!("{GOOD}tls.client_ca = \"ca.crt\"\n");
    assert_problem(&text, (7, 17), "listener[0].tls.client_ca", &["client_auth"]);
    let text = format!("{GOOD}tls.client_auth = \"required\"\n");
    assert_problem(&text, (7, 19), "listener[0].tls.client_ca", &["missing"]);
}

#[test]
fn each_unknown_or_repeated_suite_and_group_is_a_problem_of_its_own() {
    let line = "tls.suites = [\"AES128-SHA\", \"tls_aes_128_gcm_sha256\", \"HIGH\"]\n\
                tls.groups = [\"P-256\", \"X448\", \"prime256v1\"]\n";
    let error = parse(&format!("{GOOD}{line}")).unwrap_err();
    let found = error.problems.iter().map(|problem| (problem.place, &problem.key[..]));
    let found: Vec<_> = found.collect();
    assert_eq!(
        found,
        [
            (Some((7, 15)), "listener[0].tls.suites[0]"),
            (Some((7, 55)), "listener[0].tls.suites[2]"),
            (Some((8, 24)), "listener[0].tls.groups[1]"),
            (Some((8, 32)), "listener[0].tls.groups"),
        ],
        "{error}"
    );
    let messages: Vec<_> = error.problems.iter().map(|problem| &problem.message).collect();
    assert!(messages[0].contains("AES128-SHA") && messages[0].contains("TLS_AES_128_GCM_SHA256"));
    assert!(messages[2].contains("X448") && messages[2].contains("\"P-384\""));
    assert!(messages[3].contains("secp256r1 twice"));
}

#[test]
fn suites_and_groups_that_leave_no_version_are_a_problem() {
    let only_tls12 = "tls.suites = [\"ECDHE-ECDSA-AES128-GCM-SHA256\"]\n";
    let listener = |more: &str| format!("{GOOD}{only_tls12}{more}");
    let words = ["no version", "1.3"];
    let high = "tls.min_version = \"1.3\"\n";
    assert_problem(&listener(high), (7, 14), "listener[0].tls.suites", &words);
    let hybrid = "tls.groups = [\"X25519MLKEM768\"]\n";
    assert_problem(&listener(hybrid), (7, 14), "listener[0].tls.suites", &words);
    assert_problem(
        &routed(only_tls12, high),
        (10, 19),
        "listener[0].route[0].tls.min_version",
        &words,
    );
    assert_problem(
        &routed(only_tls12, hybrid),
        (10, 14),
        "listener[0].route[0].tls.groups",
        &words,
    );
    assert!(parse(&format!("{GOOD}{high}{hybrid}")).is_ok());
}

#[test]
fn allow_rules_without_client_auth_are_an_error() {
    for line in ["allow.cn = [\"pump-7\"]", "allow.file = \"allow.toml\""] {
        let error = parse(&format!("{GOOD}{line}\n")).unwrap_err();
        let [problem] = &error.problems[..] else { panic!("one problem, not {error}") };
        assert_eq!(problem.place.map(|(line, _)| line), Some(7), "{error}");
        assert_eq!(problem.key, "listener[0].allow");
        assert!(problem.message.contains("client_auth"), "{error}");
    }
    assert!(parse(&format!("{GOOD}allow.cn = []\n")).is_ok());
}

/// Keys about client certificates, each with another value than the default.
const CLIENT_KEYS: [(&str, &str); 11] = [
    ("tls.crls", "[\"devices.crl\"]"),
    ("tls.crl_check", "\"leaf\""),
    ("tls.crl_unknown", "\"allow\""),
    ("tls.crl_expired", "\"deny\""),
    ("tls.accept_expired_client_certs", "true"),
    ("tls.send_ca_names", "true"),
    ("tls.max_chain_certificates", "3"),
    ("tls.max_chain_bytes", "\"16KiB\""),
    ("tls.allow_v1", "false"),
    ("tls.recheck", "false"),
    ("tls.recheck_spread", "\"1s\""),
];

#[test]
fn a_key_about_client_certificates_is_an_error_where_none_are_requested() {
    let before = GOOD.lines().count() + 1;
    for (key, value) in CLIENT_KEYS {
        let line = format!("{key} = {value}\n");
        let column = key.len() + if key == "tls.crls" { 5 } else { 4 };
        let words = ["client_auth", key.strip_prefix("tls.").unwrap()];
        let place = (before, column);
        assert_problem(&format!("{GOOD}{line}"), place, &format!("listener[0].{key}"), &words);
        let clients = "tls.client_auth = \"required\"\ntls.client_ca = \"ca.crt\"\n";
        let route = format!("tls.client_auth = \"none\"\n{line}");
        let key = format!("listener[0].route[0].{key}");
        assert_problem(&routed(clients, &route), (before + 5, column), &key, &words);
    }
    let (key, words) = ("limits.max_connections_per_identity", ["client_auth"]);
    let text = format!("{GOOD}{key} = 3\n");
    assert_problem(&text, (before, key.len() + 4), &format!("listener[0].{key}"), &words);
}

#[test]
fn a_key_about_client_certificates_is_no_error_if_a_route_uses_it_or_it_changes_nothing() {
    let keys = CLIENT_KEYS.map(|(key, value)| format!("{key} = {value}\n")).concat();
    let limit = "limits.max_connections_per_identity = 3\n";
    let clients = "tls.client_auth = \"required\"\ntls.client_ca = \"ca.crt\"\n";
    // The route uses them.
    parse(&routed(&format!("{keys}{limit}"), clients)).unwrap();
    // The route inherits them and has no use for them.
    let listener = format!("{clients}{keys}{limit}");
    parse(&routed(&listener, "tls.client_auth = \"none\"\n")).unwrap();
    let defaults = "tls.crls = []\ntls.crl_check = \"chain\"\ntls.crl_unknown = \"deny\"\n\
                    tls.crl_expired = \"warn\"\ntls.accept_expired_client_certs = false\n\
                    tls.send_ca_names = false\ntls.max_chain_certificates = 10\n\
                    tls.max_chain_bytes = \"64KiB\"\ntls.allow_v1 = true\ntls.recheck = true\n\
                    tls.recheck_spread = \"10s\"\nlimits.max_connections_per_identity = 0\n";
    parse(&format!("{GOOD}{defaults}")).unwrap();
}

/// Returns the shortest valid configuration with these keys of the listener and of a route.
fn routed(listener: &str, route: &str) -> String {
    format!("{GOOD}{listener}[[listener.route]]\nbackend = \"127.0.0.1:1\"\n{route}")
}

#[test]
fn each_key_of_a_route_replaces_that_of_its_listener() {
    let listener = "tls.client_auth = \"required\"\ntls.client_ca = \"ca.crt\"\ntls.tickets = 3\n\
                    tls.crls = [\"devices.crl\"]\ntls.alpn = [\"mqtt\"]\nallow.cn = [\"one\"]\n";
    let dir = dir();
    let tls = |route: &str| {
        let path = dir.path().join("tlsidecar.toml");
        let config = file::parse(&routed(listener, route), &path).unwrap();
        let [route] = &config.listeners[0].routes[..] else { panic!("one route") };
        (route.tls.clone(), config.listeners[0].tls.clone())
    };
    assert_eq!(tls("").0, None);
    let (route, own) = tls("tls.min_version = \"1.3\"\n");
    assert_eq!(route, Some(TlsConfig { min_version: TlsVersion::Tls13, ..own }));
    let (route, own) = tls("tls.client_auth = \"none\"\n");
    assert_eq!(route, Some(TlsConfig { client_auth: ClientAuth::None, ..own }));
    let (route, own) = tls("tls.guards.names = \"refuse\"\n");
    let guards = Guards { names: GuardAction::Refuse, ..own.guards };
    assert_eq!(route, Some(TlsConfig { guards, ..own }));
    let (route, own) = tls("tls.rollout = { share = \"7%\" }\n");
    assert_eq!(route, Some(TlsConfig { rollout: Some(Rollout::to(7)), ..own }));
    let (route, own) = tls("tls.max_record_bytes = \"2KiB\"\n");
    assert_eq!(route, Some(TlsConfig { max_record_bytes: 2048, ..own }));
    let trust = |route: &str| tls(route).0.unwrap().client_auth.trust().unwrap().clone();
    let own = tls("").1.client_auth.trust().unwrap().clone();
    assert_eq!(trust("tls.crls = []\n"), ClientTrust { crls: Vec::new(), ..own.clone() });
    let rules = trust("allow.dns = [\"two\"]\n");
    assert_eq!((rules.allow.rules.cn.len(), rules.allow.rules.dns.len()), (0, 1));
    assert_eq!(ClientTrust { allow: own.allow.clone(), ..rules }, own);
    assert!(trust("allow = {}\n").allow.is_empty(), "every verified certificate");
}

#[test]
fn keys_of_a_route_that_need_other_keys_are_checked_after_those_of_the_listener() {
    let with_clients = "tls.client_auth = \"required\"\ntls.client_ca = \"ca.crt\"\n";
    let problems = |listener: &str, route: &str| {
        let error = parse(&routed(listener, route)).unwrap_err();
        let problem = |p: &ConfigProblem| (p.key.clone(), p.message.clone());
        error.problems.iter().map(problem).collect::<Vec<_>>()
    };
    for (listener, route, key, word) in [
        ("", "tls.client_auth = \"required\"\n", "tls.client_ca", "missing"),
        ("", "tls.client_ca = \"ca.crt\"\n", "tls.client_ca", "client_auth"),
        ("", "allow.cn = [\"one\"]\n", "allow", "client_auth"),
        (
            with_clients,
            "tls = { client_auth = \"none\", client_ca = \"ca.crt\" }\n",
            "tls.client_ca",
            "client_auth",
        ),
        (with_clients, "tls.certificates = []\n", "tls.certificates", "missing"),
        (with_clients, "tls.alpn = [\"mqtt\"]\n", "tls.alpn", "[listener.tls]"),
        (with_clients, "tls.client_ca = \"nope.crt\"\n", "tls.client_ca", "nope.crt"),
        (with_clients, "tls.tickets = 5\n", "tls.tickets", "0 to 4"),
    ] {
        let found = problems(listener, route);
        let [(found_key, message)] = &found[..] else { panic!("one problem, not {found:?}") };
        assert_eq!(*found_key, format!("listener[0].route[0].{key}"));
        assert!(message.contains(word), "{message}");
    }
    // A problem of the listener's keys is not repeated for its routes.
    let found = problems("tls.client_auth = \"required\"\n", "tls.tickets = 1\n");
    assert_eq!(found.len(), 1, "{found:?}");
    let with_nope = with_clients.replace("ca.crt", "nope.crt");
    let found = problems(&with_nope, "tls.tickets = 1\n");
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn all_problems_are_reported_together_and_in_order() {
    let text = r#"colour = "red"
[admin]
listen = "localhost"
[log]
format = "xml"
[[listener]]
name = "mqtt tls"
listen = "0.0.0.0:8883"
backend = "127.0.0.1"
[listener.tls]
certificates = [{ cert = "nope.crt", key = "tls.key" }, { cert = "tls.crt" }]
alpn = ["", "mqtt", ""]
[listener.timeouts]
idel = "1h"
hello = "0s"
"#;
    let error = parse(text).unwrap_err();
    let lines: Vec<_> = error.problems.iter().map(|p| p.place.unwrap().0).collect();
    assert_eq!(lines, [1, 3, 5, 7, 9, 11, 11, 12, 12, 14, 15], "{error}");
    // One line each, in the format of compilers.
    assert_eq!(error.to_string().lines().count(), lines.len());
    assert!(error.to_string().lines().all(|line| line.contains("tlsidecar.toml:")));
}

#[test]
fn of_thousands_of_problems_a_hundred_are_listed_and_the_others_counted() {
    let unknown: String = (0..2000).map(|i| format!("k{i} = 1\n")).collect();
    let error = parse(&format!("{GOOD}{unknown}")).unwrap_err();
    assert_eq!((error.problems.len(), error.more), (100, 1900));
    assert_eq!(error.problems[99].key, "listener[0].k99");
    assert!(error.lines().last().unwrap().ends_with("and 1900 more"));
    let names = vec!["\"a b\""; 2000].join(",\n");
    let text = format!("{GOOD}[[listener.route]]\nbackend = \"127.0.0.1:1\"\nsni = [{names}]\n");
    let error = parse(&text).unwrap_err();
    assert_eq!((error.problems.len(), error.more), (100, 1900));
    let (line, _) = error.problems[0].place.unwrap();
    assert_eq!(error.problems[99].place.unwrap(), (line + 99, 1));
    assert_eq!(error.problems[99].key, "listener[0].route[0].sni[99]");
}

#[test]
fn all_syntax_errors_are_reported_together() {
    let error = parse("a = \nb = \"ok\"\nc = [1,\n").unwrap_err();
    assert!(error.problems.len() >= 2, "{error}");
}

#[test]
fn a_listener_has_all_addresses_without_a_host_and_the_loopback_address_as_localhost() {
    let listen = |text: &str| {
        let config = parse(&GOOD.replace("0.0.0.0:8883", text));
        config.map(|config| config.listeners[0].listen.to_string())
    };
    assert_eq!(listen(":8883").unwrap(), "[::]:8883");
    assert_eq!(listen("localhost:8883").unwrap(), "127.0.0.1:8883");
    assert_eq!(listen("LOCALHOST:8883").unwrap(), "127.0.0.1:8883");
    for signed in [":+8883", "localhost:+8883", "0.0.0.0:+8883"] {
        let text = GOOD.replace("0.0.0.0:8883", signed);
        assert_problem(&text, (4, 10), "listener[0].listen", &[signed, "localhost"]);
    }
    assert!(parse(&GOOD.replace("127.0.0.1:1883", "broker:+1883")).is_err());
    assert_problem(
        &GOOD.replace("0.0.0.0:8883", "broker:8883"),
        (4, 10),
        "listener[0].listen",
        &["\"broker:8883\"", "localhost"],
    );
    // The admin port has 127.0.0.1:9901.
    assert!(listen(":9901").is_err());
}

#[test]
fn variables_are_expanded_in_paths_and_addresses() {
    // Cargo sets it for every test.
    let name = env!("CARGO_PKG_NAME");
    assert_eq!(std::env::var("CARGO_PKG_NAME").as_deref(), Ok(name));
    let text = GOOD
        .replace("127.0.0.1:1883", "${CARGO_PKG_NAME}.plant:1883")
        .replace("cert = \"tls.crt\"", "cert = \"${CARGO_PKG_NAME}.crt\"");
    let dir = dir();
    fs::write(dir.path().join(format!("{name}.crt")), "").unwrap();
    let config = file::parse(&text, &dir.path().join("tlsidecar.toml")).unwrap();
    let backend = config.listeners[0].backend.as_ref().unwrap();
    assert_eq!(backend.addresses()[0].to_string(), format!("{name}.plant:1883"));
    assert_problem(
        &GOOD.replace("\"tls.crt\"", "\"${NOT_SET_HERE}/tls.crt\""),
        (6, 30),
        "listener[0].tls.certificates[0].cert",
        &["NOT_SET_HERE", "not set"],
    );
    assert_problem(
        &GOOD.replace("0.0.0.0:8883", "${CARGO_PKG_NAME}"),
        (4, 10),
        "listener[0].listen",
        &["${CARGO_PKG_NAME}", &format!("{name:?}"), "expected"],
    );
    // No other text has them.
    assert!(parse(&GOOD.replace("\"mqtt\"", "\"${CARGO_PKG_NAME}\"")).is_err());
}

#[test]
fn a_backend_that_is_its_own_listener_is_a_problem() {
    for (listen, backend) in [
        ("0.0.0.0:8883", "127.0.0.1:8883"),
        (":8883", "[::1]:8883"),
        (":8883", "localhost:8883"),
        ("127.0.0.1:8883", "0.0.0.0:8883"),
        ("[::1]:8883", "[::]:8883"),
        ("[::1]:8883", "localhost:8883"),
        ("10.1.2.3:8883", "10.1.2.3:8883"),
    ] {
        let text = GOOD.replace("0.0.0.0:8883", listen).replace("127.0.0.1:1883", backend);
        assert_problem(&text, (5, 11), "listener[0].backend", &[backend, "itself"]);
    }
    for (listen, backend) in [
        ("0.0.0.0:8883", "127.0.0.1:1883"),
        ("0.0.0.0:8883", "[::1]:8883"),
        ("0.0.0.0:8883", "10.1.2.3:8883"),
        ("127.0.0.1:8883", "127.0.0.2:8883"),
        ("127.0.0.2:8883", "0.0.0.0:8883"),
        ("127.0.0.1:8883", "[::]:8883"),
    ] {
        let text = GOOD.replace("0.0.0.0:8883", listen).replace("127.0.0.1:1883", backend);
        assert!(parse(&text).is_ok(), "{listen} {backend}");
    }
    let list = GOOD.replace("\"127.0.0.1:1883\"", "[\"a:1\", \"127.0.0.1:8883\"]");
    assert_problem(&list, (5, 19), "listener[0].backend[1]", &["itself"]);
}

#[test]
fn text_without_quotation_marks_is_one_problem_with_advice() {
    for value in ["127.0.0.1:1883", "unix:/run/a.sock", "[::1]:1883", "/run/a", "broker.plant:1883"]
    {
        let text = GOOD.replace("\"127.0.0.1:1883\"", value);
        assert_problem(&text, (5, 11), "backend", &[&format!("expected {value:?}")]);
        let text = GOOD.replace("\"127.0.0.1:1883\"", &format!("{value} # the server"));
        assert_problem(&text, (5, 11), "backend", &[&format!("expected {value:?}")]);
    }
    let error = parse(&GOOD.replace("\"127.0.0.1:1883\"", "[\"a:1\", b]")).unwrap_err();
    assert!(!error.to_string().contains("quotation marks"), "{error}");
}
