//! Tests of the selection of connections.
//!
//! **Not here.** Real connections (`tests/trace.rs`).

use std::time::Instant;

use super::*;
use crate::terms::name_pattern::NamePattern;

struct NoBytes;

impl Counted for NoBytes {
    fn counts(&self) -> [u64; 2] {
        [0; 2]
    }
}

fn facts(connection: u64) -> Facts {
    let peer = ([192, 0, 2, 7], 1).into();
    Facts { connection, listener: "mqtt".into(), peer, opened: Instant::now() }
}

fn tracer(traces: &Arc<Traces>, connection: u64) -> Arc<Tracer> {
    traces.tracer(|| facts(connection), || Arc::new(NoBytes)).unwrap()
}

fn by_identity(name: &str) -> SessionFilter {
    SessionFilter { identity: Some(NamePattern::glob(name)), ..SessionFilter::default() }
}

fn names(name: &str) -> Box<[Box<str>]> {
    Box::new([name.into()])
}

fn end() -> Step {
    Step::Relay { connect_ms: 0.0 }
}

/// Returns the connections of the steps that a trace has, and why.
fn found(trace: &mut RunningTrace) -> Vec<(u64, Matched)> {
    std::iter::from_fn(|| trace.next_now()).map(|s| (s.facts.connection, s.matched)).collect()
}

#[test]
fn without_a_trace_nothing_is_made() {
    let traces = Arc::<Traces>::default();
    assert!(traces.tracer(|| panic!("not called"), || panic!("not called")).is_none());
}

#[test]
fn earlier_steps_are_sent_once_the_certificate_is_known_and_those_of_others_are_not() {
    let traces = Arc::<Traces>::default();
    let mut trace = traces.start(by_identity("pump-7"), false, 0).unwrap();
    let (one, two) = (tracer(&traces, 1), tracer(&traces, 2));
    for tracer in [&one, &two] {
        tracer.on_peer(facts(0).peer);
        tracer.on_server_name(None);
    }
    assert_eq!(found(&mut trace), []);
    one.on_identity(&names("pump-8"));
    two.on_identity(&names("pump-7"));
    assert!(one.is_over() && !two.is_over());
    assert_eq!(found(&mut trace), [(2, Matched::Verified)], "accepted");
    two.end(end());
    assert_eq!(found(&mut trace), [(2, Matched::Verified)]);
}

#[test]
fn a_refused_certificate_is_a_claim_and_a_failure_before_it_matches_by_the_last_address() {
    let traces = Arc::<Traces>::default();
    let mut trace = traces.start(by_identity("pump-7"), false, 0).unwrap();
    let early = tracer(&traces, 1);
    early.end(end());
    assert_eq!(found(&mut trace), [], "its address is not known");
    let claimed = tracer(&traces, 2);
    claimed.on_claim(&names("pump-7"));
    claimed.end(end());
    assert_eq!(found(&mut trace), [(2, Matched::Claimed); 2]);
    tracer(&traces, 3).end(end());
    assert_eq!(found(&mut trace), [], "a claim makes no address known");
    tracer(&traces, 4).on_identity(&names("pump-7"));
    found(&mut trace);
    tracer(&traces, 5).end(end());
    assert_eq!(found(&mut trace), [(5, Matched::Address); 2]);
}

#[test]
fn traces_tracers_and_kept_steps_are_bounded() {
    let traces = Arc::<Traces>::default();
    let running: Vec<_> =
        (0..MAX_TRACES).map(|_| traces.start(by_identity("a"), false, 0).unwrap()).collect();
    assert!(traces.start(by_identity("a"), false, 0).is_none());
    let tracers: Vec<_> = (0..MAX_TRACERS as u64).map(|id| tracer(&traces, id)).collect();
    assert!(traces.tracer(|| facts(0), || Arc::new(NoBytes)).is_none());
    assert_eq!(running[0].lost(), 1);
    for _ in 0..2 * MAX_KEPT {
        tracers[0].step(end());
    }
    assert_eq!(tracers[0].state.lock().kept.len(), MAX_KEPT);
    drop((tracers, running));
    assert!(!traces.is_running());
    assert!(traces.tracers.lock().is_empty());
}

