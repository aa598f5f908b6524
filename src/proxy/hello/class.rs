//! The class of a ClientHello.
//!
//! **Promises.** Each code of a list counts, as in the handshake, however long the list is.
//!
//! **Not here.** The classes (`terms/offer_class.rs`), a ClientHello of a class (`proxy/rehearsal.rs`).

use super::client_hello::version::TLS_1_2;
use super::client_hello::{ClientHello, codes, whole8, whole16};
use crate::terms::offer_class::{OfferClass, OfferList};

/// Returns the class of a message.
pub(super) fn of(hello: &ClientHello<'_>) -> OfferClass {
    let mut class = OfferClass::default();
    let extensions = &hello.extensions;
    match codes(extensions.supported_versions.and_then(whole8)) {
        Some(versions) => class.add(OfferList::Versions, values(versions)),
        None => class.add(OfferList::Versions, [hello.legacy_version.min(TLS_1_2)]),
    }
    class.add(OfferList::Suites, values(hello.suites));
    for (list, extension) in [
        (OfferList::Groups, extensions.supported_groups),
        (OfferList::Schemes, extensions.signature_algorithms),
    ] {
        if let Some(offered) = codes(extension.and_then(whole16)) {
            class.add(list, values(offered));
        }
    }
    class
}

fn values(codes: &[[u8; 2]]) -> impl Iterator<Item = u16> {
    codes.iter().map(|code| u16::from_be_bytes(*code))
}
