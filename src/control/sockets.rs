//! Socket activation: listening sockets that systemd passes to the process, see sd_listen_fds(3).
//!
//! **Promises.** Each socket is taken once, is closed on exec, and belongs to exactly one listener or to the
//! admin port. A socket that fits none is an error: devices would wait in its backlog forever.
//!
//! **Not here.** Sockets that the process opens itself, and the options of both (`proxy/socket.rs`).

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

/// The listening sockets that were passed to the process.
#[derive(Debug, Default)]
pub struct ActivatedSockets {
    sockets: Vec<ActivatedSocket>,
}

#[derive(Debug)]
struct ActivatedSocket {
    /// `FileDescriptorName=` of the socket unit; by default the name of the unit.
    name: String,
    address: SocketAddr,
    listener: TcpListener,
}

/// The name and the address of a listener that can take a socket.
pub(crate) type Wanted<'a> = (&'a str, SocketAddr);

/// A fault of the passed sockets.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// The environment variables contradict each other, or name file descriptors that do not exist.
    #[error("LISTEN_FDS, LISTEN_FDNAMES: {0}")]
    Environment(io::Error),
    /// The file descriptor is not a listening TCP socket.
    #[error("the file descriptor {name:?} from systemd is not a listening TCP socket: {cause}")]
    NotTcp {
        /// Its name.
        name: String,
        /// The error of the system.
        cause: io::Error,
    },
    /// No listener has this name or address.
    #[error(
        "the socket {name:?} from systemd listens on {address}: no listener has this name or this \
         address"
    )]
    Unused {
        /// Its name.
        name: String,
        /// Its address.
        address: SocketAddr,
    },
}

impl ActivatedSockets {
    /// Takes the passed sockets and removes their variables from the environment. Call it once, while the process
    /// has one thread.
    ///
    /// # Errors
    /// If a passed file descriptor is not a TCP socket.
    pub fn take() -> Result<Self, ActivationError> {
        // An empty variable counts as unset; sd_notify would report a missing number.
        let is_empty = |name| env::var_os(name).is_some_and(|value| value.is_empty());
        if is_empty("LISTEN_PID") || is_empty("LISTEN_FDS") {
            return Ok(Self::default());
        }
        // Also empty if LISTEN_PID names another process: the names belong to that one.
        if sd_notify::listen_fds().map_err(ActivationError::Environment)?.len() == 0 {
            return Ok(Self::default());
        }
        let names = sd_notify::listen_fds_with_names().map_err(ActivationError::Environment)?;
        let names: Vec<_> = names.map(|(_, name)| name).collect();
        let mut fds = ListenFd::from_env();
        let take = |(index, name): (usize, String)| match take(&mut fds, index) {
            Ok((listener, address)) => Ok(ActivatedSocket { name, address, listener }),
            Err(cause) => Err(ActivationError::NotTcp { name, cause }),
        };
        let sockets = names.into_iter().enumerate().map(take).collect::<Result<_, _>>()?;
        Ok(Self { sockets })
    }

    /// Assigns each socket by its name, or else by its address. Returns the sockets in the order of `wanted`.
    ///
    /// # Errors
    /// Every socket that nothing wants.
    pub(crate) fn assign(
        mut self,
        wanted: &[Wanted<'_>],
    ) -> Result<Vec<Option<TcpListener>>, Vec<ActivationError>> {
        let mut given: Vec<_> = wanted.iter().map(|_| None).collect();
        // Sockets of one unit have the same name: each goes to the listener with its address.
        let fits: [fn(&ActivatedSocket, &Wanted<'_>) -> bool; 3] = [
            |socket, wanted| socket.name == wanted.0 && socket.address == wanted.1,
            |socket, wanted| socket.name == wanted.0,
            |socket, wanted| socket.address == wanted.1,
        ];
        for fits in fits {
            for (wanted, given) in wanted.iter().zip(&mut given) {
                let found = self.sockets.iter().position(|socket| fits(socket, wanted));
                if let (None, Some(found)) = (&given, found) {
                    *given = Some(self.sockets.remove(found).listener);
                }
            }
        }
        if self.sockets.is_empty() {
            return Ok(given);
        }
        let unused =
            |ActivatedSocket { name, address, .. }| ActivationError::Unused { name, address };
        Err(self.sockets.into_iter().map(unused).collect())
    }
}

fn take(fds: &mut ListenFd, index: usize) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = fds.take_tcp_listener(index)?.ok_or(io::ErrorKind::NotFound)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns sockets with these names, and their addresses.
    fn passed(names: &[&str]) -> (ActivatedSockets, Vec<SocketAddr>) {
        let socket = |name: &&str| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            ActivatedSocket {
                name: (*name).to_owned(),
                address: listener.local_addr().unwrap(),
                listener,
            }
        };
        let sockets: Vec<_> = names.iter().map(socket).collect();
        let addresses = sockets.iter().map(|socket| socket.address).collect();
        (ActivatedSockets { sockets }, addresses)
    }

    fn assigned(passed: ActivatedSockets, wanted: &[Wanted<'_>]) -> Vec<Option<SocketAddr>> {
        let given = passed.assign(wanted).unwrap();
        given.iter().map(|given| given.as_ref().map(|l| l.local_addr().unwrap())).collect()
    }

    const ELSEWHERE: SocketAddr =
        SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1));

    #[test]
    fn a_name_goes_before_an_address_and_both_together_before_a_name() {
        let (sockets, at) = passed(&["tlsidecar.socket", "a"]);
        let given = assigned(sockets, &[("a", at[0]), ("b", ELSEWHERE), ("c", at[0])]);
        assert_eq!(given, [Some(at[1]), None, Some(at[0])]);
        let (sockets, at) = passed(&["a", "a"]);
        assert_eq!(assigned(sockets, &[("b", at[0]), ("a", at[1])]), [Some(at[0]), Some(at[1])]);
    }

    #[test]
    fn an_unused_socket_is_an_error_and_so_is_a_second_one_of_a_name() {
        let (sockets, at) = passed(&["a", "a", "x"]);
        let errors = sockets.assign(&[("a", at[1]), ("b", ELSEWHERE)]).unwrap_err();
        let unused = |error: &ActivationError| {
            let ActivationError::Unused { address, .. } = error else { panic!("{error}") };
            *address
        };
        assert_eq!(errors.iter().map(unused).collect::<Vec<_>>(), [at[0], at[2]]);
    }
}
