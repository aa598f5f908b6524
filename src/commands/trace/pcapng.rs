//! The blocks of a pcapng file: draft-ietf-opsawg-pcapng.
//!
//! **Not here.** The content of packets (`capture.rs`).

/// The type of the first block. Its bytes are the same in both byte orders.
pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const DECRYPTION_SECRETS: u32 = 10;

/// The byte order of a section: that of the machine that writes it. Ours is little-endian on every machine.
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// A key log of TLS.
const TLS_KEY_LOG: u32 = 0x544c_534b;

/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

/// Returns the start of a section, with one interface.
pub(super) fn start() -> Vec<u8> {
    let mut section = BYTE_ORDER_MAGIC.to_le_bytes().to_vec();
    for version in [1_u16, 0] {
        section.extend(version.to_le_bytes());
    }
    // The length of the section is not known.
    section.extend((-1_i64).to_le_bytes());
    let mut interface = ETHERNET.to_le_bytes().to_vec();
    // A reserved field, and no limit for the length of packets. Times are in microseconds by default.
    interface.extend([0; 6]);
    [block(SECTION_HEADER, section), block(INTERFACE_DESCRIPTION, interface)].concat()
}

/// Returns a packet at a Unix time in seconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest value of the integer"
)]
pub(super) fn packet(at: f64, frame: &[u8]) -> Vec<u8> {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = ((at * 1e6).round() as u64).to_le_bytes();
    let length = length(frame.len()).to_le_bytes();
    // The interface, the higher and the lower half of the time, the captured and the original length.
    let mut body = vec![0; 4];
    for field in [[b4, b5, b6, b7], [b0, b1, b2, b3], length, length] {
        body.extend(field);
    }
    body.extend(frame);
    block(ENHANCED_PACKET, body)
}

/// Returns lines of a key log of TLS.
pub(super) fn secrets(lines: &[u8]) -> Vec<u8> {
    let mut body = TLS_KEY_LOG.to_le_bytes().to_vec();
    body.extend(length(lines.len()).to_le_bytes());
    body.extend(lines);
    block(DECRYPTION_SECRETS, body)
}

/// Returns a block, whose body is filled up to a multiple of four bytes.
fn block(kind: u32, mut body: Vec<u8>) -> Vec<u8> {
    body.resize(body.len().next_multiple_of(4), 0);
    let length = length(body.len() + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, &body, &length].concat()
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a block has less than 1 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_have_the_form_of_the_draft() {
        let start = start();
        assert_eq!(start[..12], [0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a]);
        assert_eq!(start[28..], [1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0]);
        let packet = packet(4_294.967_297, &[7; 5]);
        assert_eq!(packet[..12], [6, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(packet[12..20], [1, 0, 0, 0, 1, 0, 0, 0], "the higher half is first");
        assert_eq!(packet[20..], [5, 0, 0, 0, 5, 0, 0, 0, 7, 7, 7, 7, 7, 0, 0, 0, 40, 0, 0, 0]);
        let secrets = secrets(b"a\n");
        assert_eq!(secrets[8..16], [0x4b, 0x53, 0x4c, 0x54, 2, 0, 0, 0]);
    }
}
