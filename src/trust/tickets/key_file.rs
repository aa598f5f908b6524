//! The file of shared ticket keys, in HAProxy's format (`tls-ticket-keys`), so that one file can serve both.
//!
//! A line is a key: the base64 of 80 or 48 random bytes, all of one size. There are at least three. As in
//! HAProxy there are no comments and no empty lines.
//!
//! **Promises.** A file is loaded whole or not at all. Up to [`MAX_FAULTS`] lines that are wrong are reported,
//! by their numbers; their content never is.
//!
//! **Not here.** The use of the keys (`key_ring.rs`).

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::keys::MasterKey;

/// Wrong lines that are reported.
const MAX_FAULTS: usize = 10;

/// Keys that a file has at least: the next one, the one that seals, and the one before. HAProxy's default
/// (`TLS_TICKETS_NO`).
const MIN_KEYS: usize = 3;

/// The sizes of HAProxy's keys: a name and keys for HMAC and AES-256 or AES-128.
const KEY_BYTES: [usize; 2] = [80, 48];

/// A fault of a line, or of the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyFileFault {
    #[error("the line is empty, and must be a key: the base64 of 80 or 48 random bytes")]
    EmptyLine,
    #[error(
        "the line is not base64, and must be that of 80 or 48 random bytes, without anything else"
    )]
    NotBase64,
    #[error("the key has {0} bytes, and must have 80 or 48")]
    Size(usize),
    #[error(
        "the key has {0} bytes, and the first key of the file has {1}: all must have the same size"
    )]
    OtherSize(usize, usize),
    #[error("has too few keys: {0}, and must have 3 or more, one on each line")]
    TooFew(usize),
}

/// The keys of a file, each with its line.
pub(crate) type FoundKeys = Vec<(usize, MasterKey)>;

/// The faults of a file, each with its line; none for a fault of the whole file.
pub(crate) type FoundFaults = Vec<(Option<usize>, KeyFileFault)>;

/// Reads the keys of a file.
///
/// # Errors
/// Every fault.
pub(crate) fn parse(file: &[u8]) -> Result<FoundKeys, FoundFaults> {
    let (mut keys, mut faults) = (Vec::new(), Vec::new());
    let mut first_size = None;
    let lines = file.strip_suffix(b"\n").unwrap_or(file).split(|&byte| byte == b'\n');
    for (line, text) in (1..).zip(lines.filter(|_| !file.is_empty())) {
        match key(text.strip_suffix(b"\r").unwrap_or(text), first_size) {
            Ok(bytes) => {
                first_size.get_or_insert(bytes.len());
                keys.push((line, MasterKey::new(bytes)));
            }
            Err(fault) => faults.push((Some(line), fault)),
        }
        if faults.len() == MAX_FAULTS {
            break;
        }
    }
    if faults.is_empty() && keys.len() < MIN_KEYS {
        faults.push((None, KeyFileFault::TooFew(keys.len())));
    }
    if faults.is_empty() { Ok(keys) } else { Err(faults) }
}

/// Decodes the key of a line.
fn key(text: &[u8], first_size: Option<usize>) -> Result<Zeroizing<Vec<u8>>, KeyFileFault> {
    if text.is_empty() {
        return Err(KeyFileFault::EmptyLine);
    }
    let not_base64 = |_| KeyFileFault::NotBase64;
    let mut bytes = Zeroizing::new(vec![0; BASE64.decode_len(text.len()).map_err(not_base64)?]);
    let decoded = BASE64.decode_mut(text, &mut bytes);
    let size = decoded.map_err(|_| KeyFileFault::NotBase64)?;
    bytes.truncate(size);
    match first_size {
        _ if !KEY_BYTES.contains(&size) => Err(KeyFileFault::Size(size)),
        Some(first) if first != size => Err(KeyFileFault::OtherSize(size, first)),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(byte: u8, bytes: usize) -> String {
        BASE64.encode(&vec![byte; bytes])
    }

    fn faults(file: &str) -> FoundFaults {
        parse(file.as_bytes()).err().unwrap_or_default()
    }

    #[test]
    fn three_or_more_keys_of_either_size_are_read_with_their_lines() {
        for bytes in KEY_BYTES {
            let lines: Vec<_> = (1..=4).map(|byte| line(byte, bytes)).collect();
            for end in ["\n", "\r\n"] {
                for file in [lines.join(end), lines.join(end) + end] {
                    let keys = parse(file.as_bytes()).unwrap();
                    let numbers: Vec<_> = keys.iter().map(|(line, _)| *line).collect();
                    assert_eq!(numbers, [1, 2, 3, 4]);
                }
            }
        }
    }

    #[test]
    fn each_wrong_line_is_reported_with_its_number() {
        let (good, short) = (line(1, 80), line(1, 48));
        let file = format!("{good}\n\n# comment\n{short}\n{}\n {good}\n{good}\n", line(1, 79));
        let expected = [
            (Some(2), KeyFileFault::EmptyLine),
            (Some(3), KeyFileFault::NotBase64),
            (Some(4), KeyFileFault::OtherSize(48, 80)),
            (Some(5), KeyFileFault::Size(79)),
            (Some(6), KeyFileFault::NotBase64),
        ];
        assert_eq!(faults(&file), expected);
    }

    #[test]
    fn too_few_keys_are_a_fault_of_the_file() {
        assert_eq!(faults(""), [(None, KeyFileFault::TooFew(0))]);
        let two = format!("{}\n{}\n", line(1, 80), line(2, 80));
        assert_eq!(faults(&two), [(None, KeyFileFault::TooFew(2))]);
    }

    #[test]
    fn the_number_of_reported_lines_is_bounded() {
        assert_eq!(faults(&"\n".repeat(10_000)).len(), MAX_FAULTS);
    }
}