#[test]
fn secrets_are_sent_only_to_a_trace_that_asks_for_them() {
    let traces = Arc::<Traces>::default();
    let mut without = traces.start(by_identity("a"), false, 0).unwrap();
    assert!(!tracer(&traces, 1).has_keys());
    let mut with = traces.start(by_identity("a"), true, 0).unwrap();
    let tracer = tracer(&traces, 2);
    assert!(tracer.has_keys());
    tracer.step(Step::Key { line: step::KeyLine::new("A", &[1], &[2]) });
    tracer.on_identity(&names("a"));
    assert_eq!((found(&mut without).len(), found(&mut with).len()), (1, 2));
}

#[test]
fn the_connections_of_a_trace_that_has_ended_leave_room_for_those_of_the_next_one() {
    let traces = Arc::<Traces>::default();
    let by_listener =
        || SessionFilter { listener: Some("mqtt".into()), ..SessionFilter::default() };
    let first = traces.start(by_listener(), true, 0).unwrap();
    let stay: Vec<_> = (0..MAX_TRACERS as u64).map(|id| tracer(&traces, id)).collect();
    stay.iter().skip(1).for_each(|tracer| tracer.on_peer(facts(0).peer));
    assert!(stay.iter().all(|tracer| tracer.has_keys()));
    drop(first);
    assert!(stay.iter().all(|tracer| tracer.is_over() && !tracer.has_keys()));
    assert!(stay[0].state.lock().kept.is_empty());
    let mut next = traces.start(by_listener(), false, 0).unwrap();
    let later = tracer(&traces, u64::MAX);
    later.on_peer(facts(0).peer);
    assert_eq!((found(&mut next), next.lost()), (vec![(u64::MAX, Matched::Verified)], 0));
    drop(stay);
    assert_eq!(traces.tracers.lock().len(), 1, "the later one");
}

#[test]
fn a_connection_that_ends_before_its_address_is_known_is_shown_to_a_trace_of_its_listener() {
    let traces = Arc::<Traces>::default();
    let of = |listener: &str| SessionFilter {
        listener: Some(listener.into()),
        ..SessionFilter::default()
    };
    let mut own = traces.start(of("mqtt"), false, 0).unwrap();
    let mut other = traces.start(of("amqp"), false, 0).unwrap();
    tracer(&traces, 1).end(end());
    assert_eq!(found(&mut own), [(1, Matched::Verified); 2]);
    assert_eq!(found(&mut other), []);
}

#[test]
fn a_session_that_is_established_is_added_to_a_later_trace_once() {
    let traces = Arc::<Traces>::default();
    let counts: Arc<dyn Counted> = Arc::new(NoBytes);
    let mut trace = traces.start(by_identity("pump-7"), false, 0).unwrap();
    let all = names("pump-7");
    let seen = Seen { listener: "mqtt", names: &all, peer: facts(1).peer, server_name: None };
    for _ in 0..2 {
        traces.established(&seen, || facts(1), &counts, end);
    }
    assert_eq!(found(&mut trace), [(1, Matched::Verified)]);
    traces.established(&Seen { names: &[], ..seen }, || facts(2), &counts, end);
    assert_eq!(found(&mut trace), []);
}

/// Returns the offsets and lengths of the packets that a trace has.
fn packets(trace: &mut RunningTrace) -> Vec<(u64, usize)> {
    let steps = std::iter::from_fn(|| trace.next_now());
    let packets = steps.filter_map(|traced| {
        let Step::Packet(packet) = &*traced.step else { return None };
        Some((packet.offset, packet.bytes.len()))
    });
    packets.collect()
}

