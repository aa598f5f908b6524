//! The ciphers of idle sessions.
//!
//! **Not here.** Rebuilt ciphers, of each suite (`tls/record_layer/tests/rebuilt_ciphers.rs`).

use super::super::idle_ciphers::IDLE_AFTER;
use super::*;

const MOMENT: Duration = Duration::from_secs(1);

/// Relays a message and its answer.
async fn exchange(line: &mut Line) {
    let mut got = [0; 4];
    line.device.write_all(b"ping").await.unwrap();
    line.device.flush().await.unwrap();
    line.backend.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");
    line.backend.write_all(b"pong").await.unwrap();
    line.device.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"pong");
}

/// Ends the relay in a way for which no record is sealed, after this silence, and returns whether the session had no cipher.
async fn had_no_cipher_after(mut line: Line, silence: Duration) -> bool {
    line.backend.shutdown().await.unwrap();
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    tokio::time::sleep(silence).await;
    line.session.stop(Reason::Drain);
    let ended = line.ended.await.unwrap();
    assert_eq!(ended.result.unwrap_err().reason(), Reason::Drain);
    line.had_no_cipher.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn the_ciphers_of_an_idle_session_are_dropped() {
    let mut line = Line::new(1 << 20, UNBOUNDED).await;
    exchange(&mut line).await;
    assert!(had_no_cipher_after(line, IDLE_AFTER + MOMENT).await);
}

#[tokio::test(start_paused = true)]
async fn the_ciphers_of_a_session_with_traffic_are_kept() {
    let mut line = Line::new(1 << 20, UNBOUNDED).await;
    for _ in 0..5 {
        exchange(&mut line).await;
        tokio::time::sleep(IDLE_AFTER - MOMENT).await;
    }
    assert!(!had_no_cipher_after(line, IDLE_AFTER - MOMENT).await);
}

#[tokio::test(start_paused = true)]
async fn a_session_without_ciphers_goes_on_whenever_either_side_sends() {
    let mut line = Line::new(1 << 20, UNBOUNDED).await;
    for _ in 0..3 {
        tokio::time::sleep(IDLE_AFTER + MOMENT).await;
        exchange(&mut line).await;
        tokio::time::sleep(IDLE_AFTER + MOMENT).await;
        line.backend.write_all(b"news").await.unwrap();
        let mut got = [0; 4];
        line.device.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"news");
    }
}

#[tokio::test(start_paused = true)]
async fn the_bounds_of_a_session_without_ciphers_apply() {
    let idle = IDLE_AFTER * 3;
    let mut line = Line::new(1 << 20, Bounds { idle: Some(idle), ..UNBOUNDED }).await;
    let since = Instant::now();
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(since.elapsed().as_secs(), idle.as_secs());
    drop(line.device.shutdown().await);
    assert_eq!(line.ended_with().await.0, Some(Reason::IdleTimeout));
}
