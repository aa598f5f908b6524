//! AES-CCM and P-521, which a configuration has to name: with openssl as the device.

use std::process::Command;

use tlsidecar::config::KeyGroup;
use tlsidecar::terms::labels::Cipher;
use tlsidecar::terms::reason::Reason;

use crate::support::command::{has, run};
use crate::support::proxy::with_tls;
use crate::support::{Authority, Proxy};

/// The suites, each with its version.
const SUITES: [(Cipher, &str); 6] = [
    (Cipher::Tls13Aes128Ccm, "1.3"),
    (Cipher::Tls13Aes128Ccm8, "1.3"),
    (Cipher::EcdsaAes128Ccm, "1.2"),
    (Cipher::EcdsaAes256Ccm, "1.2"),
    (Cipher::EcdsaAes128Ccm8, "1.2"),
    (Cipher::EcdsaAes256Ccm8, "1.2"),
];

/// Connects openssl to an echo, sends a short line and a long one of several records, and waits for both. In TLS 1.3 the
/// keys are updated between them.
async fn talk(
    proxy: &Proxy,
    authority: &Authority,
    version: &str,
    arguments: &str,
) -> (bool, String) {
    let (address, out) = (proxy.address, authority.dir().join("out").display().to_string());
    // openssl drops what it reads behind the command in one piece.
    let update = if version == "1.3" { "echo K; until_line ^KEYUPDATE;" } else { "" };
    let script = format!(
        "until_line() {{ n=0; while ! grep -q \"$1\" {out} && [ $n -lt 3000 ]; do n=$((n + 1)); done; }}; : >{out}; \
         (echo hello; until_line '^hello'; {update} head -c 40000 /dev/zero | tr '\\0' x; echo; echo bye; \
          until_line '^bye'; echo Q) | \
         openssl s_client -connect {address} -servername localhost -tls{} {arguments} >>{out} 2>&1; \
         status=$?; cat {out}; exit $status",
        version.replace('.', "_")
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let (good, text) = run(command).await;
    let long = text.lines().any(|line| line.len() == 40_000 && line.bytes().all(|b| b == b'x'));
    (good && long, text)
}

/// Returns the arguments with which openssl offers one suite. Its level of security excludes a tag of 64 bits.
fn offering(cipher: &str, version: &str) -> String {
    match version {
        "1.3" => format!("-ciphersuites {cipher} -cipher DEFAULT:@SECLEVEL=0"),
        _ => format!("-cipher {cipher}:@SECLEVEL=0"),
    }
}

fn openssl_name(cipher: Cipher) -> String {
    let name = cipher.as_str();
    match name.strip_prefix("TLS_ECDHE_ECDSA_WITH_AES_") {
        Some(rest) => format!("ECDHE-ECDSA-AES{}", rest.replacen('_', "-", 1).replace('_', "")),
        None => name.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_aes_ccm_alone_relays_updates_its_keys_and_resumes() {
    if !has("openssl") {
        return;
    }
    let all = SUITES.map(|(cipher, _)| cipher);
    let (authority, _backend, proxy) = with_tls(|tls, _| tls.legacy_suites = all.to_vec()).await;
    let session = authority.dir().join("session.pem").display().to_string();
    for (cipher, version) in SUITES {
        let series = |kind: &str| {
            format!(
                "tlsidecar_handshakes_total{{cipher=\"{}\",kind=\"{kind}\",listener=\"test\",version=\"{version}\"}}",
                cipher.as_str()
            )
        };
        assert!(!proxy.text().contains(&series("full")), "not before it is used");
        let arguments = offering(&openssl_name(cipher), version);
        let first = format!("{arguments} -sess_out {session}");
        let (good, text) = talk(&proxy, &authority, version, &first).await;
        assert!(good, "{cipher}: {text}");
        assert_eq!(proxy.count(&series("full")), 1, "{cipher}");
        let again = format!("{arguments} -sess_in {session}");
        let (good, text) = talk(&proxy, &authority, version, &again).await;
        assert!(good && text.contains("Reused, "), "{cipher}: {text}");
        assert_eq!(proxy.count(&series("resumed")), 1, "{cipher}");
    }
    proxy.end_with(Reason::Ok, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aes_ccm_is_taken_last_whatever_the_device_prefers() {
    if !has("openssl") {
        return;
    }
    let named = vec![Cipher::Tls13Aes128Ccm8, Cipher::EcdsaAes128Ccm8];
    let (authority, _backend, proxy) = with_tls(|tls, _| tls.legacy_suites = named).await;
    let (ccm, chacha) = ("TLS_AES_128_CCM_8_SHA256", "TLS_CHACHA20_POLY1305_SHA256");
    for (version, suites, taken) in [
        ("1.3", format!("{ccm}:{chacha}:TLS_AES_128_GCM_SHA256"), chacha),
        ("1.3", format!("{ccm}:TLS_AES_128_GCM_SHA256"), "TLS_AES_128_GCM_SHA256"),
        (
            "1.2",
            "ECDHE-ECDSA-AES128-CCM8:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256"
                .to_owned(),
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
    ] {
        let (good, text) = talk(&proxy, &authority, version, &offering(&suites, version)).await;
        assert!(good && text.contains(&format!("Cipher is {taken}")), "{suites}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_name_in_the_configuration_aes_ccm_is_refused() {
    if !has("openssl") {
        return;
    }
    let (_authority, _backend, proxy) = with_tls(|_, _| {}).await;
    for (cipher, version) in [SUITES[1], SUITES[4]] {
        let arguments = offering(&openssl_name(cipher), version);
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &proxy.address.to_string()]);
        command.arg(format!("-tls{}", version.replace('.', "_"))).args(arguments.split(' '));
        let (good, text) = run(command).await;
        assert!(!good, "{text}");
    }
    proxy.end_with(Reason::ClientTlsIncompatible, 2).await;
    assert_eq!(proxy.of_label("refused_suites_total", "best", "ccm"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn p_521_is_accepted_only_where_it_is_named() {
    if !has("openssl") {
        return;
    }
    let (_authority, _backend, usual) = with_tls(|_, _| {}).await;
    let groups = vec![KeyGroup::X25519, KeyGroup::Secp521r1];
    let (authority, _backend, named) = with_tls(|tls, _| tls.groups = groups).await;
    for version in ["1.2", "1.3"] {
        let (good, text) = talk(&named, &authority, version, "-groups P-521:P-256").await;
        assert!(good && text.contains("Server Temp Key: ECDH, secp521r1, 521 bits"), "{text}");
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &usual.address.to_string(), "-groups", "P-521"]);
        command.arg(format!("-tls{}", version.replace('.', "_")));
        assert!(!run(command).await.0, "{version}");
    }
    named.end_with(Reason::Ok, 2).await;
    usual.end_with(Reason::ClientTlsIncompatible, 2).await;
    assert_eq!(named.of_label("handshake_groups_total", "group", "other"), 2);
}
