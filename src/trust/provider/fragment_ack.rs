//! The acknowledgement of max_fragment_length, which rustls does not send.
//!
//! A server may send small records without it. But firmware on BearSSL's Arduino binding (ESP8266, RP2040) asks a
//! server first (`probeMaxFragmentLength`), and chooses small buffers only if the ServerHello has the extension. So it
//! is added to the ServerHello of TLS 1.2, on the wire and in the transcript. In TLS 1.3, where it would be encrypted, no
//! device is known to need it.
//!
//! **Promises.** Only the list of extensions of a ServerHello is changed, and the two lengths around it.
//!
//! **Not here.** The hash over the changed message (`transcript.rs`), its record (`proxy/tls/negotiation/framing.rs`),
//! the size of records (`flight.rs`).

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// Size of a message's header: type and length. RFC 5246 section 7.4.
const HEADER_BYTES: usize = 4;

/// Place of the length of the session ID, behind version and random: RFC 5246 section 7.4.1.3.
const SESSION_ID_AT: usize = HEADER_BYTES + 2 + 32;

/// The acknowledgement of one max_fragment_length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentAck {
    /// The client's value: RFC 6066 section 4.
    pub(crate) code: u8,
}

impl FragmentAck {
    /// Returns `messages` with the extension in the ServerHello at their start. Returns none if they start with another
    /// message.
    pub(crate) fn added_to(self, messages: &[u8]) -> Option<Vec<u8>> {
        let (hello, behind) = split_message(messages, SERVER_HELLO)?;
        let session_id = usize::from(*hello.get(SESSION_ID_AT)?);
        // Behind the session ID, the suite and the compression method.
        let (before, list) = hello.split_at_checked(SESSION_ID_AT + 1 + session_id + 3)?;
        let list = match list {
            [] => &[],
            [_, _, list @ ..] => list,
            _ => return None,
        };
        let list = [list, &[0, 1, 0, 1, self.code]].concat();
        let length = u16::try_from(list.len()).ok()?.to_be_bytes();
        let body = [&before[HEADER_BYTES..], &length, &list].concat();
        let [_, length @ ..] = u32::try_from(body.len()).ok()?.to_be_bytes();
        Some([&[SERVER_HELLO], &length[..], &body, behind].concat())
    }

    /// Returns the transcript `messages` with the extension in the ServerHello behind the ClientHello at their start.
    pub(super) fn added_behind_client_hello(self, messages: &[u8]) -> Option<Vec<u8>> {
        let (client_hello, behind) = split_message(messages, CLIENT_HELLO)?;
        Some([client_hello, &self.added_to(behind)?].concat())
    }
}

/// Splits a message of this type from those behind it.
fn split_message(messages: &[u8], expected: u8) -> Option<(&[u8], &[u8])> {
    let &[kind, high, middle, low] = messages.first_chunk()?;
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    messages.split_at_checked(HEADER_BYTES + length).filter(|_| kind == expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: FragmentAck = FragmentAck { code: 2 };

    /// Returns a message of this type.
    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 0, 0, u8::try_from(body.len()).unwrap()][..], body].concat()
    }

    /// Returns a ServerHello with a session ID of this length, and with these bytes behind its compression method.
    fn server_hello(session_id: u8, extensions: &[u8]) -> Vec<u8> {
        let id = vec![9; usize::from(session_id)];
        let body = [&[3, 3][..], &[7; 32], &[session_id], &id, &[0xc0, 0x2b, 0], extensions];
        message(SERVER_HELLO, &body.concat())
    }

    #[test]
    fn the_extension_is_added_to_those_of_the_server_hello() {
        let behind = message(11, b"certificate");
        for session_id in [0, 32] {
            let flight = [server_hello(session_id, &[0, 4, 0, 23, 0, 0]), behind.clone()].concat();
            let extensions = [0, 9, 0, 23, 0, 0, 0, 1, 0, 1, 2];
            let expected = [server_hello(session_id, &extensions), behind.clone()].concat();
            assert_eq!(ACK.added_to(&flight), Some(expected));
        }
    }

    #[test]
    fn a_server_hello_without_extensions_gets_a_list() {
        let expected = server_hello(0, &[0, 5, 0, 1, 0, 1, 2]);
        assert_eq!(ACK.added_to(&server_hello(0, &[])), Some(expected));
    }

    #[test]
    fn the_server_hello_is_found_behind_the_client_hello() {
        let client_hello = message(CLIENT_HELLO, b"hello");
        let messages = [client_hello.clone(), server_hello(0, &[]), message(14, &[])].concat();
        let changed = ACK.added_to(&messages[client_hello.len()..]).unwrap();
        let expected = [client_hello, changed].concat();
        assert_eq!(ACK.added_behind_client_hello(&messages), Some(expected));
    }

    #[test]
    fn other_messages_and_incomplete_ones_are_not_changed() {
        let whole = server_hello(32, &[0, 0]);
        for end in 0..whole.len() {
            assert_eq!(ACK.added_to(&whole[..end]), None);
        }
        for short in [&[3, 3][..], &[0; 35], &[0; 38]] {
            assert_eq!(ACK.added_to(&message(SERVER_HELLO, short)).is_some(), short.len() == 38);
        }
        assert_eq!(ACK.added_to(&message(11, &[0; 60])), None);
        assert_eq!(ACK.added_behind_client_hello(&whole), None);
    }
}
