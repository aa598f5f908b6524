//! Alerts, and renegotiation in TLS 1.2, which is answered by an alert.
//!
//! **Not here.** The alert of each fault (`tests.rs`).

use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::sessions::filter::SessionFilter;
use crate::sessions::trace::{Counted, Facts, RunningTrace, Traces};

#[tokio::test(start_paused = true)]
async fn tls_1_2_allows_four_warnings_and_tls_1_3_none_but_user_canceled() {
    let warning = |description| [WARNING, u8::from(description)];
    let (mut client, mut ours) = TestClient::tls12().await;
    for _ in 0..4 {
        client.send(ContentType::Alert, &warning(AlertDescription::NoRenegotiation)).await;
        assert_eq!(receive(&mut ours).await, some(b""));
    }
    client.send(ContentType::Alert, &warning(AlertDescription::NoRenegotiation)).await;
    let error = receive(&mut ours).await.unwrap_err();
    assert_eq!(error, PeerMisbehaved::TooManyWarningAlertsReceived.into());

    let (mut client, mut ours) = TestClient::tls13().await;
    client.send(ContentType::Alert, &warning(AlertDescription::UserCanceled)).await;
    assert_eq!(receive(&mut ours).await, some(b""));
    client.send(ContentType::Alert, &warning(AlertDescription::NoRenegotiation)).await;
    let error = receive(&mut ours).await.unwrap_err();
    assert_eq!(error, Error::AlertReceived(AlertDescription::NoRenegotiation));
}

#[tokio::test(start_paused = true)]
async fn a_warning_now_and_then_ends_no_session_that_lives_for_weeks() {
    let (mut client, mut ours) = TestClient::tls12().await;
    let warning = [WARNING, u8::from(AlertDescription::NoRenegotiation)];
    for _ in 0..100 {
        tokio::time::advance(std::time::Duration::from_secs(24 * 3600)).await;
        client.send(ContentType::Alert, &warning).await;
        assert_eq!(receive(&mut ours).await, some(b""));
    }
}

#[tokio::test]
async fn data_refills_the_allowance_for_warnings() {
    for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
        for _ in 0..40 {
            let warning = [WARNING, u8::from(AlertDescription::UserCanceled)];
            client.send(ContentType::Alert, &warning).await;
            client.send(ContentType::ApplicationData, b"data").await;
        }
        let mut data = Vec::new();
        while data.len() < 40 * 4 {
            data.extend(receive(&mut ours).await.unwrap().1);
        }
    }
}

#[tokio::test]
async fn data_refills_the_allowance_for_renegotiations_but_not_without_end_in_one_read() {
    let (mut client, mut ours) = TestClient::tls12().await;
    for _ in 0..400 {
        client.send(ContentType::Handshake, &[1, 0, 0, 1, 0]).await;
        client.send(ContentType::ApplicationData, b"data").await;
    }
    let mut data = Vec::new();
    while data.len() < 400 * 4 {
        data.extend(receive(&mut ours).await.unwrap().1);
    }
    assert!(ours.queued() < 4096, "{} bytes of replies", ours.queued());
}

#[tokio::test]
async fn an_alert_of_an_unknown_level_is_an_illegal_parameter() {
    for level in [0, 3, 255] {
        for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
            let unknown = [level, u8::from(AlertDescription::UserCanceled)];
            client.send(ContentType::Alert, &unknown).await;
            let error = receive(&mut ours).await.unwrap_err();
            let answer = final_alert(&mut client, &mut ours, &error).await;
            assert_eq!(answer, alert(AlertDescription::IllegalParameter));
        }
    }
}

#[tokio::test]
async fn the_clients_own_alert_has_no_answer() {
    let (mut client, mut ours) = TestClient::tls13().await;
    client.send(ContentType::Alert, &alert(AlertDescription::BadCertificate)).await;
    let error = receive(&mut ours).await.unwrap_err();
    assert_eq!(error, Error::AlertReceived(AlertDescription::BadCertificate));
    ours.queue_alert(&error);
    assert_eq!(ours.queued(), 0);
}

#[tokio::test]
async fn a_renegotiation_is_refused_by_a_warning_and_the_next_by_the_end() {
    let (mut client, mut ours) = TestClient::tls12().await;
    let hello = [[1, 0, 1, 2].as_slice(), &[0; 0x102]].concat();
    // In two records, like a long message.
    client.send(ContentType::Handshake, &hello[..7]).await;
    assert_eq!(receive(&mut ours).await, some(b""));
    client.send(ContentType::Handshake, &hello[7..]).await;
    assert_eq!(receive(&mut ours).await, some(b""));
    poll_fn(|cx| ours.poll_flush(cx)).await.unwrap();
    let refused = vec![WARNING, u8::from(AlertDescription::NoRenegotiation)];
    assert_eq!(client.receive().await, (ContentType::Alert, refused));
    client.send(ContentType::ApplicationData, b"data").await;
    assert_eq!(receive(&mut ours).await, some(b"data"));

    for _ in 0..2 {
        client.send(ContentType::Handshake, &hello).await;
    }
    let error = receive(&mut ours).await.unwrap_err();
    assert_eq!(error, PeerMisbehaved::TooManyRenegotiationRequests.into());
}

