//! The sections of the file, as serde reads them: a struct for each section, with a type for each key.
//!
//! **Not here.** Checks of several values together (`file.rs`), the types of values (`config/values.rs`).

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::allow::AllowSection;
use super::text::{AuthChoice, BackendTexts, Expanded, PathText, RecordBytes, Text, Texts, Whole};
use crate::config::rollout::Percent;
use crate::config::suites::{LegacySuite, UsualSuite};
use crate::config::values::{
    AlpnProtocol, AnyDuration, BufferedBytes, ChainBytes, CheckInterval, HandshakeBytes,
    HelloBytes, ListenAddress, ListenerName, NonZeroDuration, RecheckSpread, SessionAge,
};
use crate::config::{
    AdminListen, BalancePolicy, Cidr, ConnectTime, CrlCheck, ExpiredCrl, GuardAction, Guards,
    HeaderTlv, IdentityLimit, KeyGroup, Limits, LogConfig, OverIdentityLimit, ProcessConfig,
    SendHeader, ShutdownConfig, SourceAddress, SourcePrefix, Tcp, Timeouts, TlsVersion,
    UnknownName, UnknownStatus,
};
use crate::logging::{Filter, Format};
use crate::terms::name_pattern::NamePattern;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(default)]
    pub(super) admin: AdminSection,
    #[serde(default)]
    pub(super) log: LogSection,
    #[serde(default)]
    pub(super) process: ProcessSection,
    #[serde(default)]
    pub(super) shutdown: ShutdownSection,
    #[serde(default)]
    pub(super) listener: Vec<Spanned<ListenerSection>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [admin]")]
