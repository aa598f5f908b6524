//! The keys about the PROXY protocol, which are checked together.
//!
//! **Not here.** Their meaning (`config/proxy_protocol.rs`).

use super::problem::Problems;
use super::sections::ProxyProtocolSection;
use crate::config::{HeaderTlv, ProxyProtocol, SendHeader};

impl ProxyProtocolSection {
    /// Converts the section of the listener with the key `owner`.
    pub(super) fn into_proxy_protocol(
        self,
        owner: &str,
        problems: &mut Problems<'_>,
    ) -> ProxyProtocol {
        let send = self.send.map_or_else(SendHeader::default, |send| send.0);
        let span = self.tlvs.as_ref().map(toml::Spanned::span);
        let tlvs: Vec<_> = self
            .tlvs
            .map(|tlvs| tlvs.into_inner().into_iter().map(|tlv| tlv.0).collect())
            .unwrap_or_default();
        let key = format!("{owner}.proxy_protocol.tlvs");
        // An invalid value of `send` is a problem already.
        let is_known = !problems.is_invalid(&format!("{owner}.proxy_protocol.send"));
        if let Some(span) = span.filter(|_| is_known && !tlvs.is_empty()) {
            if send != SendHeader::V2 {
                let message = "found TLVs without send = \"v2\": other headers have none";
                problems.at(span, &key, message);
            } else if tlvs.contains(&HeaderTlv::ClientCert) && !tlvs.contains(&HeaderTlv::Ssl) {
                let message = "found \"client_cert\" without \"ssl\", the TLV that contains it";
                problems.at(span, &key, message);
            }
        }
        let accept_from = self.accept_from.into_iter().map(|network| network.0).collect();
        ProxyProtocol { send, tlvs, accept_from }
    }
}
