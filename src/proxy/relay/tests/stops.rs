//! Relays that are ended although they could continue: by a bound of time or a stop order.
//!
//! **Not here.** The default bounds (`config.rs`).

use super::*;

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_the_idle_timeout_and_not_before() {
    let idle = Duration::from_secs(3600);
    let mut line = Line::new(1024, Bounds { idle: Some(idle), ..UNBOUNDED }).await;
    let start = Instant::now();
    // Bytes in either direction restart the time.
    tokio::time::sleep(idle - Duration::from_secs(1)).await;
    line.device.write_all(b"up").await.unwrap();
    line.backend.read_exact(&mut [0; 2]).await.unwrap();
    tokio::time::sleep(idle - Duration::from_secs(1)).await;
    line.backend.write_all(b"down").await.unwrap();
    line.device.read_exact(&mut [0; 4]).await.unwrap();
    // An orderly end: a close_notify to the device, an end of stream to the backend.
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 3 * 3600 - 2);
    drop(line.device.shutdown().await);
    assert_eq!(line.backend.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(line.ended_with().await, (Some(Reason::IdleTimeout), None));
}

#[tokio::test(start_paused = true)]
async fn after_one_side_has_ended_the_half_close_timeout_bounds_the_silence_not_the_answer() {
    let bounds = Bounds {
        idle: Some(Duration::from_secs(3600)),
        half_close: Some(Duration::from_secs(60)),
        too_old: None,
    };
    let mut line = Line::new(1024, bounds).await;
    line.device.shutdown().await.unwrap();
    assert_eq!(line.backend.read(&mut [0; 1]).await.unwrap(), 0);
    // An answer that takes ten minutes, with no minute of silence.
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        line.backend.write_all(b"more").await.unwrap();
        line.device.read_exact(&mut [0; 4]).await.unwrap();
    }
    let silence = Instant::now();
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(silence.elapsed().as_secs(), 60);
    assert_eq!(line.ended_with().await, (Some(Reason::HalfCloseTimeout), None));
}

