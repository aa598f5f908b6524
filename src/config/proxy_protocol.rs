//! The PROXY protocol of a listener: the headers that it sends to the backend, and the peers that must send one.
//!
//! **Not here.** The headers (`proxy/proxy_protocol.rs`), the file format (`file/proxy_protocol.rs`).

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::value::{InvalidValue, TextValue, choices};

/// The use of the PROXY protocol by a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// The header that each connection to a backend begins with.
    pub send: SendHeader,
    /// The optional parts of a header of version 2.
    pub tlvs: Vec<HeaderTlv>,
    /// The peers that must send a header: load balancers.
    pub accept_from: Vec<Cidr>,
}

impl ProxyProtocol {
    /// Returns true if connections from this address begin with a header.
    pub(crate) fn expects_header(&self, peer: IpAddr) -> bool {
        self.accept_from.iter().any(|network| network.contains(peer))
    }

    /// Returns true if the headers for the backend contain this part.
    pub(crate) fn sends(&self, tlv: HeaderTlv) -> bool {
        self.send == SendHeader::V2 && self.tlvs.contains(&tlv)
    }
}

/// The header that each connection to a backend begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendHeader {
    /// No header.
    #[default]
    None,
    /// A line of text with the addresses.
    V1,
    /// A binary header, which can have more parts.
    V2,
}

choices!(SendHeader { "none" => None, "v1" => V1, or "v2" => V2 });

/// An optional part of a header of version 2, by its type in the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderTlv {
    /// The TLS version, the cipher, the group, and the state and the CN of the client's certificate.
    Ssl,
    /// The negotiated protocol.
    Alpn,
    /// The server name that the client sent.
    Authority,
    /// An identifier of the connection.
    UniqueId,
    /// A checksum of the header.
    Crc32c,
    /// The client's certificate, in the part of [`Self::Ssl`].
    ClientCert,
}

choices!(HeaderTlv {
    "ssl" => Ssl,
    "alpn" => Alpn,
    "authority" => Authority,
    "unique_id" => UniqueId,
    "crc32c" => Crc32c,
    or "client_cert" => ClientCert
});

/// A network or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(IpNet);

impl Cidr {
    fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl TextValue for Cidr {
    const EXPECTED: &'static str = "a network such as \"10.0.0.0/8\" or \"2001:db8::/32\" without bits after \
                                    the prefix, or an address";
}

impl FromStr for Cidr {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        // "10.1.2.3/8" is more likely a mistake than a network of 16 million addresses.
        let network =
            text.parse::<IpNet>().ok().filter(|network| network.addr() == network.network());
        network.or_else(address).map(Self).ok_or(InvalidValue::of::<Self>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        network.parse::<Cidr>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_has_the_addresses_with_its_prefix() {
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("192.0.2.7", "192.0.2.7") && !contains("192.0.2.7", "192.0.2.8"));
        assert!(contains("0.0.0.0/0", "192.0.2.7") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("2001:db8::/32", "2001:db8:1::7"));
        assert!(!contains("2001:db8::/32", "2001:db9::"));
    }

    #[test]
    fn an_address_with_bits_after_the_prefix_is_no_network() {
        for bad in ["10.1.2.3/8", "10.0.0.0/33", "10.0.0/8", "2001:db8::1/32", "host", "", "/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad:?}");
        }
    }
}
