//! A proxy in front of an echo, and the devices of one CA.

use std::net::SocketAddr;

use tlsidecar::config::{ClientAuth, ClientTrust, Config};

use super::proxy::{config, listener};
use super::{Authority, Backend, Device, Proxy};

/// A proxy that trusts client certificates of `devices`.
pub(crate) struct Fleet {
    pub(crate) servers: Authority,
    pub(crate) devices: Authority,
    pub(crate) proxy: Proxy,
    pub(crate) backend: Backend,
}

impl Fleet {
    /// Starts it; `set` changes its configuration, and gets the directory of the server's certificate by its CA.
    pub(crate) async fn new(
        client_auth: fn(ClientTrust) -> ClientAuth,
        set: impl FnOnce(&mut Config, &Authority),
    ) -> Self {
        let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
        let backend = Backend::echo().await;
        let mut listener = listener(backend.config(), &servers.server());
        listener.tls.client_auth = client_auth(ClientTrust::new(devices.ca()));
        let mut config = config(listener);
        set(&mut config, &servers);
        Self { servers, devices, proxy: Proxy::on(config, None), backend }
    }

    /// Returns a device whose certificate has this name.
    pub(crate) fn device(&self, name: &str) -> Device {
        Device::showing(&self.servers, &self.devices.device(name))
    }

    /// Returns the address of the admin port.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.proxy.app.admin.unwrap()
    }
}
