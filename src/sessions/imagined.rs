//! Sessions of devices that do not exist, for the measurement of growth (`benches/growth`): a machine's limit of file
//! descriptors permits ten thousand real ones.
//!
//! Built only with the feature `bench`.
//!
//! **Not here.** The measurement, which starts a whole proxy and connects a real device first.

use std::sync::Arc;

use super::{CompletedHandshake, Session, Sessions};
use crate::terms::labels::Direction;
use crate::trust::identity::Identity;

/// The id of the first one. A process does not count so far.
const FIRST_ID: u64 = 1 << 40;

impl Sessions {
    /// Adds `count` sessions like the established one that is listed, whose devices have the names `pump-0` and so on.
    ///
    /// # Panics
    /// If no established session is listed.
    pub(crate) fn imagine(&self, count: u64) {
        let model = self.matching(Session::is_established).pop();
        let model = model.expect("a session is established");
        for n in 0..count {
            self.add(Arc::new(model.like(n)));
        }
    }
}

impl Session {
    /// Returns a session of device `n` that has negotiated and relayed the same.
    fn like(&self, n: u64) -> Self {
        let [_, _, low, lowest] = u32::try_from(n % (1 << 16)).unwrap_or(0).to_be_bytes();
        let peer = ([10, 0, low, lowest], 1024).into();
        let like = Self::new(Arc::clone(&self.metrics), FIRST_ID + n, peer);
        let identity = self.identity.get().map(|identity| {
            let mut identity = Identity::clone(identity);
            identity.names = [format!("pump-{n}").into()].into();
            Box::new(identity)
        });
        let handshake = self.handshake.get().map(|handshake| CompletedHandshake {
            negotiated: handshake.negotiated.clone(),
            took: handshake.took,
        });
        identity.map(|identity| like.identity.set(identity));
        handshake.map(|handshake| like.handshake.set(handshake));
        self.connect.get().map(|took| like.connect.set(*took));
        like.on_relay();
        like.relayed(Direction::ToBackend, n % 1000);
        like
    }
}
