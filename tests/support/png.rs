//! Pictures as PNG: their size, and a text inside of the file, in a chunk `iTXt` (PNG specification, section 11.3.3.4).

/// The bytes at the start of each file.
const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// A chunk ends with a checksum.
const CHECKSUM_BYTES: usize = 4;

/// Returns the width and the height in pixels.
pub(crate) fn size(png: &[u8]) -> (u32, u32) {
    let (kind, header) = chunks(png).next().unwrap();
    assert_eq!(kind, b"IHDR");
    let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    (number(0), number(4))
}

/// Returns a picture with a text under this keyword.
pub(crate) fn with_text(png: &[u8], keyword: &str, text: &str) -> Vec<u8> {
    // Neither compressed nor in a stated language.
    let content = [b"iTXt", keyword.as_bytes(), &[0; 5], text.as_bytes()].concat();
    let length = u32::try_from(content.len() - 4).unwrap();
    let chunk = [&length.to_be_bytes()[..], &content, &checksum(&content).to_be_bytes()].concat();
    // Behind the header, which has 13 bytes.
    let (start, rest) = png.split_at(SIGNATURE.len() + 8 + 13 + CHECKSUM_BYTES);
    [start, &chunk, rest].concat()
}

/// Returns the text under this keyword.
pub(crate) fn text(png: &[u8], keyword: &str) -> Option<String> {
    let before = [keyword.as_bytes(), &[0; 5]].concat();
    let mut texts = chunks(png).filter(|(kind, _)| kind == b"iTXt");
    let found = texts.find_map(|(_, content)| content.strip_prefix(&before[..]))?;
    Some(String::from_utf8(found.to_vec()).unwrap())
}

/// Returns the chunks, each with its kind and its content.
fn chunks(png: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = png.strip_prefix(&SIGNATURE).expect("a PNG");
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, after) = after.split_at(4);
        let (content, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        rest = &after[CHECKSUM_BYTES..];
        Some((kind, content))
    })
}

/// Returns the CRC of a chunk: PNG specification, annex D.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}
