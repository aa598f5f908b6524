//! Opens tickets, decodes their content, and reads files of ticket keys. The first byte of an input selects one.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tlsidecar::trust::fuzz::{FuzzTickets, ticket_keys};

/// A state of rustls without a server name and certificates: TLS 1.3, AES-128-GCM, a secret of 32 bytes.
fn state() -> Vec<u8> {
    let mut state = vec![0, 3, 4, 0x13, 1, 32];
    state.extend([7; 32]);
    // No extended master secret, no certificates, no ALPN, no data, times.
    state.extend([0; 3 + 2 + 12]);
    state
}

fuzz_target!(|data: &[u8]| {
    static TICKETS: OnceLock<FuzzTickets> = OnceLock::new();
    let tickets = TICKETS.get_or_init(FuzzTickets::new);
    let Some((which, data)) = data.split_first() else { return };
    match which % 4 {
        0 => assert!(!tickets.opens(data), "no key of ours sealed it"),
        1 => changed(tickets, data),
        2 => tickets.decode(data, data),
        _ => match ticket_keys(data) {
            Ok(keys) => assert!(keys >= 3 && data.len() >= keys * 64, "{keys} keys"),
            Err(faults) => assert!((1..=10).contains(&faults), "{faults} faults"),
        },
    }
});

/// Changes a ticket of ours: one byte, then its length.
fn changed(tickets: &FuzzTickets, data: &[u8]) {
    let ticket = tickets.seal(&state()).expect("the state has rustls's layout");
    assert!(tickets.opens(&ticket));
    let [at, by, rest @ ..] = data else { return };
    let mut other = ticket.clone();
    let at = usize::from(*at) % other.len();
    other[at] ^= by;
    assert_eq!(tickets.opens(&other), *by == 0, "byte {at} changed by {by}");
    other.clone_from(&ticket);
    other.extend(rest);
    assert_eq!(tickets.opens(&other), rest.is_empty(), "{} bytes more", rest.len());
    assert!(!tickets.opens(&ticket[..at]), "cut to {at}");
}
