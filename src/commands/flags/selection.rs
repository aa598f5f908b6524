//! The flags that select devices, of `tlsidecar sessions`, `events` and `trace`.
//!
//! **Not here.** The meaning of the values, which the admin port checks (`control/admin/query.rs`).

use clap::Args;

/// A selection of devices. All parts that are given must match.
#[derive(Clone, Debug, Args)]
pub struct SelectionArgs {
    /// Only devices whose certificate has this name, verified or refused. * matches any part of a label: *.plant.example.
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
    /// Only devices at this address, with or without a port.
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<String>,
    /// Only devices that send this server name.
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// Only devices of this listener.
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,
}

impl SelectionArgs {
    /// Returns the keys of a request to the admin port.
    pub(crate) fn keys(&self) -> Vec<(&'static str, String)> {
        let Self { identity, peer, sni, listener } = self;
        let keys = [("identity", identity), ("peer", peer), ("sni", sni), ("listener", listener)];
        keys.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
    }
}
