//! The class of a ClientHello: the parameters in its offer that some policy can accept.
//!
//! **Promises.** A class has 8 bytes, whatever a client offers. Two offers of one class are accepted by the same policies:
//! the order of an offer selects a parameter, and never refuses one.
//!
//! **Not here.** The parser (`proxy/hello/class.rs`), the classes of a day (`sessions/offers.rs`).

use super::iana;
use super::labels::Cipher;

/// A code with its name.
type Named = (u16, &'static str);

/// The versions.
const VERSIONS: [Named; 2] = [version(0x0304), version(0x0303)];

/// The suites of all policies.
const SUITES: [Named; 15] = [
    (0x1301, Cipher::Tls13Aes128.as_str()),
    (0x1302, Cipher::Tls13Aes256.as_str()),
    (0x1303, Cipher::Tls13Chacha20.as_str()),
    (0x1304, Cipher::Tls13Aes128Ccm.as_str()),
    (0x1305, Cipher::Tls13Aes128Ccm8.as_str()),
    (0xc02b, Cipher::EcdsaAes128.as_str()),
    (0xc02c, Cipher::EcdsaAes256.as_str()),
    (0xc02f, Cipher::RsaAes128.as_str()),
    (0xc030, Cipher::RsaAes256.as_str()),
    (0xcca8, Cipher::RsaChacha20.as_str()),
    (0xcca9, Cipher::EcdsaChacha20.as_str()),
    (0xc0ac, Cipher::EcdsaAes128Ccm.as_str()),
    (0xc0ad, Cipher::EcdsaAes256Ccm.as_str()),
    (0xc0ae, Cipher::EcdsaAes128Ccm8.as_str()),
    (0xc0af, Cipher::EcdsaAes256Ccm8.as_str()),
];

/// The groups of all policies.
const GROUPS: [Named; 5] =
    [group(0x11ec), group(0x001d), group(0x0017), group(0x0018), group(0x0019)];

/// The signature schemes of all keys.
const SCHEMES: [Named; 11] = [
    scheme(0x0403),
    scheme(0x0503),
    scheme(0x0603),
    scheme(0x0807),
    scheme(0x0804),
    scheme(0x0805),
    scheme(0x0806),
    scheme(0x0201),
    scheme(0x0401),
    scheme(0x0501),
    scheme(0x0601),
];

const fn version(code: u16) -> Named {
    (code, iana::version(code).expect("it is registered"))
}

const fn group(code: u16) -> Named {
    (code, iana::group(code).expect("it is registered"))
}

const fn scheme(code: u16) -> Named {
    (code, iana::scheme(code).expect("it is registered"))
}

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
    const fn layout(self) -> (&'static [Named], usize) {
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
    pub(crate) fn offered(self, list: OfferList) -> impl Iterator<Item = Named> {
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
