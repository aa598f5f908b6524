//! The sizes of the records that a session sends.
//!
//! **Not here.** Records on the wire, with the handshake: `tests/record_sizes.rs`.

use std::time::Duration;

use super::*;

const SUITES: [SupportedCipherSuite; 2] =
    [cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_128_GCM_SHA256];

impl TestClient {
    /// Connects to a proxy with this `max_record_bytes`.
    async fn limited(max: u16, suite: SupportedCipherSuite) -> (Self, Ours) {
        let snapshot = snapshot_with(|listener| listener.tls.max_record_bytes = max);
        Self::connect_to(&snapshot, suite).await
    }

    /// Connects to a proxy with `small_first_records`.
    async fn starting_small(suite: SupportedCipherSuite) -> (Self, Ours) {
        let snapshot = snapshot_with(|listener| listener.tls.small_first_records = true);
        Self::connect_to(&snapshot, suite).await
    }

    /// Sends data of this size from the proxy, and returns the sizes of its records.
    async fn sizes_of(&mut self, ours: &mut Ours, bytes: usize) -> Vec<usize> {
        let sent: Vec<u8> = (0..bytes).map(|at| at.to_le_bytes()[0]).collect();
        assert_eq!(send(ours, &sent), Ok(()));
        let (mut sizes, mut received) = (Vec::new(), Vec::new());
        while received.len() < bytes {
            let (kind, plain) = self.receive().await;
            assert_eq!(kind, ContentType::ApplicationData);
            sizes.push(plain.len());
            received.extend(plain);
        }
        assert_eq!(received, sent);
        sizes
    }
}

#[tokio::test]
async fn no_record_is_longer_than_the_limit() {
    for suite in SUITES {
        let (mut client, mut ours) = TestClient::limited(1000, suite).await;
        assert_eq!(client.sizes_of(&mut ours, 999).await, [999]);
        assert_eq!(client.sizes_of(&mut ours, 1000).await, [1000]);
        assert_eq!(client.sizes_of(&mut ours, 1001).await, [1000, 1]);
        let sizes = client.sizes_of(&mut ours, 65536).await;
        assert_eq!(sizes, [vec![1000; 65], vec![536]].concat());
    }
}

#[tokio::test]
async fn records_have_the_greatest_length_by_default() {
    for suite in SUITES {
        let (mut client, mut ours) = TestClient::connect(suite).await;
        assert_eq!(client.sizes_of(&mut ours, 65537).await, [16384, 16384, 16384, 16384, 1]);
    }
}

#[tokio::test]
async fn the_records_of_a_large_read_take_no_more_buffers_than_one_system_call_does() {
    // The limit of `write_buffer.rs`, without one for a key_update.
    const BUFFERS: usize = 16;
    for max in [512, 1000, 4096, 9000, 16383, 16384] {
        let (_client, mut ours) = TestClient::limited(max, SUITES[1]).await;
        let mut records = Vec::new();
        ours.record_layer_mut().seal(&vec![7; scratch::MAX_READ_BYTES], &mut records).unwrap();
        assert!(records.len() <= BUFFERS, "{max}: {}", records.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_starts_with_small_records_and_grows_after_a_mebibyte() {
    let (mut client, mut ours) = TestClient::starting_small(SUITES[1]).await;
    tokio::time::advance(Duration::from_secs(2)).await;
    for _ in 0..16 {
        assert_eq!(client.sizes_of(&mut ours, 65536).await, [4096; 16]);
    }
    assert_eq!(client.sizes_of(&mut ours, 65536).await, [16384; 4]);
}

#[tokio::test(start_paused = true)]
async fn records_are_small_again_after_a_second_without_data() {
    let (mut client, mut ours) = TestClient::starting_small(SUITES[1]).await;
    tokio::time::advance(Duration::from_secs(2)).await;
    for _ in 0..16 {
        client.sizes_of(&mut ours, 65536).await;
    }
    tokio::time::advance(Duration::from_millis(900)).await;
    assert_eq!(client.sizes_of(&mut ours, 8192).await, [8192]);
    tokio::time::advance(Duration::from_millis(1100)).await;
    assert_eq!(client.sizes_of(&mut ours, 8192).await, [4096; 2]);
}

#[tokio::test]
async fn a_limit_of_4_kib_holds_also_for_later_records() {
    let snapshot = snapshot_with(|listener| {
        listener.tls.small_first_records = true;
        listener.tls.max_record_bytes = 2048;
    });
    let (mut client, mut ours) = TestClient::connect_to(&snapshot, SUITES[1]).await;
    for _ in 0..17 {
        assert_eq!(client.sizes_of(&mut ours, 65536).await, [2048; 32]);
    }
}

#[test]
fn the_state_of_an_idle_session_has_not_grown() {
    // The allocator has no size between 80 and 96 bytes.
    assert!(size_of::<RecordLayer>() <= 96, "{} bytes", size_of::<RecordLayer>());
}
