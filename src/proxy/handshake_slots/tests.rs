//! The order in which devices get slots, with paused time.
//!
//! **Not here.** Storms over sockets: the bench's storm load.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::queue::PATIENCE;
use super::*;

/// A process with one listener.
fn listener(slots: usize, limits: config::Limits) -> ListenerSlots {
    let listener = Arc::new(HandshakeSlots::new(slots)).add_listener();
    listener.set_limits(limits);
    listener
}

fn source(last: u8) -> ClientSource {
    ClientSource::of([192, 0, 2, last].into())
}

/// The order in which devices get slots.
type Order = Arc<Lock<Vec<&'static str>>>;

/// A device that waits for a slot, holds it for a moment and leaves.
async fn device(
    listener: &ListenerSlots,
    order: &Order,
    name: &'static str,
    (last, resumes): (u8, bool),
) -> JoinHandle<()> {
    let (access, order) = (listener.access(source(last)), Arc::clone(order));
    let task = tokio::spawn(async move {
        let slot = access.take(resumes).await;
        order.lock().push(name);
        sleep(Duration::from_millis(1)).await;
        drop(slot);
    });
    // It waits before the next one comes.
    tokio::task::yield_now().await;
    task
}

async fn all(devices: impl IntoIterator<Item = JoinHandle<()>>) {
    for device in devices {
        device.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_handshakes_are_in_progress_as_there_are_slots() {
    let listener = listener(2, config::Limits::default());
    let access = listener.access(source(1));
    let first = access.try_take(false).unwrap();
    let _second = access.try_take(false).unwrap();
    assert!(access.try_take(false).is_none());
    drop(first);
    assert!(access.try_take(false).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_device_that_has_waited_for_a_moment_comes_before_a_newer_one() {
    let (listener, order) = (listener(1, config::Limits::default()), Order::default());
    let held = listener.access(source(9)).try_take(false).unwrap();
    let mut devices = Vec::new();
    for name in ["first", "second", "third"] {
        devices.push(device(&listener, &order, name, (1, false)).await);
    }
    drop(held);
    all(devices).await;
    assert_eq!(*order.lock(), ["first", "second", "third"]);
}

#[tokio::test(start_paused = true)]
async fn in_an_overload_the_newest_device_comes_first() {
    let (listener, order) = (listener(1, config::Limits::default()), Order::default());
    let held = listener.access(source(9)).try_take(false).unwrap();
    let mut devices = Vec::new();
    for name in ["first", "second", "third"] {
        devices.push(device(&listener, &order, name, (1, false)).await);
    }
    sleep(PATIENCE).await;
    drop(held);
    all(devices).await;
    assert_eq!(*order.lock(), ["third", "second", "first"]);
}

#[tokio::test(start_paused = true)]
async fn a_device_with_a_ticket_comes_before_one_without() {
    let (listener, order) = (listener(1, config::Limits::default()), Order::default());
    let held = listener.access(source(9)).try_take(false).unwrap();
    let full = device(&listener, &order, "full", (1, false)).await;
    let resuming = device(&listener, &order, "resuming", (1, true)).await;
    drop(held);
    all([full, resuming]).await;
    assert_eq!(*order.lock(), ["resuming", "full"]);
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_handshakes_keep_failing_comes_last() {
    let (listener, order) = (listener(1, config::Limits::default()), Order::default());
    let held = listener.access(source(9)).try_take(false).unwrap();
    (0..8).for_each(|_| listener.access(source(1)).ended(Some(true)));
    let failing = device(&listener, &order, "failing", (1, true)).await;
    let good = device(&listener, &order, "good", (2, false)).await;
    drop(held);
    all([failing, good]).await;
    assert_eq!(*order.lock(), ["good", "failing"]);
}

#[tokio::test(start_paused = true)]
async fn devices_with_tickets_do_not_keep_the_others_waiting_for_ever() {
    let (listener, order) = (listener(1, config::Limits::default()), Order::default());
    let held = listener.access(source(9)).try_take(false).unwrap();
    let mut devices = vec![device(&listener, &order, "full", (1, false)).await];
    for _ in 0..40 {
        devices.push(device(&listener, &order, "resuming", (1, true)).await);
    }
    drop(held);
    all(devices).await;
    let place = order.lock().iter().position(|name| *name == "full").unwrap();
    assert!(place <= 17, "{place}");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_leaves_gives_its_place_to_the_next() {
    let (listener, order) = (listener(1, config::Limits::default()), Order::default());
    let held = listener.access(source(9)).try_take(false).unwrap();
    let leaves = device(&listener, &order, "leaves", (1, false)).await;
    let stays = device(&listener, &order, "stays", (1, false)).await;
    assert_eq!(listener.waiting(), 2);
    leaves.abort();
    assert!(leaves.await.unwrap_err().is_cancelled());
    assert_eq!(listener.waiting(), 1);
    drop(held);
    stays.await.unwrap();
    assert_eq!(*order.lock(), ["stays"]);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_comes_when_its_device_has_left_is_not_lost() {
    let (listener, order) = (listener(1, config::Limits::default()), Order::default());
    let held = listener.access(source(9)).try_take(false).unwrap();
    let leaves = device(&listener, &order, "leaves", (1, false)).await;
    // The slot is sent, and the task is aborted before it runs again.
    drop(held);
    leaves.abort();
    assert!(leaves.await.unwrap_err().is_cancelled());
    assert!(listener.access(source(1)).try_take(false).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_listener_at_its_limit_leaves_the_other_slots_to_the_others() {
    let slots = Arc::new(HandshakeSlots::new(2));
    let (limited, other) = (slots.add_listener(), slots.add_listener());
    let limits =
        config::Limits { max_handshakes_in_progress: Some(1), ..config::Limits::default() };
    limited.set_limits(limits);
    let order = Order::default();
    let held = limited.access(source(1)).try_take(false).unwrap();
    let waits = device(&limited, &order, "limited", (1, false)).await;
    device(&other, &order, "other", (1, false)).await.await.unwrap();
    drop(held);
    waits.await.unwrap();
    assert_eq!(*order.lock(), ["other", "limited"]);
}

#[tokio::test(start_paused = true)]
async fn full_handshakes_keep_to_their_pace_and_resumptions_do_not_wait() {
    let limits =
        config::Limits { max_handshakes_per_second: Some(10), ..config::Limits::default() };
    let (listener, order) = (listener(4, limits), Order::default());
    let start = Instant::now();
    let mut devices = Vec::new();
    for _ in 0..21 {
        devices.push(device(&listener, &order, "full", (1, false)).await);
    }
    device(&listener, &order, "resuming", (1, true)).await.await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
    all(devices).await;
    let took = start.elapsed();
    assert!((1.8..2.1).contains(&took.as_secs_f64()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_is_declined_is_charged_as_a_full_handshake() {
    let limits = config::Limits { max_handshakes_per_second: Some(1), ..config::Limits::default() };
    let listener = listener(1, limits);
    let access = listener.access(source(1));
    for _ in 0..2 {
        let mut declined = access.try_take(true).unwrap();
        declined.on_full_handshake();
    }
    assert!(access.try_take(false).is_none());
    assert!(access.try_take(true).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_last_of_each_series_of_resumed_handshakes_is_named() {
    let listener = listener(4, config::Limits::default());
    let access = listener.access(source(1));
    let last: Vec<_> =
        (0..2 * RESUMED_IN_SERIES).map(|_| access.try_take(true).unwrap().ends_series()).collect();
    let series = usize::try_from(RESUMED_IN_SERIES).unwrap();
    let places: Vec<_> = (0..last.len()).filter(|place| last[*place]).collect();
    assert_eq!(places, [series - 1, 2 * series - 1]);
}

#[tokio::test(start_paused = true)]
async fn devices_that_have_waited_for_long_mean_overload() {
    let (listener, order) = (listener(1, config::Limits::default()), Order::default());
    let access = listener.access(source(9));
    let held = access.try_take(false).unwrap();
    let waits = device(&listener, &order, "waits", (1, false)).await;
    assert!(!access.is_overloaded());
    sleep(PATIENCE).await;
    assert!(access.is_overloaded());
    drop(held);
    waits.await.unwrap();
    assert!(!access.is_overloaded());
}

#[tokio::test(start_paused = true)]
async fn answers_that_no_device_answers_leave_slots_unused_until_they_are_forgotten() {
    let (listener, order) = (listener(1, config::Limits::default()), Order::default());
    let access = listener.access(source(1));
    let answer = || access.try_take(false).map(|slot| slot.answered(Instant::now()));
    let mut unanswered: Vec<_> = std::iter::from_fn(answer).collect();
    assert_eq!(unanswered.len(), UNANSWERED_PER_SLOT);
    let first = device(&listener, &order, "first", (1, false)).await;
    assert_eq!(listener.waiting(), 1);
    drop(unanswered.pop());
    first.await.unwrap();
    unanswered.extend(answer());
    assert_eq!(unanswered.len(), UNANSWERED_PER_SLOT);
    let start = Instant::now();
    device(&listener, &order, "second", (1, false)).await.await.unwrap();
    let waited = start.elapsed();
    assert!(waited <= flights::FORGOTTEN + Duration::from_millis(2), "{waited:?}");
}
