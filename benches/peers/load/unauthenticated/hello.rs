//! Construction of ClientHellos and their records.

/// An extension: its number and content.
pub type Extension = (u16, Vec<u8>);

/// Largest plaintext handshake record: RFC 8446 section 5.1.
pub const RECORD_BYTES: usize = 16 * 1024;

/// The suites of a device with TLS 1.3 and 1.2.
pub const SUITES: &[u16] = &[0x1301, 0xc02b, 0xc02f];
/// The suites of a device with TLS 1.2 only.
pub const OLD_SUITES: &[u16] = &[0xc02b, 0xc02f];

/// Returns a handshake message of this type.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend(&length(body.len(), 3));
    message.extend(body);
    message
}

/// Returns a ClientHello with these suites and extensions.
pub fn hello(suites: &[u16], extensions: &[Extension]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend([9; 32]);
    body.extend(vector(2, &numbers(suites)));
    body.extend([1, 0]);
    let extensions: Vec<u8> = extensions.iter().flat_map(extension).collect();
    body.extend(vector(2, &extensions));
    message(1, &body)
}

/// Returns the extensions of an ordinary TLS 1.3 hello. An extension of `others` replaces the ordinary one with
/// the same number.
pub fn with(others: &[Extension]) -> Vec<Extension> {
    let share = [&0x001d_u16.to_be_bytes()[..], &vector(2, &[9; 32])].concat();
    let mut all = vec![(43, vector(1, &numbers(&[0x0304, 0x0303]))), (51, vector(2, &share))];
    all.extend(old());
    replaced(all, others)
}

/// Returns the extensions of an ordinary TLS 1.2 hello, with the same replacement.
pub fn old_with(others: &[Extension]) -> Vec<Extension> {
    replaced(old(), others)
}

fn old() -> Vec<Extension> {
    let name = [&[0][..], &vector(2, b"localhost")].concat();
    vec![
        (0, vector(2, &name)),
        (10, vector(2, &numbers(&[0x001d, 0x0017]))),
        (11, vec![1, 0]),
        (13, vector(2, &numbers(&[0x0403, 0x0804, 0x0401]))),
        (23, Vec::new()),
    ]
}

fn replaced(mut all: Vec<Extension>, others: &[Extension]) -> Vec<Extension> {
    all.retain(|(number, _)| others.iter().all(|(other, _)| other != number));
    all.extend(others.iter().cloned());
    all
}

/// Returns the content, preceded by its length in this number of bytes.
pub fn vector(length_bytes: usize, content: &[u8]) -> Vec<u8> {
    let mut vector = length(content.len(), length_bytes);
    vector.extend(content);
    vector
}

pub fn numbers(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// Returns `message` in handshake records of at most this size.
pub fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| record(22, part)).collect()
}

pub fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 3];
    record.extend(vector(2, content));
    record
}

fn extension((number, content): &Extension) -> Vec<u8> {
    [&number.to_be_bytes()[..], &vector(2, content)].concat()
}

fn length(value: usize, bytes: usize) -> Vec<u8> {
    value.to_be_bytes()[8 - bytes..].to_vec()
}