#[tokio::test(start_paused = true)]
async fn a_side_that_ends_after_a_long_silence_leaves_the_other_its_time_to_answer() {
    let half_close = Duration::from_secs(60);
    for half_close_bound in [Some(half_close), None] {
        for device_ends in [true, false] {
            let bounds = Bounds {
                idle: Some(Duration::from_secs(3600)),
                half_close: half_close_bound,
                too_old: None,
            };
            let mut line = Line::new(1024, bounds).await;
            // Longer than half_close, and almost as long as idle, which applies without half_close.
            tokio::time::sleep(Duration::from_secs(3590)).await;
            if device_ends {
                line.device.shutdown().await.unwrap();
                assert_eq!(line.backend.read(&mut [0; 1]).await.unwrap(), 0);
                tokio::time::sleep(half_close - Duration::from_secs(1)).await;
                line.backend.write_all(b"answer").await.unwrap();
                line.backend.shutdown().await.unwrap();
                assert_eq!(read_all(&mut line.device).await, b"answer");
            } else {
                line.backend.shutdown().await.unwrap();
                assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
                tokio::time::sleep(half_close - Duration::from_secs(1)).await;
                line.device.write_all(b"answer").await.unwrap();
                line.device.shutdown().await.unwrap();
                assert_eq!(read_all(&mut line.backend).await, b"answer");
            }
            assert_eq!(line.ended_with().await, (None, None));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_that_does_not_answer_an_end_has_the_half_close_timeout_from_that_end() {
    for device_ends in [true, false] {
        let half_close = Some(Duration::from_secs(60));
        let mut line = Line::new(1024, Bounds { half_close, ..UNBOUNDED }).await;
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        let end = Instant::now();
        if device_ends {
            line.device.shutdown().await.unwrap();
            assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
        } else {
            line.backend.shutdown().await.unwrap();
            assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
            assert_eq!(line.backend.read(&mut [0; 1]).await.unwrap(), 0);
        }
        // A client that does not close is waited for a second more.
        assert!((60..=61).contains(&end.elapsed().as_secs()), "{:?}", end.elapsed());
        drop(line.device);
        let ended = line.ended.await.unwrap();
        assert_eq!(ended.result.unwrap_err().reason(), Reason::HalfCloseTimeout);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_no_relay_while_the_kernel_has_bytes_that_tokio_has_not_reported() {
    let idle = Duration::from_secs(60);
    let mut line = Line::new(1024, Bounds { idle: Some(idle), ..UNBOUNDED }).await;
    let start = Instant::now();
    // Like after SIGCONT: the timers are due, and tokio reports the bytes only after the third check.
    *line.kernel.lock().unwrap() = vec![true, true, true];
    tokio::time::sleep(idle + 2 * DELIVERY + DELIVERY / 2).await;
    line.device.write_all(b"report").await.unwrap();
    line.backend.read_exact(&mut [0; 6]).await.unwrap();
    assert!(line.kernel.lock().unwrap().is_empty());
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(start.elapsed() > 2 * idle);
    drop(line.device.shutdown().await);
    assert_eq!(line.ended_with().await, (Some(Reason::IdleTimeout), None));
}

#[tokio::test(start_paused = true)]
async fn a_record_in_single_bytes_is_no_progress() {
    let idle = Duration::from_secs(60);
    let mut line = Line::new(1024, Bounds { idle: Some(idle), ..UNBOUNDED }).await;
    let start = Instant::now();
    let header = [23, 3, 3, 0, 200];
    for byte in header.into_iter().chain([0; 100]) {
        if line.ended.is_finished() || line.device.get_mut().0.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert!(start.elapsed() <= idle + Duration::from_secs(20), "{:?}", start.elapsed());
    drop(line.device);
    let ended = line.ended.await.unwrap();
    assert_eq!(
        (ended.result.unwrap_err().reason(), ended.reset),
        (Reason::IdleTimeout, Some(Side::Backend))
    );
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_is_closed_at_its_maximum_age() {
    let too_old = Instant::now() + Duration::from_secs(600);
    let mut line = Line::new(1024, Bounds { too_old: Some(too_old), ..UNBOUNDED }).await;
    while Instant::now() < too_old - Duration::from_secs(2) {
        line.device.write_all(b"x").await.unwrap();
        line.backend.read_exact(&mut [0; 1]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(Instant::now(), too_old);
    assert_eq!(line.ended_with().await, (Some(Reason::MaxAge), None));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_within_the_last_tenth_of_its_maximum_age() {
    let start = Instant::now();
    let too_old = start + Duration::from_secs(600);
    let mut line = Line::new(1024, Bounds { too_old: Some(too_old), ..UNBOUNDED }).await;
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert!((540..600).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(line.ended_with().await, (Some(Reason::MaxAge), None));
}

#[tokio::test(start_paused = true)]
async fn an_idle_relay_that_is_asked_to_end_at_a_pause_ends_at_once() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = Instant::now();
    line.session.stop_order().give_at_pause(Reason::Drain);
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(asked.elapsed(), Duration::ZERO);
    drop(line.device.shutdown().await);
    assert_eq!(line.backend.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(line.ended_with().await, (Some(Reason::Drain), None));
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_gets_its_answer_before_the_relay_ends_at_a_pause() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    line.device.write_all(b"request").await.unwrap();
    line.backend.read_exact(&mut [0; 7]).await.unwrap();
    line.session.stop_order().give_at_pause(Reason::Drain);
    tokio::time::sleep(pause::ANSWER_TIME - Duration::from_millis(100)).await;
    // An answer in parts, with silence in between.
    for _ in 0..5 {
        line.backend.write_all(b"part").await.unwrap();
        line.device.read_exact(&mut [0; 4]).await.unwrap();
        tokio::time::sleep(pause::QUIET - Duration::from_millis(100)).await;
    }
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(line.ended_with().await, (Some(Reason::Drain), None));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_delays_the_end_at_a_pause_by_the_answer_time() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    line.device.write_all(b"report").await.unwrap();
    line.backend.read_exact(&mut [0; 6]).await.unwrap();
    let sent = Instant::now();
    line.session.stop_order().give_at_pause(Reason::Drain);
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(sent.elapsed().as_secs(), pause::ANSWER_TIME.as_secs());
    assert_eq!(line.ended_with().await, (Some(Reason::Drain), None));
}

#[tokio::test(start_paused = true)]
async fn a_relay_with_bytes_that_its_backend_does_not_take_has_no_pause() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    let stuck = tokio::time::timeout(SOON, line.device.write_all(&[1; 100_000]));
    assert!(stuck.await.is_err());
    line.session.stop_order().give_at_pause(Reason::Drain);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!line.ended.is_finished());
    line.session.stop(Reason::DrainDeadline);
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    drop(line.device);
    let ended = line.ended.await.unwrap();
    assert_eq!(ended.result.unwrap_err().reason(), Reason::DrainDeadline);
}

#[tokio::test(start_paused = true)]
async fn without_bounds_a_silent_connection_lives_for_years() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    tokio::time::sleep(Duration::from_secs(3 * 365 * 24 * 3600)).await;
    line.device.write_all(b"still here").await.unwrap();
    line.backend.read_exact(&mut [0; 10]).await.unwrap();
}

#[tokio::test]
async fn a_stopped_relay_sends_close_notify() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    line.session.stop(Reason::DrainDeadline);
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    drop(line.device.shutdown().await);
    assert_eq!(line.ended_with().await, (Some(Reason::DrainDeadline), None));
}

#[tokio::test]
async fn a_relay_that_is_stopped_in_the_middle_of_a_record_resets_the_backend() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    line.device.get_mut().0.write_all(&[23, 3, 3, 0, 40, 1, 2]).await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    line.session.stop(Reason::DrainDeadline);
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    drop(line.device);
    assert_eq!(line.ended.await.unwrap().reset, Some(Side::Backend));
}

#[tokio::test]
async fn a_relay_that_is_stopped_with_bytes_for_the_backend_undelivered_resets_it() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    let stuck = tokio::time::timeout(SOON, line.device.write_all(&[1; 100_000]));
    assert!(stuck.await.is_err());
    line.session.stop(Reason::DrainDeadline);
    // The device gets an orderly end.
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    let got = read_all(&mut line.backend).await.len();
    assert_eq!(counted(&line.metrics, Direction::ToBackend), got);
    drop(line.device);
    let ended = line.ended.await.unwrap();
    assert_eq!(ended.reset, Some(Side::Backend));
    assert_eq!(ended.result.unwrap_err().reason(), Reason::DrainDeadline);
}
