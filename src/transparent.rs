//! Sockets that connect from the address of a device, which belongs to another machine (`IP_TRANSPARENT` in ip(7)).
//!
//! **Promises.** The kernel picks the port, which differs from the device's.
//!
//! **Not here.** The key that asks for it (`config/source.rs`). The routing by which the answers come back:
//! docs/transparent-source.md.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// The process may not use addresses of other machines.
#[derive(Debug, thiserror::Error)]
#[error(
    "balance.source = \"client\" needs the capability CAP_NET_ADMIN: cannot set IP_TRANSPARENT: {0}"
)]
pub struct NotAllowed(io::Error);

/// Tries whether the process may use addresses of other machines.
///
/// # Errors
/// A capability is missing.
pub(crate) fn check() -> Result<(), NotAllowed> {
    transparent(Domain::IPV4).map(drop).map_err(NotAllowed)
}

/// Returns a socket for a connection from `source` to an address of the same family.
///
/// # Errors
/// A capability is missing, or no device can have the address.
pub(crate) fn socket(source: IpAddr) -> io::Result<Socket> {
    let source = SocketAddr::new(source, 0);
    let socket = transparent(Domain::for_address(source))?;
    socket.set_nonblocking(true)?;
    socket.bind(&source.into())?;
    Ok(socket)
}

fn transparent(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    set(&socket, domain)?;
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn set(socket: &Socket, domain: Domain) -> io::Result<()> {
    if domain == Domain::IPV6 {
        socket.set_ip_transparent_v6(true)
    } else {
        socket.set_ip_transparent_v4(true)
    }
}

#[cfg(not(target_os = "linux"))]
fn set(_socket: &Socket, _domain: Domain) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
