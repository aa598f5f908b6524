//! The device has nothing in common with the listener.

use super::Scene;
use crate::support::access_log::has_fields;
use crate::support::raw;

#[tokio::test]
async fn a_device_with_cbc_suites_only_is_named_by_its_best_suite() {
    let mut scene = Scene::new("").await;
    if !scene.openssl(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:AES128-SHA"]).await {
        return;
    }
    has_fields(&scene.line("client_tls_incompatible"), &["offers=\"1.2 ecdhe_cbc\""]);
    let series = "tlsidecar_refused_suites_total{best=\"ecdhe_cbc\",listener=\"test\"}";
    assert_eq!(scene.sidecar.count(series), 1);
}

/// The server certificate has an ECDSA key, as after a renewal with the default of many clients of ACME.
#[tokio::test]
async fn a_device_for_rsa_alone_is_named_by_its_suite_and_by_its_signature() {
    let mut scene = Scene::new("").await;
    if !scene.openssl(&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]).await {
        return;
    }
    let line = scene.line("client_tls_incompatible");
    has_fields(&line, &["what=\"cipher_suite\"", "offers=\"1.2 ecdhe_gcm\""]);
    let series = "tlsidecar_refused_suites_total{best=\"ecdhe_gcm\",listener=\"test\"}";
    assert_eq!(scene.sidecar.count(series), 1);
    let mut scene = Scene::new("").await;
    scene.openssl(&["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"]).await;
    has_fields(&scene.line("client_tls_incompatible"), &["what=\"signature\""]);
    let series = "tlsidecar_handshake_incompatible_total{listener=\"test\",what=\"signature\"}";
    assert_eq!(scene.sidecar.count(series), 1);
}

#[tokio::test]
async fn a_device_with_tls_1_1_only_is_named_by_its_version() {
    let mut scene = Scene::new("").await;
    // TLS_RSA_WITH_AES_128_CBC_SHA. OpenSSL of Debian refuses to offer TLS 1.1.
    raw::answer_to(scene.address(), &raw::old_hello([3, 2], &[[0, 0x2f]])).await;
    has_fields(&scene.line("client_tls_incompatible"), &["offers=\"1.1 rsa\""]);
    let series = "tlsidecar_handshake_incompatible_total{listener=\"test\",what=\"version\"}";
    assert_eq!(scene.sidecar.count(series), 1);
}
