//! Tests with a socket that takes a chosen number of bytes.
//!
//! **Not here.** Real sockets: `tests/relay.rs`.

use std::collections::VecDeque;
use std::task::Waker;

use super::*;

/// A socket that takes these numbers of bytes in its next calls. Then it fails, or is not ready.
#[derive(Default)]
struct SlowSocket {
    takes: VecDeque<usize>,
    fails: bool,
    taken: Vec<u8>,
}

impl SlowSocket {
    fn taking(takes: impl IntoIterator<Item = usize>) -> Self {
        Self { takes: takes.into_iter().collect(), ..Self::default() }
    }
}

impl AsyncWrite for SlowSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.takes.pop_front() {
            Some(most) => {
                let taken = most.min(bytes.len());
                self.taken.extend_from_slice(&bytes[..taken]);
                Poll::Ready(Ok(taken))
            }
            None if self.fails => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => Poll::Pending,
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: Vec<_> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.poll_write(cx, &bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns `count` chunks of 1, 2, 3 … bytes, and their bytes.
fn chunks(count: u8) -> (Vec<Vec<u8>>, Vec<u8>) {
    let chunks: Vec<_> = (1..=count).map(|n| vec![n; usize::from(n)]).collect();
    let bytes = chunks.concat();
    (chunks, bytes)
}

fn push_all(
    unsent: &mut WriteBuffer,
    to: &mut SlowSocket,
    chunks: &mut Vec<Vec<u8>>,
) -> io::Result<()> {
    let pushed = unsent.push_all(to, &mut Context::from_waker(Waker::noop()), chunks);
    assert!(chunks.is_empty());
    pushed
}

#[test]
fn chunks_arrive_in_order_whatever_the_socket_takes_at_a_time() {
    for count in 1..9 {
        for most in 1..50 {
            let (mut chunks, bytes) = chunks(count);
            let mut socket = SlowSocket::taking([most; 50]);
            let mut unsent = WriteBuffer::default();
            push_all(&mut unsent, &mut socket, &mut chunks).unwrap();
            assert_eq!(socket.taken, bytes, "{count} chunks, {most} bytes");
            assert!(unsent.is_empty());
        }
    }
}

#[test]
fn the_rest_of_chunks_after_a_short_write_follows_with_the_next_flush() {
    for count in 1..9 {
        let (_, bytes) = chunks(count);
        for stuck_at in 0..bytes.len() {
            let (mut chunks, _) = chunks(count);
            let mut socket = SlowSocket::taking([stuck_at].into_iter().filter(|&taken| taken > 0));
            let mut unsent = WriteBuffer::default();
            push_all(&mut unsent, &mut socket, &mut chunks).unwrap();
            let (taken, rest) = bytes.split_at(socket.taken.len());
            assert_eq!((&socket.taken[..], unsent.rest()), (taken, rest));
            socket.takes.push_back(bytes.len());
            let flushed = unsent.poll_flush(&mut socket, &mut Context::from_waker(Waker::noop()));
            assert!(flushed.is_ready());
            assert_eq!(socket.taken, bytes);
        }
    }
}

#[test]
fn a_socket_that_is_stuck_amid_chunks_keeps_the_rest_and_no_more() {
    for count in 1..17 {
        let bytes = 16_406 * count;
        for stuck_at in [0, 1, 9_000, bytes / 2, bytes - 1] {
            let mut chunks = vec![vec![1; 16_406]; count];
            let mut socket = SlowSocket::taking([stuck_at].into_iter().filter(|&taken| taken > 0));
            let mut unsent = WriteBuffer::default();
            push_all(&mut unsent, &mut socket, &mut chunks).unwrap();
            assert_eq!(unsent.bytes.capacity(), bytes - stuck_at, "{count}, {stuck_at}");
        }
    }
}

#[test]
fn a_socket_that_takes_a_little_at_a_time_keeps_hardly_more_than_the_rest() {
    let mut unsent = WriteBuffer::new(vec![1; 256 * 1024]);
    let mut taken = 0;
    while !unsent.is_empty() {
        let mut socket = SlowSocket::taking([1448]);
        let _pending = unsent.poll_flush(&mut socket, &mut Context::from_waker(Waker::noop()));
        taken += socket.taken.len();
        let (owned, rest) = (unsent.bytes.capacity(), unsent.rest().len());
        assert!(owned <= rest + rest / 3 + 1, "{owned} bytes are owned for {rest}");
    }
    assert_eq!((taken, unsent.bytes.capacity()), (256 * 1024, 0));
}

#[test]
fn the_error_of_a_socket_that_fails_between_chunks_is_returned() {
    let (mut chunks, bytes) = chunks(7);
    let mut socket = SlowSocket { fails: true, ..SlowSocket::taking([4]) };
    let mut unsent = WriteBuffer::default();
    let error = push_all(&mut unsent, &mut socket, &mut chunks).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(socket.taken, bytes[..4]);
}

#[test]
fn a_socket_that_takes_nothing_of_chunks_has_failed() {
    for count in [1, 3] {
        let (mut chunks, _) = chunks(count);
        let error =
            push_all(&mut WriteBuffer::default(), &mut SlowSocket::taking([0]), &mut chunks)
                .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
