//! The key exchange on NIST P-521, which rustls's provider does not offer.
//!
//! **Promises.** The arithmetic and the check of the client's point are AWS-LC's. A point in another form than the
//! uncompressed one is refused: RFC 8446 section 4.2.8.2, RFC 8422 section 5.1.2.
//!
//! **Not here.** The choice of the group (`accepted.rs`): only configurations that name it have it.

use std::fmt;

use aws_lc_rs::agreement::{
    ECDH_P521, EphemeralPrivateKey, PublicKey, UnparsedPublicKey, agree_ephemeral,
};
use aws_lc_rs::rand::SystemRandom;
use tokio_rustls::rustls::crypto::{
    ActiveKeyExchange, GetRandomFailed, SharedSecret, SupportedKxGroup,
};
use tokio_rustls::rustls::{Error, NamedGroup, PeerMisbehaved};

/// The first byte of an uncompressed point, and its length: SEC 1 section 2.3.3.
const UNCOMPRESSED: u8 = 4;
const POINT_BYTES: usize = 1 + 2 * 66;

/// The group.
#[derive(Debug)]
pub(super) struct Secp521r1;

impl SupportedKxGroup for Secp521r1 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let private = EphemeralPrivateKey::generate(&ECDH_P521, &SystemRandom::new());
        let private = private.map_err(|_| GetRandomFailed)?;
        let public = private.compute_public_key().map_err(|_| GetRandomFailed)?;
        Ok(Box::new(Exchange { private, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

struct Exchange {
    private: EphemeralPrivateKey,
    public: PublicKey,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, point: &[u8]) -> Result<SharedSecret, Error> {
        let invalid = || Error::from(PeerMisbehaved::InvalidKeyShare);
        if point.len() != POINT_BYTES || point[0] != UNCOMPRESSED {
            return Err(invalid());
        }
        let point = UnparsedPublicKey::new(&ECDH_P521, point);
        agree_ephemeral(self.private, point, invalid(), |secret| Ok(SharedSecret::from(secret)))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_ref()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}