pub(super) struct AdminSection {
    pub(super) listen: Option<Spanned<Expanded<AdminListen>>>,
    pub(super) socket: Option<Spanned<PathText>>,
    pub(super) metrics_listen: Option<Spanned<Expanded<ListenAddress>>>,
    pub(super) token_file: Option<Spanned<PathText>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [log]")]
pub(super) struct LogSection {
    pub(super) format: Option<Text<Format>>,
    pub(super) filter: Option<Text<Filter>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [process]")]
pub(super) struct ProcessSection {
    pub(super) dumpable: Option<bool>,
    pub(super) landlock: Option<bool>,
    pub(super) max_connections: Option<Whole<0, 1_000_000>>,
    pub(super) max_handshake_bytes: Option<Text<HandshakeBytes>>,
    pub(super) max_buffered_bytes: Option<Text<BufferedBytes>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [shutdown]")]
pub(super) struct ShutdownSection {
    pub(super) delay: Option<Text<AnyDuration>>,
    pub(super) drain_spread: Option<Spanned<Text<AnyDuration>>>,
    pub(super) drain_timeout: Option<Text<AnyDuration>>,
    pub(super) max_closes_per_second: Option<Whole<0, 1_000_000>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [[listener]]")]
pub(super) struct ListenerSection {
    pub(super) name: Option<Spanned<Text<ListenerName>>>,
    pub(super) listen: Option<Spanned<Expanded<ListenAddress>>>,
    pub(super) reuse_port: Option<bool>,
    pub(super) backend: Option<Spanned<BackendTexts>>,
    #[serde(default)]
    pub(super) balance: BalanceSection,
    pub(super) tls: Option<Spanned<TlsSection>>,
    pub(super) allow: Option<Spanned<AllowSection>>,
    #[serde(default)]
    pub(super) route: Vec<Spanned<RouteSection>>,
    pub(super) unknown_name: Option<Text<UnknownName>>,
    #[serde(default)]
    pub(super) timeouts: TimeoutsSection,
    #[serde(default)]
    pub(super) limits: LimitsSection,
    #[serde(default)]
    pub(super) tcp: TcpSection,
    #[serde(default)]
    pub(super) proxy_protocol: ProxyProtocolSection,
}

/// The TLS keys of a listener, or those with which a route overrides them.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [listener.tls]")]
pub(super) struct TlsSection {
    pub(super) certificates: Option<Vec<Spanned<CertificateSection>>>,
    #[serde(default)]
    pub(super) guards: GuardsSection,
    pub(super) rollout: Option<Spanned<RolloutSection>>,
    pub(super) min_version: Option<Spanned<Text<TlsVersion>>>,
    pub(super) suites: Texts<UsualSuite>,
    pub(super) legacy_suites: Texts<LegacySuite>,
    pub(super) groups: Texts<KeyGroup>,
    pub(super) client_auth: Option<Spanned<Text<AuthChoice>>>,
    pub(super) client_ca: Option<Spanned<PathText>>,
    pub(super) crls: Option<Vec<Spanned<PathText>>>,
    pub(super) crl_check: Option<Spanned<Text<CrlCheck>>>,
    pub(super) crl_unknown: Option<Spanned<Text<UnknownStatus>>>,
    pub(super) crl_expired: Option<Spanned<Text<ExpiredCrl>>>,
    pub(super) accept_expired_client_certs: Option<Spanned<bool>>,
    pub(super) send_ca_names: Option<Spanned<bool>>,
    pub(super) alpn: Option<Spanned<Vec<Text<AlpnProtocol>>>>,
    pub(super) max_record_bytes: Option<RecordBytes>,
    pub(super) small_first_records: Option<bool>,
    pub(super) tickets: Option<Whole<0, 4>>,
    pub(super) ticket_keys: Option<Spanned<PathText>>,
    pub(super) max_session_age: Option<Text<SessionAge>>,
    pub(super) max_chain_certificates: Option<Spanned<Whole<1, 100>>>,
    pub(super) max_chain_bytes: Option<Spanned<Text<ChainBytes>>>,
    pub(super) allow_v1: Option<Spanned<bool>>,
    pub(super) recheck: Option<Spanned<bool>>,
    pub(super) recheck_spread: Option<Spanned<Text<RecheckSpread>>>,
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a pair such as { cert = \"tls.crt\", key = \"tls.key\" }"
)]
pub(super) struct CertificateSection {
    pub(super) cert: Option<Spanned<PathText>>,
    pub(super) key: Option<Spanned<PathText>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { names = \"refuse\" }")]
pub(super) struct GuardsSection {
    pub(super) key_type: Option<Text<GuardAction>>,
    pub(super) issuer: Option<Text<GuardAction>>,
    pub(super) names: Option<Text<GuardAction>>,
    pub(super) not_yet_valid: Option<Text<GuardAction>>,
    pub(super) intermediate: Option<Text<GuardAction>>,
    pub(super) flight: Option<Text<GuardAction>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { share = \"5%\", observe = \"10m\" }")]
pub(super) struct RolloutSection {
    pub(super) share: Option<Text<Percent>>,
    pub(super) observe: Option<Text<NonZeroDuration>>,
    pub(super) min_addresses: Option<Whole<1, 100_000>>,
    pub(super) tolerance: Option<Text<Percent>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [[listener.route]]")]
pub(super) struct RouteSection {
    #[serde(default)]
    pub(super) sni: Vec<Text<NamePattern>>,
    #[serde(default)]
    pub(super) alpn: Vec<Text<AlpnProtocol>>,
    pub(super) backend: Option<Spanned<BackendTexts>>,
    pub(super) tls: Option<Spanned<TlsSection>>,
    pub(super) allow: Option<Spanned<AllowSection>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [listener.balance]")]
pub(super) struct BalanceSection {
    pub(super) policy: Option<Spanned<Text<BalancePolicy>>>,
    pub(super) check_interval: Option<Text<CheckInterval>>,
    pub(super) connect: Option<Text<ConnectTime>>,
    pub(super) max_connects_in_progress: Option<Whole<0, 1_000_000>>,
    pub(super) source: Option<Spanned<Text<SourceAddress>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [listener.timeouts]")]
pub(super) struct TimeoutsSection {
    pub(super) hello: Option<Text<NonZeroDuration>>,
    pub(super) handshake: Option<Text<NonZeroDuration>>,
    pub(super) connect: Option<Text<NonZeroDuration>>,
    pub(super) idle: Option<Text<AnyDuration>>,
    pub(super) half_close: Option<Text<AnyDuration>>,
    pub(super) max_age: Option<Text<AnyDuration>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [listener.limits]")]
pub(super) struct LimitsSection {
    pub(super) max_connections: Option<Whole<0, 1_000_000>>,
    pub(super) max_connections_per_source: Option<Whole<0, 1_000_000>>,
    #[serde(default)]
    pub(super) source_prefix: SourcePrefixSection,
    pub(super) max_connections_per_identity: Option<Spanned<Whole<0, 10_000>>>,
    pub(super) over_identity_limit: Option<Text<OverIdentityLimit>>,
    pub(super) max_handshakes_in_progress: Option<Whole<0, 10_000>>,
    pub(super) max_handshakes_per_second: Option<Whole<0, 1_000_000>>,
    pub(super) max_hello_bytes: Option<Text<HelloBytes>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { v4 = 24, v6 = 56 }")]
pub(super) struct SourcePrefixSection {
    pub(super) v4: Option<Whole<1, 32>>,
    pub(super) v6: Option<Whole<1, 128>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [listener.tcp]")]
pub(super) struct TcpSection {
    pub(super) keepalive: Option<Text<AnyDuration>>,
    pub(super) user_timeout: Option<Text<AnyDuration>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [listener.proxy_protocol]")]
pub(super) struct ProxyProtocolSection {
    pub(super) send: Option<Text<SendHeader>>,
    pub(super) tlvs: Option<Spanned<Vec<Text<HeaderTlv>>>>,
    #[serde(default)]
    pub(super) accept_from: Vec<Text<Cidr>>,
}

impl From<LogSection> for LogConfig {
    fn from(section: LogSection) -> Self {
        Self {
            format: section.format.map_or_else(Format::default, |f| f.0),
            filter: section.filter.map_or_else(Filter::default, |f| f.0),
        }
    }
}

impl From<ProcessSection> for ProcessConfig {
    fn from(section: ProcessSection) -> Self {
        let default = Self::default();
        Self {
            dumpable: section.dumpable.unwrap_or(default.dumpable),
            landlock: section.landlock.unwrap_or(default.landlock),
            max_connections: limit_of(section.max_connections),
            max_handshake_bytes: section
                .max_handshake_bytes
                .map_or(default.max_handshake_bytes, |bytes| bytes.0.0),
            max_buffered_bytes: section.max_buffered_bytes.map(|bytes| bytes.0.0),
        }
    }
}

impl From<ShutdownSection> for ShutdownConfig {
    fn from(section: ShutdownSection) -> Self {
        let default = Self::default();
        Self {
            delay: section.delay.map_or(default.delay, |d| d.0.0),
            drain_spread: section.drain_spread.map_or(default.drain_spread, |d| d.into_inner().0.0),
            drain_timeout: section.drain_timeout.map_or(default.drain_timeout, |d| d.0.0),
            max_closes_per_second: section
                .max_closes_per_second
                .and_then(|most| NonZeroU32::new(most.0)),
        }
    }
}

impl GuardsSection {
    /// Returns the guards with those of `base` that are not in the section.
    pub(super) fn over(self, base: Guards) -> Guards {
        Guards {
            key_type: self.key_type.map_or(base.key_type, |action| action.0),
            issuer: self.issuer.map_or(base.issuer, |action| action.0),
            names: self.names.map_or(base.names, |action| action.0),
            not_yet_valid: self.not_yet_valid.map_or(base.not_yet_valid, |action| action.0),
            intermediate: self.intermediate.map_or(base.intermediate, |action| action.0),
            flight: self.flight.map_or(base.flight, |action| action.0),
        }
    }
}

impl From<TimeoutsSection> for Timeouts {
    fn from(section: TimeoutsSection) -> Self {
        let default = Self::default();
        Self {
            hello: section.hello.map_or(default.hello, |d| d.0.0),
            handshake: section.handshake.map_or(default.handshake, |d| d.0.0),
            connect: section.connect.map_or(default.connect, |d| d.0.0),
            idle: unless_zero(section.idle, default.idle),
            half_close: unless_zero(section.half_close, default.half_close),
            max_age: unless_zero(section.max_age, default.max_age),
        }
    }
}

impl From<LimitsSection> for Limits {
    fn from(section: LimitsSection) -> Self {
        let over = section.over_identity_limit.map_or_else(Default::default, |over| over.0);
        let per_identity = section.max_connections_per_identity;
        let per_identity = limit_of(per_identity.map(Spanned::into_inner));
        let default = Self::default();
        Self {
            max_connections: limit_of(section.max_connections),
            max_connections_per_source: limit_of(section.max_connections_per_source),
            source_prefix: section.source_prefix.into(),
            per_identity: per_identity.map(|max| IdentityLimit { max, over }),
            max_handshakes_in_progress: limit_of(section.max_handshakes_in_progress),
            max_handshakes_per_second: section
                .max_handshakes_per_second
                .map(|max| max.0)
                .filter(|&max| max != 0),
            max_hello_bytes: section.max_hello_bytes.map_or(default.max_hello_bytes, |b| b.0.0),
        }
    }
}

impl From<SourcePrefixSection> for SourcePrefix {
    fn from(section: SourcePrefixSection) -> Self {
        let default = Self::default();
        Self {
            v4: section.v4.map_or(default.v4, |bits| length(bits.0)),
            v6: section.v6.map_or(default.v6, |bits| length(bits.0)),
        }
    }
}

fn length(bits: u32) -> u8 {
    u8::try_from(bits).expect("a prefix has at most 128 bits")
}

impl From<TcpSection> for Tcp {
    fn from(section: TcpSection) -> Self {
        let default = Self::default();
        Self {
            keepalive: unless_zero(section.keepalive, default.keepalive),
            user_timeout: unless_zero(section.user_timeout, default.user_timeout),
        }
    }
}

/// `"0s"` disables a limit; an absent key has the default.
fn unless_zero(found: Option<Text<AnyDuration>>, default: Option<Duration>) -> Option<Duration> {
    found.map_or(default, |d| Some(d.0.0).filter(|d| !d.is_zero()))
}

/// 0 disables a limit, and so does an absent key.
fn limit_of<const MAX: u32>(found: Option<Whole<0, MAX>>) -> Option<usize> {
    found.and_then(|max| usize::try_from(max.0).ok()).filter(|&max| max != 0)
}
