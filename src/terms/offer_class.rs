//! The class of a ClientHello: the parameters in its offer that some policy can accept.
//!
//! **Promises.** A class has 8 bytes, whatever a client offers. Two offers of one class are accepted by the same policies:
//! the order of an offer selects a parameter, and never refuses one.
//!
//! **Not here.** The parser (`proxy/hello/class.rs`), the classes of a day (`sessions/offers.rs`).

/// The versions, by their codes in RFC 8446 section 4.2.1.
const VERSIONS: [(u16, &str); 2] = [(0x0304, "1.3"), (0x0303, "1.2")];

/// The suites of all policies, by IANA's codes and names.
const SUITES: [(u16, &str); 15] = [
    (0x1301, "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256"),
    (0x1304, "TLS_AES_128_CCM_SHA256"),
    (0x1305, "TLS_AES_128_CCM_8_SHA256"),
    (0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    (0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    (0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xc0ac, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM"),
    (0xc0ad, "TLS_ECDHE_ECDSA_WITH_AES_256_CCM"),
    (0xc0ae, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8"),
    (0xc0af, "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8"),
];

/// The groups of all policies.
const GROUPS: [(u16, &str); 5] = [
    (0x11ec, "X25519MLKEM768"),
    (0x001d, "x25519"),
    (0x0017, "secp256r1"),
    (0x0018, "secp384r1"),
    (0x0019, "secp521r1"),
];

/// The signature schemes of all keys.
const SCHEMES: [(u16, &str); 11] = [
    (0x0403, "ecdsa_secp256r1_sha256"),
    (0x0503, "ecdsa_secp384r1_sha384"),
    (0x0603, "ecdsa_secp521r1_sha512"),
    (0x0807, "ed25519"),
    (0x0804, "rsa_pss_rsae_sha256"),
    (0x0805, "rsa_pss_rsae_sha384"),
    (0x0806, "rsa_pss_rsae_sha512"),
    (0x0201, "rsa_pkcs1_sha1"),
    (0x0401, "rsa_pkcs1_sha256"),
    (0x0501, "rsa_pkcs1_sha384"),
    (0x0601, "rsa_pkcs1_sha512"),
];

/// The lists of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfferList {
    Versions,
    Suites,
    Groups,
    Schemes,
}

/// The class of a ClientHello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct OfferClass(u64);

impl OfferList {
    /// Returns the parameters that a class can have, and the place of the first of them in its bits. The bit before that
    /// is for the list itself: a client that sends no list of groups or schemes differs from one that sends others.
    const fn layout(self) -> (&'static [(u16, &'static str)], usize) {
        match self {
            Self::Versions => (&VERSIONS, 1),
            Self::Suites => (&SUITES, 4),
            Self::Groups => (&GROUPS, 20),
            Self::Schemes => (&SCHEMES, 26),
        }
    }
}

impl OfferClass {
    /// The first bit behind those in use.
    const END: usize = 37;

    /// Adds the parameters of a list that is offered.
    pub(crate) fn add(&mut self, list: OfferList, codes: impl IntoIterator<Item = u16>) {
        let (known, first) = list.layout();
        self.0 |= 1 << (first - 1);
        for code in codes {
            if let Some(place) = known.iter().position(|(one, _)| *one == code) {
                self.0 |= 1 << (first + place);
            }
        }
    }

    /// Returns whether the client has sent a list.
    pub(crate) const fn has(self, list: OfferList) -> bool {
        self.0 >> (list.layout().1 - 1) & 1 == 1
    }

    /// Returns the codes and the names of the offered parameters of a list.
    pub(crate) fn offered(self, list: OfferList) -> impl Iterator<Item = (u16, &'static str)> {
        let (known, first) = list.layout();
        let is_offered = move |place: &usize| self.0 >> (first + place) & 1 == 1;
        (0..known.len()).filter(is_offered).map(move |place| known[place])
    }

    /// Returns the class as a number.
    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    /// Returns the class with this number, if there is one.
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        (number >> Self::END == 0).then_some(Self(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTS: [OfferList; 4] =
        [OfferList::Versions, OfferList::Suites, OfferList::Groups, OfferList::Schemes];

    #[test]
    fn a_class_has_each_parameter_in_a_bit_of_its_own() {
        let mut bits = 0;
        for list in LISTS {
            let mut empty = OfferClass::default();
            empty.add(list, [0x0a0a, 0xffff]);
            assert!(empty.has(list) && empty.offered(list).next().is_none());
            bits += 1;
            for known in list.layout().0 {
                let mut class = OfferClass::default();
                class.add(list, [known.0]);
                assert_eq!(class.offered(list).collect::<Vec<_>>(), [*known]);
                let others = LISTS.into_iter().filter(|other| *other != list);
                assert!(others.into_iter().all(|other| !class.has(other)));
                assert_eq!(OfferClass::from_number(class.number()), Some(class));
                bits += 1;
            }
        }
        assert_eq!(bits, OfferClass::END);
        assert_eq!(OfferClass::from_number(1 << OfferClass::END), None);
    }
}
