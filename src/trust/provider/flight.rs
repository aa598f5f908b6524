//! Division of our handshake messages into records.
//!
//! rustls puts all messages of a flight into one record. A device with a receive buffer of 2 or 4 KiB can often hold
//! each message, but not the flight. Other devices cannot reassemble a message that is split over records (Mbed TLS
//! before 3.6.3, `ssl_msg.c`), so that a limit on rustls's records (`ServerConfig::max_fragment_size`), which cuts
//! anywhere, helps one kind of device and breaks the other.
//!
//! **Promises.** The records carry the same bytes in the same order. A message is split only if it alone exceeds
//! [`FlightSizes::fragment`].
//!
//! **Not here.** The sizes that a device asks for (`proxy/hello.rs`), application data (`proxy/tls/record_layer.rs`).

use std::ops::Range;

use crate::config::values::MAX_PLAIN_BYTES;

/// Sizes of the records of a flight, without the bytes that encryption adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlightSizes {
    /// Messages share a record up to this size.
    pub(crate) joined: usize,
    /// A message of more bytes is split.
    pub(crate) fragment: usize,
}

impl Default for FlightSizes {
    fn default() -> Self {
        Self { joined: MAX_PLAIN_BYTES, fragment: MAX_PLAIN_BYTES }
    }
}

impl FlightSizes {
    /// Returns sizes with which no record is larger than the largest message of the flight, or than `least`.
    pub(crate) fn within_largest_message(self, flight: &[u8], least: usize) -> Self {
        let largest = messages(flight).map(|message| message.len()).max().unwrap_or(0);
        Self { joined: self.joined.min(largest.max(least)), ..self }
    }

    /// Returns the content of each record of a flight, a sequence of handshake messages.
    pub(crate) fn divide(self, flight: &[u8]) -> Vec<&[u8]> {
        let mut records = Vec::new();
        let mut joined = 0..0;
        for message in messages(flight) {
            if joined.len() + message.len() <= self.joined {
                joined.end = message.end;
                continue;
            }
            if !joined.is_empty() {
                records.push(&flight[joined]);
            }
            if message.len() <= self.fragment {
                joined = message;
            } else {
                joined = message.end..message.end;
                records.extend(flight[message].chunks(self.fragment));
            }
        }
        if !joined.is_empty() {
            records.push(&flight[joined]);
        }
        records
    }
}

/// Returns the place of each handshake message: RFC 8446 section 4. The last one may be incomplete.
fn messages(flight: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &flight[at..];
        let bytes = match rest {
            [] => return None,
            [_, high, middle, low, ..] => {
                4 + u32::from_be_bytes([0, *high, *middle, *low]) as usize
            }
            _ => rest.len(),
        };
        let start = at;
        at += bytes.min(rest.len());
        Some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a flight of messages with these sizes, headers included.
    fn flight(sizes: &[u16]) -> Vec<u8> {
        let message = |(kind, &size): (u8, &u16)| {
            let [high, low] = (size - 4).to_be_bytes();
            [&[kind, 0, high, low][..], &vec![kind; usize::from(size) - 4]].concat()
        };
        (2..).zip(sizes).flat_map(message).collect()
    }

    fn divided(flight: &[u8], sizes: FlightSizes) -> Vec<usize> {
        let records = sizes.divide(flight);
        assert_eq!(records.concat(), flight, "the same bytes");
        records.iter().map(|record| record.len()).collect()
    }

    fn sizes(joined: usize, fragment: usize) -> FlightSizes {
        FlightSizes { joined, fragment }
    }

    #[test]
    fn messages_share_a_record_up_to_the_size() {
        let flight = flight(&[90, 1200, 300, 4]);
        assert_eq!(divided(&flight, FlightSizes::default()), [1594]);
        assert_eq!(divided(&flight, sizes(1594, 16384)), [1594]);
        assert_eq!(divided(&flight, sizes(1593, 16384)), [1590, 4]);
        assert_eq!(divided(&flight, sizes(1290, 16384)), [1290, 304]);
        assert_eq!(divided(&flight, sizes(1289, 16384)), [90, 1200, 304]);
        assert_eq!(divided(&flight, sizes(63, 16384)), [90, 1200, 300, 4]);
    }

    #[test]
    fn a_message_is_split_only_if_it_alone_is_too_long() {
        let flight = flight(&[90, 1200, 300, 4]);
        assert_eq!(divided(&flight, sizes(1200, 1200)), [90, 1200, 304]);
        assert_eq!(divided(&flight, sizes(1199, 1199)), [90, 1199, 1, 304]);
        assert_eq!(divided(&flight, sizes(512, 512)), [90, 512, 512, 176, 304]);
    }

    #[test]
    fn no_record_is_larger_than_the_largest_message() {
        let flight = flight(&[90, 1200, 300, 4]);
        let bound = |least| FlightSizes::default().within_largest_message(&flight, least);
        assert_eq!(divided(&flight, bound(1024)), [90, 1200, 304]);
        assert_eq!(divided(&flight, bound(2000)), [1594], "a small flight stays in one record");
    }

    #[test]
    fn bytes_that_are_not_whole_messages_are_kept() {
        let whole = flight(&[90, 1200]);
        for end in 0..whole.len() {
            divided(&whole[..end], sizes(100, 64));
        }
        assert_eq!(divided(&[11], FlightSizes::default()), [1]);
    }
}
