//! Looks up the names of backends.
//!
//! **Promises.** A name whose server hangs holds up the devices that want that backend, and no other
//! name: each has [`MAX_LOOKUPS`] threads at a time. Who has stopped waiting leaves nothing behind in
//! a queue. An address is not looked up.
//!
//! **Not here.** The timeout, and which of the addresses is dialled (`backend.rs`).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Look-ups of one name at a time. A resolver that answers within 10 ms serves 400 a second so.
const MAX_LOOKUPS: usize = 4;

/// The names that were looked up. They come from configurations, never from a peer.
static NAMES: Mutex<BTreeMap<Box<str>, Arc<Semaphore>>> = Mutex::new(BTreeMap::new());

/// The addresses of a host, by name or already an address.
///
/// # Errors
/// The resolver's.
pub(crate) async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let name = host.to_owned();
    run(room_of(host), move || Ok((name, port).to_socket_addrs()?.collect())).await
}

fn room_of(name: &str) -> Arc<Semaphore> {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(room) = names.get(name) {
        return Arc::clone(room);
    }
    let room = Arc::new(Semaphore::new(MAX_LOOKUPS));
    names.insert(name.into(), Arc::clone(&room));
    room
}

/// Runs a look-up on a thread that may block, as soon as there is room for it.
async fn run<T: Send + 'static>(
    room: Arc<Semaphore>,
    lookup: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // Waited for here, where a timeout ends the wait: a task of the pool cannot be taken back.
    let place = room.acquire_owned().await.map_err(io::Error::other)?;
    let looking = spawn_blocking(move || {
        let found = lookup();
        // Not before: the thread is taken for as long as the look-up hangs, whoever still waits.
        drop(place);
        found
    });
    looking.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    /// Look-ups that hang until the sender is dropped.
    async fn hang(
        name: &str,
        how_many: usize,
    ) -> (Vec<JoinHandle<io::Result<()>>>, Vec<mpsc::Sender<()>>) {
        let mut hanging = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..how_many {
            let (end, ended) = mpsc::channel::<()>();
            let (begin, begun) = tokio::sync::oneshot::channel();
            hanging.push(tokio::spawn(run(room_of(name), move || {
                let _nobody_waits = begin.send(());
                let _ended = ended.recv();
                Ok(())
            })));
            begun.await.unwrap();
            ends.push(end);
        }
        (hanging, ends)
    }

    #[tokio::test]
    async fn a_name_whose_server_hangs_takes_a_few_threads_and_leaves_nothing_in_the_queue() {
        let (hanging, ends) = hang("hangs.example", MAX_LOOKUPS).await;
        let (began, begins) = mpsc::channel();
        let another = run(room_of("hangs.example"), move || {
            began.send(()).unwrap();
            Ok(())
        });
        assert!(timeout(Duration::from_millis(50), another).await.is_err());
        // Its time is over: with the others gone, it is not begun either.
        drop(ends);
        for hung in hanging {
            hung.await.unwrap().unwrap();
        }
        assert!(begins.recv().is_err());
        run(room_of("hangs.example"), || Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn a_look_up_whose_caller_has_gone_keeps_its_place_until_it_is_over() {
        let (hanging, ends) = hang("slow.example", MAX_LOOKUPS).await;
        for hung in &hanging {
            hung.abort();
        }
        for hung in hanging {
            assert!(hung.await.unwrap_err().is_cancelled());
        }
        assert_eq!(room_of("slow.example").available_permits(), 0);
        drop(ends);
        let room = room_of("slow.example");
        let _all = room.acquire_many(u32::try_from(MAX_LOOKUPS).unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn another_name_is_looked_up_while_one_hangs() {
        let (_hanging, _ends) = hang("dead.example", MAX_LOOKUPS).await;
        let found = addresses("localhost", 1883).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 1883));
        assert!(!found.is_empty());
    }

    #[tokio::test]
    async fn an_address_is_not_looked_up() {
        for text in ["127.0.0.1", "::1"] {
            let found = addresses(text, 7).await.unwrap();
            assert_eq!(found, [SocketAddr::new(text.parse().unwrap(), 7)]);
            assert!(!NAMES.lock().unwrap().contains_key(text));
        }
    }
}