#[tokio::test]
async fn bytes_after_a_close_notify_are_ignored() {
    let (mut client, mut ours) = TestClient::tls13().await;
    let records = [
        client.seal(ContentType::ApplicationData, b"data"),
        client.seal(ContentType::Alert, &[WARNING, 0]),
        client.seal(ContentType::ApplicationData, b"more"),
    ];
    client.io.write_all(&records.concat()).await.unwrap();
    assert_eq!(receive(&mut ours).await, some(b"data"));
    assert_eq!(receive(&mut ours).await, Ok((Received::Closed, Vec::new())));
    assert_eq!(ours.partial(), 0);
}

#[tokio::test]
async fn a_session_sends_its_close_notify_once() {
    let (mut client, mut ours) = TestClient::tls13().await;
    ours.queue_close_notify();
    let queued = ours.queued();
    ours.queue_close_notify();
    ours.queue_alert(&Error::DecryptError);
    assert_eq!(ours.queued(), queued);
    poll_fn(|cx| ours.poll_flush(cx)).await.unwrap();
    assert_eq!(client.receive().await, (ContentType::Alert, vec![WARNING, 0]));
}

#[tokio::test]
async fn a_fatal_alert_ends_either_version() {
    for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
        let description = AlertDescription::NoRenegotiation;
        client.send(ContentType::Alert, &alert(description)).await;
        assert_eq!(receive(&mut ours).await, Err(Error::AlertReceived(description)));
    }
}

#[tokio::test]
async fn a_close_notify_is_one_whatever_its_level() {
    for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
        client.send(ContentType::Alert, &alert(AlertDescription::CloseNotify)).await;
        assert_eq!(receive(&mut ours).await, Ok((Received::Closed, Vec::new())));
    }
}

#[tokio::test]
async fn an_alert_of_another_length_is_refused() {
    for wrong in [&[WARNING][..], &[WARNING, 0, WARNING, 0]] {
        let (mut client, mut ours) = TestClient::tls13().await;
        client.send(ContentType::Alert, wrong).await;
        let error = receive(&mut ours).await.unwrap_err();
        let answer = final_alert(&mut client, &mut ours, &error).await;
        assert_eq!(answer, alert(AlertDescription::DecodeError));
    }
}

/// Returns the alerts in the steps of a trace.
fn alerts(trace: &mut RunningTrace) -> Vec<Value> {
    let steps = std::iter::from_fn(|| trace.next_now());
    let steps = steps.map(|traced| serde_json::to_value(&*traced.step).unwrap());
    steps.filter(|step| step["step"] == "alert").collect()
}

#[tokio::test]
async fn a_trace_has_the_alerts_of_both_sides() {
    struct NoBytes;
    impl Counted for NoBytes {
        fn counts(&self) -> [u64; 2] {
            [0; 2]
        }
    }
    let peer = ([192, 0, 2, 7], 1).into();
    let facts = Facts { connection: 1, listener: "test".into(), peer, opened: Instant::now() };
    let traces = Arc::<Traces>::default();
    let mut trace = traces.start(SessionFilter::default(), false, 0).unwrap();
    let tracer = traces.tracer(|| facts, || Arc::new(NoBytes));
    tracer.as_ref().unwrap().on_peer(peer);
    let step =
        |sender: &str, alert: &str| json!({"step": "alert", "sender": sender, "alert": alert});

    let (mut client, mut ours) = TestClient::tls12().await;
    ours.trace(tracer.clone());
    client.send(ContentType::Handshake, &[1, 0, 0, 1, 0]).await;
    assert_eq!(receive(&mut ours).await, some(b""));
    assert_eq!(alerts(&mut trace), [step("tlsidecar", "no_renegotiation")]);
    client.send(ContentType::Alert, &[WARNING, u8::from(AlertDescription::UserCanceled)]).await;
    assert_eq!(receive(&mut ours).await, some(b""));
    assert_eq!(alerts(&mut trace), [step("device", "user_canceled")]);
    client.send(ContentType::Alert, &[FATAL, u8::from(AlertDescription::UnknownCA)]).await;
    let error = receive(&mut ours).await.unwrap_err();
    ours.queue_alert(&error);
    assert_eq!(alerts(&mut trace), [step("device", "unknown_ca")], "it is not answered");

    let (mut client, mut ours) = TestClient::tls13().await;
    ours.trace(tracer);
    client.send(ContentType::Handshake, &[FINISHED, 0, 0, 0]).await;
    let error = receive(&mut ours).await.unwrap_err();
    ours.queue_alert(&error);
    ours.queue_close_notify();
    assert_eq!(alerts(&mut trace), [step("tlsidecar", "unexpected_message")], "it is the last one");
}
