//! Real devices: Python and openssl, and the TLS stacks of devices.

mod bytes;
mod matrix;
mod scenario;
mod stack;

use std::path::Path;
use std::process::Command;

use rcgen::ExtendedKeyUsagePurpose;
use tlsidecar::config::{CertificateFiles, ClientAuth, ClientTrust, TlsVersion};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::support::certs::Wish;
use crate::support::command::run;
use crate::support::proxy::listener;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Pair, Proxy};

/// A legacy server that reports the received message, and answers.
async fn legacy_server() -> (Backend, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (messages, received) = mpsc::unbounded_channel();
    let backend = Backend::serving(move |mut tcp| {
        let messages = messages.clone();
        async move {
            let mut message = vec![0; 1024];
            let read = tcp.read(&mut message).await.unwrap();
            message.truncate(read);
            messages.send(message).unwrap();
            tcp.write_all(b"Hello, device!").await.unwrap();
            // Until the device disconnects.
            let _left = tcp.read(&mut [0; 1]).await;
        }
    })
    .await;
    (backend, received)
}

/// Runs an example device, and asserts that it gets the answer and that the legacy server gets the message in plain.
async fn run_example(
    script: &str,
    arguments: impl FnOnce(&mut Command, &Proxy, &Authority),
) -> String {
    let authority = Authority::new("ca");
    let (backend, mut received) = legacy_server().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(script));
    command.args(["--port", &proxy.address.port().to_string()]);
    arguments(&mut command, &proxy, &authority);
    let (good, text) = run(command).await;
    assert!(good, "{text}");
    assert!(text.contains("Hello, device!"), "{text}");
    let message = within("the message", received.recv()).await.unwrap();
    assert_eq!(message, b"Hello, server!");
    // Python closes TCP without a close_notify.
    proxy.ends_with(Reason::ClientTruncated).await;
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_careful_python_device_gets_its_answer() {
    let text = run_example("device.py", |command, _, authority| {
        command.arg("--ca").arg(authority.ca());
    })
    .await;
    assert!(text.contains("TLSv1.3"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_python_device_gets_its_answer() {
    let text = run_example("device_old.py", |_, _, _| {}).await;
    assert!(text.contains("TLSv1.2"), "{text}");
}

/// Runs openssl s_client with these arguments and without input.
async fn s_client(proxy: &Proxy, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &proxy.address.to_string()]);
    command.args(["-servername", "localhost"]).args(arguments);
    run(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_speaks_either_version_with_either_key() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let rsa = authority.issue("rsa", &Wish { rsa: true, ..Wish::default() });
    let ecdsa = authority.issue("ecdsa", &Wish::default());
    let mut listener = listener(backend.config(), &rsa);
    listener.tls.certificates.push(ecdsa.files);
    let proxy = Proxy::with(listener);
    let ca = authority.ca().display().to_string();
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        // The device's signature algorithms decide. The CA's signature is ECDSA in all cases.
        for (schemes, key) in
            [("RSA-PSS+SHA256:ECDSA+SHA384", "RSA-PSS"), ("ECDSA+SHA256", "ECDSA")]
        {
            let arguments = [version, "-sigalgs", schemes, "-CAfile", &ca, "-verify_return_error"];
            let (good, text) = s_client(&proxy, &arguments).await;
            assert!(good && text.contains(name), "{version} {key}: {text}");
            assert!(text.contains("Verify return code: 0 (ok)"), "{version} {key}: {text}");
            let signed = format!("Peer signature type: {key}");
            assert!(text.contains(&signed), "{version} {key}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rsa_key_signs_with_the_scheme_that_the_device_lists_first() {
    let authority = Authority::new("ca");
    let rsa = authority.issue("rsa", &Wish { rsa: true, ..Wish::default() });
    let proxy = Proxy::start(Backend::echo().await.config(), &rsa);
    let listed = [
        ("-tls1_2", "RSA+SHA256:RSA-PSS+SHA512:RSA-PSS+SHA256", ["SHA256", "RSA"]),
        ("-tls1_2", "RSA-PSS+SHA256:RSA-PSS+SHA512", ["SHA256", "RSA-PSS"]),
        ("-tls1_3", "RSA-PSS+SHA256:RSA-PSS+SHA512:ECDSA+SHA256", ["SHA256", "RSA-PSS"]),
        ("-tls1_3", "RSA+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA256", ["SHA384", "RSA-PSS"]),
    ];
    for (version, schemes, [digest, kind]) in listed {
        let (good, text) = s_client(&proxy, &[version, "-sigalgs", schemes]).await;
        let signed = format!("Peer signing digest: {digest}\nPeer signature type: {kind}\n");
        assert!(good && text.contains(&signed), "{version} {schemes}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_that_puts_an_ip_address_into_sni_gets_the_default_certificate() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    // RFC 6066 section 3 forbids an address. The second certificate would match it.
    let first = authority.issue("first", &Wish { names: &["first.example"], ..Wish::default() });
    let second = authority.issue("second", &Wish { names: &["127.0.0.1"], ..Wish::default() });
    let mut listener = listener(backend.config(), &first);
    listener.tls.certificates.push(second.files);
    let proxy = Proxy::with(listener);
    for version in ["-tls1_2", "-tls1_3"] {
        let (good, text) = s_client(&proxy, &[version, "-servername", "127.0.0.1"]).await;
        assert!(good && text.contains("subject=CN = first.example"), "{version}: {text}");
    }
    proxy.end_with(Reason::Ok, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_that_puts_no_dns_name_into_sni_is_served_as_without_one() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    let trust = ClientTrust::new(authority.ca());
    listener.tls.client_auth = ClientAuth::Required(trust);
    let proxy = Proxy::with(listener);
    let purpose = ExtendedKeyUsagePurpose::ClientAuth;
    let device = authority.issue("device", &Wish { purpose, ..Wish::default() }).files;
    let (cert, key) = (device.cert.display().to_string(), device.key.display().to_string());
    let odd =
        ["gw.plant.example:8883", "[::1]", "1234", "ger\u{e4}t.plant", "a b", "x..y", "-", "*.a"];
    for version in ["-tls1_2", "-tls1_3"] {
        for name in odd {
            // Both sides sign the transcript, also with a second ClientHello.
            for groups in ["X25519:P-256", "P-521:P-256"] {
                let arguments =
                    [version, "-servername", name, "-cert", &cert, "-key", &key, "-groups", groups];
                let (good, text) = s_client(&proxy, &arguments).await;
                assert!(good && text.contains("Cipher is"), "{version} {name} {groups}: {text}");
            }
        }
    }
    proxy.end_with(Reason::Ok, 2 * 2 * odd.len() as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_resumes_either_version() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    for version in ["-tls1_2", "-tls1_3"] {
        let session = authority.dir().join(format!("session{version}.pem"));
        let session = session.display().to_string();
        let (_, text) = ticket(&proxy, version, &session).await;
        let (good, again) = s_client(&proxy, &[version, "-sess_in", &session]).await;
        assert!(good && again.contains("Reused, "), "{version}: {text}\n{again}");
    }
}

/// Connects, waits for the ticket, and saves the session in a file.
async fn ticket(proxy: &Proxy, version: &str, session: &str) -> (bool, String) {
    let mut command = Command::new("sh");
    // The echo arrives after the ticket. Q ends the session.
    let script = format!(
        "(echo hello; while ! grep -q '^hello' {session}.out; do :; done; echo Q) | \
         openssl s_client -connect {} -servername localhost {version} -sess_out {session} \
         >{session}.out 2>&1",
        proxy.address
    );
    std::fs::write(format!("{session}.out"), "").unwrap();
    command.args(["-c", &script]);
    run(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_with_tls_1_1_is_refused_with_protocol_version() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let (good, text) = s_client(&proxy, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).await;
    assert!(!good && text.contains("alert number 70"), "{text}");
    proxy.ends_with(Reason::ClientTlsIncompatible).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_with_tls_1_2_is_refused_where_1_3_is_the_lowest() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.tls.min_version = TlsVersion::Tls13;
    let proxy = Proxy::with(listener);
    let (good, text) = s_client(&proxy, &["-tls1_2"]).await;
    assert!(!good && text.contains("alert number 70"), "{text}");
    proxy.ends_with(Reason::ClientTlsIncompatible).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_usual_kind_serve() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let rsa = authority.issue("rsa", &Wish { rsa: true, ..Wish::default() });
    let ecdsa = authority.issue("ecdsa", &Wish::default());
    let ca = authority.ca().display().to_string();
    // PKCS#8 as generated, and the formats of older tools: PKCS#1 for RSA, SEC1 for EC.
    for (pair, converter) in [(&rsa, "rsa"), (&ecdsa, "ec")] {
        for traditional in [false, true] {
            if traditional {
                let mut openssl = Command::new("openssl");
                openssl.args([converter, "-in"]).arg(&pair.files.key);
                if converter == "rsa" {
                    openssl.arg("-traditional");
                }
                let converted = openssl.output().unwrap();
                assert!(converted.status.success());
                let text = String::from_utf8(converted.stdout).unwrap();
                assert!(text.contains("RSA PRIVATE KEY") || text.contains("EC PRIVATE KEY"));
                crate::support::certs::replace(&pair.files.key, &text);
            }
            let proxy = Proxy::start(backend.config(), pair);
            let (good, text) = s_client(&proxy, &["-CAfile", &ca, "-verify_return_error"]).await;
            assert!(good, "{converter}, traditional: {traditional}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ed25519_key_serves() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::echo().await;
    let files = CertificateFiles { cert: dir.path().join("crt"), key: dir.path().join("key") };
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=localhost"]);
    openssl.args(["-addext", "subjectAltName=DNS:localhost", "-days", "30", "-keyout"]);
    openssl.arg(&files.key).arg("-out").arg(&files.cert);
    assert!(run(openssl).await.0);
    let proxy = Proxy::start(backend.config(), &Pair { files: files.clone() });
    let ca = files.cert.display().to_string();
    let (good, text) = s_client(&proxy, &["-CAfile", &ca, "-verify_return_error"]).await;
    assert!(good && text.contains("Peer signature type: ed25519"), "{text}");
}