#[test]
fn bytes_are_kept_until_the_trace_selects_the_connection_and_only_for_one_that_wants_them() {
    let traces = Arc::<Traces>::default();
    let mut without = traces.start(by_identity("a"), false, 0).unwrap();
    let unwanted = tracer(&traces, 1);
    unwanted.mirror(Sender::Device, &[1; 10]);
    assert_eq!(traces.kept_bytes.load(Ordering::Relaxed), 0);
    let mut with = traces.start(by_identity("a"), false, 1 << 20).unwrap();
    let (one, other) = (tracer(&traces, 2), tracer(&traces, 3));
    for tracer in [&one, &other] {
        tracer.mirror(Sender::Device, &[1; 20_000]);
        tracer.mirror(Sender::Tlsidecar, &[2; 5]);
    }
    assert_eq!(packets(&mut with), []);
    assert!(traces.kept_bytes.load(Ordering::Relaxed) > 40_000);
    one.on_identity(&names("a"));
    other.on_identity(&names("b"));
    one.mirror(Sender::Device, &[1; 3]);
    assert_eq!(packets(&mut with), [(0, 16_384), (16_384, 3616), (0, 5), (20_000, 3)]);
    assert_eq!(packets(&mut without), []);
    assert_eq!(with.packet_losses(), (0, false));
    assert_eq!(traces.kept_bytes.load(Ordering::Relaxed), 0, "none is kept any more");
}

#[test]
fn the_bytes_that_are_kept_are_bounded_for_a_connection_and_for_all_together() {
    let traces = Arc::<Traces>::default();
    let mut trace = traces.start(by_identity("a"), false, 1 << 30).unwrap();
    let tracers: Vec<_> = (0..300).map(|id| tracer(&traces, id)).collect();
    for _ in 0..200 {
        tracers.iter().for_each(|tracer| tracer.mirror(Sender::Device, &[1; 1000]));
    }
    let kept = traces.kept_bytes.load(Ordering::Relaxed);
    assert!((15 << 20..=16 << 20).contains(&kept), "{kept}");
    tracers[0].on_identity(&names("a"));
    let found = packets(&mut trace);
    assert!(found.len() < 110 && found.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1000));
    assert_eq!(trace.packet_losses(), (200 - found.len() as u64, false));
    drop((tracers, trace));
    assert_eq!(traces.kept_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn packets_of_a_slow_reader_are_bounded_by_their_bytes_and_leave_room_for_steps() {
    let traces = Arc::<Traces>::default();
    let all = || SessionFilter { listener: Some("mqtt".into()), ..SessionFilter::default() };
    let mut trace = traces.start(all(), false, 1 << 30).unwrap();
    let first = tracer(&traces, 1);
    first.on_peer(facts(0).peer);
    first.mirror(Sender::Device, &[1; 8 << 20]);
    for _ in 0..MAX_WAITING {
        first.mirror(Sender::Tlsidecar, &[2]);
    }
    first.end(end());
    assert_eq!(trace.lost(), 0, "no step");
    let found = packets(&mut trace);
    assert_eq!(found.iter().map(|(_, bytes)| bytes).sum::<usize>(), 4 << 20);
    assert!(trace.packet_losses().0 > 256);
    let mut bounded = traces.start(all(), false, 100).unwrap();
    let second = tracer(&traces, 2);
    second.on_peer(facts(0).peer);
    for bytes in [60, 60, 1] {
        second.mirror(Sender::Device, &vec![3; bytes]);
    }
    assert_eq!(packets(&mut bounded), [(0, 60)]);
    assert_eq!(bounded.packet_losses(), (0, true));
}

#[test]
fn no_packet_is_kept_or_counted_as_lost_once_the_bytes_of_a_trace_are_used_up() {
    let traces = Arc::<Traces>::default();
    let mut trace = traces.start(by_identity("a"), false, 100).unwrap();
    let (first, waiting) = (tracer(&traces, 1), tracer(&traces, 2));
    first.on_identity(&names("a"));
    for _ in 0..MAX_WAITING {
        first.step(end());
    }
    first.mirror(Sender::Device, &[1; 101]);
    assert_eq!(trace.packet_losses(), (0, true), "it would not fit into an empty queue either");
    waiting.mirror(Sender::Device, &[1; 10]);
    assert_eq!(traces.kept_bytes.load(Ordering::Relaxed), 0);
    waiting.on_identity(&names("a"));
    assert_eq!((packets(&mut trace), trace.packet_losses()), (vec![], (0, true)));
}
