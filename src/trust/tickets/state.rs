//! The state of a session that rustls writes to resume it (`ServerSessionValue`).
//!
//! rustls writes all certificates that a client sent into it, up to 64 KiB, which would then be sent to the
//! device and back, or stay in memory.
//!
//! **Promises.** A changed state has the selected certificates, and every other byte as rustls wrote it.
//! A state whose layout is not that of rustls 0.23 is not parsed.
//!
//! **Not here.** The choice of the certificates (`saved_session.rs`).

use tokio_rustls::rustls::pki_types::CertificateDer;

/// A parsed state.
pub(super) struct State<'a> {
    before: &'a [u8],
    /// The client's certificates in the order in which it sent them.
    pub(super) certificates: Vec<CertificateDer<'a>>,
    /// The time at which rustls wrote it, in Unix time.
    pub(super) created: u64,
    after: &'a [u8],
}

impl<'a> State<'a> {
    /// Parses a state. Returns none if it has another layout.
    pub(super) fn parse(state: &'a [u8]) -> Option<Self> {
        let mut rest = Reader(state);
        rest.optional(Reader::short)?; // server name
        rest.take(4)?; // version, cipher suite
        rest.short()?; // master secret
        rest.take(1)?; // extended master secret
        let before = &state[..state.len() - rest.0.len()];
        let certificates = certificates(rest.optional(Reader::long)?)?;
        let after = rest.0;
        rest.optional(Reader::short)?; // ALPN
        let data = rest.take(2)?;
        rest.take(usize::from(u16::from_be_bytes([data[0], data[1]])))?;
        let created = u64::from_be_bytes(*rest.take(8)?.first_chunk()?);
        rest.take(4)?; // ticket_age_add
        rest.0.is_empty().then_some(Self { before, certificates, created, after })
    }

    /// Appends the state with these certificates instead of the client's. Returns none if they are too long.
    pub(super) fn write_with<'c>(
        &self,
        certificates: impl Iterator<Item = &'c CertificateDer<'c>> + Clone,
        to: &mut Vec<u8>,
    ) -> Option<()> {
        to.extend_from_slice(self.before);
        if certificates.clone().next().is_none() {
            to.push(0);
        } else {
            to.push(1);
            push_length(to, certificates.clone().map(|one| 3 + one.len()).sum())?;
            for one in certificates {
                push_length(to, one.len())?;
                to.extend_from_slice(one);
            }
        }
        to.extend_from_slice(self.after);
        Some(())
    }
}

/// Parses a list of certificates, each with a length of three bytes.
fn certificates(list: &[u8]) -> Option<Vec<CertificateDer<'_>>> {
    let (mut rest, mut found) = (Reader(list), Vec::new());
    while !rest.0.is_empty() {
        found.push(rest.long()?.into());
    }
    Some(found)
}

/// Appends a length of 24 bits.
fn push_length(to: &mut Vec<u8>, length: usize) -> Option<()> {
    let bytes = u32::try_from(length).ok()?.to_be_bytes();
    (bytes[0] == 0).then(|| to.extend_from_slice(&bytes[1..]))
}

/// The bytes that are not parsed yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// Takes a value with a length of one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// Takes a value with a length of three bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.take(3)?;
        self.take(u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize)
    }

    /// Takes a value after a byte that states its presence. Returns an empty one if it is absent.
    fn optional(&mut self, read: fn(&mut Self) -> Option<&'a [u8]>) -> Option<&'a [u8]> {
        match self.take(1)? {
            [0] => Some(&[]),
            [1] => read(self),
            _ => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The time at which a state was written, in Unix time.
    pub(in crate::trust::tickets) const CREATED: u64 = 1_800_000_000;

    /// Encodes a state as rustls does.
    pub(in crate::trust::tickets) fn state(
        name: Option<&[u8]>,
        certificates: &[&[u8]],
        alpn: Option<&[u8]>,
    ) -> Vec<u8> {
        let short = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
        let optional = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => [&[1], &short(bytes)[..]].concat(),
            None => vec![0],
        };
        let mut all = optional(name);
        all.extend([3, 4, 0x13, 1]);
        all.extend(short(&[7; 32]));
        all.push(1);
        if certificates.is_empty() {
            all.push(0);
        } else {
            all.push(1);
            push_length(&mut all, certificates.iter().map(|c| 3 + c.len()).sum()).unwrap();
            for certificate in certificates {
                push_length(&mut all, certificate.len()).unwrap();
                all.extend_from_slice(certificate);
            }
        }
        all.extend(optional(alpn));
        all.extend([0, 2, 8, 8]);
        all.extend(CREATED.to_be_bytes());
        all.extend([9; 4]);
        all
    }

    #[test]
    fn only_the_selected_certificates_are_kept() {
        let (leaf, issuer, junk) = ([1; 300], [2; 400], vec![3; 30_000]);
        for (name, alpn) in [(None, None), (Some(&b"a.example"[..]), Some(&b"mqtt"[..]))] {
            let whole = state(name, &[&leaf, &junk, &issuer, &junk], alpn);
            let parsed = State::parse(&whole).unwrap();
            let kept = [&parsed.certificates[0], &parsed.certificates[2]];
            let with = |kept: &[&CertificateDer<'_>]| {
                let mut written = Vec::new();
                parsed.write_with(kept.iter().copied(), &mut written).unwrap();
                written
            };
            assert_eq!(with(&kept), state(name, &[&leaf, &issuer], alpn));
            assert_eq!(with(&[]), state(name, &[], alpn));
        }
    }

    #[test]
    fn another_layout_is_detected() {
        let whole = state(Some(b"a"), &[&[1; 10]], None);
        for cut in 0..whole.len() {
            assert!(State::parse(&whole[..cut]).is_none(), "{cut} bytes");
        }
        assert!(State::parse(&[&whole[..], &[0]].concat()).is_none());
    }
}
