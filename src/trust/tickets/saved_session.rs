//! The content of a ticket, and of a remembered session: rustls's state, and the authentication that it goes
//! back to.
//!
//! rustls writes into its state all certificates that the client sent. Of these only the client's own is kept;
//! the ID of its issuers stands for the others, and they are put back when the session is resumed. So a
//! resumption is verified with the same certificates as a full handshake.
//!
//! **Promises.** Content that another version or program wrote is declined, never an error.
//!
//! **Not here.** The layout of rustls's state (`state.rs`), encryption (`keys.rs`).

use zeroize::Zeroizing;

use super::state::State;
use crate::terms::labels::ResumptionOutcome;
use crate::trust::authentication::Authentication;
use crate::trust::issuers::{ID_BYTES, Issuers, IssuersId, KnownIssuers};

/// Bytes of a saved session at most. Larger ones are not saved, and the device makes a full handshake next
/// time.
pub(super) const MAX_BYTES: usize = 16 << 10;

/// Encodes a session to be saved. `authentication` is none for a client that was not authenticated in this
/// handshake. Returns none if it cannot be saved.
pub(super) fn encode(
    state: &[u8],
    authentication: Option<Authentication>,
    now: u64,
) -> Option<(Zeroizing<Vec<u8>>, Authentication)> {
    let parsed = State::parse(state)?;
    let own = parsed.certificates.first();
    let authentication = match (own, authentication) {
        (_, Some(known)) => known,
        (None, None) => Authentication::anonymous(now),
        (Some(_), None) => return None,
    };
    // A buffer that grows leaves a copy of the master secret behind.
    let mut saved = Zeroizing::new(Vec::with_capacity(8 + 8 + 1 + ID_BYTES + state.len()));
    saved.extend(authentication.at.to_be_bytes());
    saved.extend(authentication.until.to_be_bytes());
    match &authentication.issuers {
        None => saved.push(0),
        Some(issuers) => {
            saved.push(1);
            saved.extend(issuers.id);
        }
    }
    parsed.write_with(own.into_iter(), &mut saved)?;
    (saved.len() <= MAX_BYTES).then_some((saved, authentication))
}

/// A decoded session.
pub(super) struct Decoded {
    /// rustls's state, with the client's certificates.
    pub(super) state: Vec<u8>,
    /// The time at which it was saved, in Unix time.
    pub(super) saved: u64,
    pub(super) authentication: Authentication,
}

/// Decodes a saved session.
///
/// # Errors
/// `UnknownIssuers` if the issuers are not known, `Damaged` if the content has another layout.
pub(super) fn decode(saved: &[u8], known: &KnownIssuers) -> Result<Decoded, ResumptionOutcome> {
    let SavedSession { at, until, issuers, state } =
        SavedSession::parse(saved).ok_or(ResumptionOutcome::Damaged)?;
    let parsed = State::parse(state).ok_or(ResumptionOutcome::Damaged)?;
    let issuers = match issuers {
        Some(id) => Some(known.get(id).ok_or(ResumptionOutcome::UnknownIssuers)?),
        None => None,
    };
    let whole = match &issuers {
        Some(issuers) => with_issuers(&parsed, issuers).ok_or(ResumptionOutcome::Damaged)?,
        None => state.to_vec(),
    };
    let authentication = Authentication { at, until, issuers };
    Ok(Decoded { state: whole, saved: parsed.created, authentication })
}

/// The parts of a saved session.
struct SavedSession<'a> {
    at: u64,
    until: u64,
    issuers: Option<&'a IssuersId>,
    state: &'a [u8],
}

impl<'a> SavedSession<'a> {
    fn parse(saved: &'a [u8]) -> Option<Self> {
        let (at, rest) = saved.split_first_chunk()?;
        let (until, rest) = rest.split_first_chunk()?;
        let (at, until) = (u64::from_be_bytes(*at), u64::from_be_bytes(*until));
        let (issuers, state) = match rest.split_first()? {
            (0, state) => (None, state),
            (1, rest) => {
                let (id, state) = rest.split_first_chunk::<ID_BYTES>()?;
                (Some(id), state)
            }
            _ => return None,
        };
        Some(Self { at, until, issuers, state })
    }
}

/// Returns a state in which the client's own certificate is followed by its issuers.
fn with_issuers(parsed: &State<'_>, issuers: &Issuers) -> Option<Vec<u8>> {
    let mut whole = Vec::with_capacity(MAX_BYTES / 4);
    let certificates = parsed.certificates.iter().take(1).chain(&issuers.ders);
    parsed.write_with(certificates, &mut whole)?;
    Some(whole)
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::pki_types::CertificateDer;

    use super::*;
    use crate::trust::tickets::state::tests::{CREATED, state};

    #[test]
    fn the_issuers_are_left_out_and_put_back() {
        let (own, issuer, stray) = ([1; 300], [2; 700], [3; 500]);
        let known = KnownIssuers::default();
        let issuers = known.store(&[&CertificateDer::from(&issuer[..])]);
        let authentication = Authentication { at: 5, until: 9, issuers };
        let sent = state(None, &[&own, &stray, &issuer], Some(b"mqtt"));
        let (saved, _) = encode(&sent, Some(authentication), 7).unwrap();
        assert!(saved.len() < own.len() + 120, "{} bytes", saved.len());
        let restored = decode(&saved, &known).unwrap();
        assert_eq!(restored.state, state(None, &[&own, &issuer], Some(b"mqtt")));
        assert_eq!((restored.authentication.at, restored.authentication.until), (5, 9));
        assert_eq!(restored.saved, CREATED);
        let elsewhere = decode(&saved, &KnownIssuers::default());
        assert_eq!(elsewhere.err(), Some(ResumptionOutcome::UnknownIssuers));
    }

    #[test]
    fn a_client_without_a_certificate_counts_from_now_on() {
        let known = KnownIssuers::default();
        let (saved, _) = encode(&state(None, &[], None), None, 7).unwrap();
        let restored = decode(&saved, &known).unwrap();
        assert_eq!(restored.state, state(None, &[], None));
        let found = restored.authentication;
        assert_eq!((found.at, found.until), (7, u64::MAX));
    }

    #[test]
    fn a_certificate_without_its_verification_is_not_saved() {
        assert!(encode(&state(None, &[&[1; 300]], None), None, 7).is_none());
    }

    #[test]
    fn content_that_is_cut_or_extended_is_declined() {
        let known = KnownIssuers::default();
        let issuers = known.store(&[&CertificateDer::from(&[2; 70][..])]);
        let authentication = Authentication { at: 5, until: 9, issuers };
        let sent = state(None, &[&[1; 30]], None);
        let (saved, _) = encode(&sent, Some(authentication), 7).unwrap();
        for cut in 0..saved.len() {
            let declined = decode(&saved[..cut], &known).err().unwrap();
            assert_eq!(declined, ResumptionOutcome::Damaged, "{cut} bytes");
        }
        assert!(decode(&[&saved[..], &[0]].concat(), &known).is_err());
    }
}
