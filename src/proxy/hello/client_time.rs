//! The clock of a device, from its ClientHello.
//!
//! RFC 5246 section 7.4.1.2 begins the random with the client's Unix time. mbedTLS still does so in TLS 1.2; most other
//! stacks send random bytes. With it, an operator can tell a wrong clock from a wrong certificate.
//!
//! **Promises.** Of random bytes, less than one in a hundred is taken for a time. Therefore a clock that is wrong in
//! another way than those below is not reported.
//!
//! **Not here.** The log line, which has the time only beside an alert about a certificate (`proxy/record.rs`).

use std::time::SystemTime;

use super::client_hello::ClientHello;
use crate::terms::labels::OfferedVersion;
use crate::time::unix_seconds;

const DAY: u32 = 24 * 3600;

/// Clocks without a battery begin at 1970 (Unix), 1980 (FAT file systems, GPS) or 2000 (clock chips).
const BEGINNINGS: [u32; 3] = [0, 315_532_800, 946_684_800];

/// The longest time that such a device is assumed to have been running.
const RUNNING: u32 = 30 * DAY;

/// The difference of a clock that was set once.
const BEHIND: u32 = 365 * DAY;
const AHEAD: u32 = 30 * DAY;

const _: () = assert!(3 * RUNNING + BEHIND + AHEAD < u32::MAX / 100, "one in a hundred");

/// Returns the Unix time with which a client's random begins, if it is plausible at `now`. In TLS 1.3 the whole random is
/// random: RFC 8446 section 4.1.2.
pub(super) fn of(hello: &ClientHello<'_>, version: OfferedVersion, now: SystemTime) -> Option<u32> {
    let [a, b, c, d, ..] = hello.random;
    let time = u32::from_be_bytes([a, b, c, d]);
    let now = u32::try_from(unix_seconds(now)).unwrap_or(u32::MAX);
    (version != OfferedVersion::Tls13 && is_plausible(time, now)).then_some(time)
}

fn is_plausible(time: u32, now: u32) -> bool {
    let is_near = (now.saturating_sub(BEHIND)..now.saturating_add(AHEAD)).contains(&time);
    is_near || BEGINNINGS.iter().any(|&first| (first..first + RUNNING).contains(&time))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-30.
    const NOW: u32 = 1_795_996_800;

    #[test]
    fn clocks_that_were_never_set_or_are_a_little_wrong_are_plausible() {
        for time in [0, 20 * DAY, 315_964_800, 946_684_800 + DAY, NOW - 300 * DAY, NOW, NOW + DAY] {
            assert!(is_plausible(time, NOW), "{time}");
        }
    }

    #[test]
    fn other_values_are_random() {
        for time in [40 * DAY, 1_588_550_400, NOW - 400 * DAY, NOW + 40 * DAY, u32::MAX] {
            assert!(!is_plausible(time, NOW), "{time}");
        }
    }
}
