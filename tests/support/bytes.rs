//! Pseudo-random bytes to send: reordering, loss or repetition changes their hash.

use aws_lc_rs::digest::{Context, SHA256, digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A stream of bytes that differs for each seed and at each position.
pub(crate) struct Bytes(u64);

impl Bytes {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number below `bound`, from the same generator.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Fills the buffer with the next bytes of the stream.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    /// Advances the generator: xorshift64.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Sends `total` bytes in chunks of `chunk` and returns their SHA-256.
pub(crate) async fn send<W: AsyncWriteExt + Unpin>(
    to: &mut W,
    seed: u64,
    total: usize,
    chunk: usize,
) -> Vec<u8> {
    let mut bytes = Bytes::new(seed);
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; chunk];
    let mut left = total;
    while left > 0 {
        let now = chunk.min(left);
        bytes.fill(&mut buffer[..now]);
        hash.update(&buffer[..now]);
        to.write_all(&buffer[..now]).await.unwrap();
        left -= now;
    }
    to.flush().await.unwrap();
    hash.finish().as_ref().to_vec()
}

/// Reads `total` bytes and returns their SHA-256.
pub(crate) async fn receive_some<R: AsyncReadExt + Unpin>(from: &mut R, total: usize) -> Vec<u8> {
    let mut bytes = vec![0; total];
    from.read_exact(&mut bytes).await.unwrap();
    digest(&SHA256, &bytes).as_ref().to_vec()
}

/// Reads until the end and returns the number of bytes and their SHA-256.
pub(crate) async fn receive<R: AsyncReadExt + Unpin>(from: &mut R) -> (usize, Vec<u8>) {
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match from.read(&mut buffer).await.unwrap() {
            0 => return (total, hash.finish().as_ref().to_vec()),
            read => {
                hash.update(&buffer[..read]);
                total += read;
            }
        }
    }
}
