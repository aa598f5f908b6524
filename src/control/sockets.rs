//! Listening sockets that systemd passes, and whose they are: sd_listen_fds(3).
//!
//! **Promises.** Each is taken once, closed in what we execute, and belongs to just one listener or
//! to the admin port: what fits none is an error, since devices would wait in it for ever.
//!
//! **Not here.** Sockets of our own, and the options of both (`proxy/socket.rs`).

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

/// The listening sockets that came with the process.
#[derive(Debug, Default)]
pub struct Passed {
    sockets: Vec<Socket>,
}

#[derive(Debug)]
struct Socket {
    /// `FileDescriptorName=` of the unit; by default the unit's own name.
    name: String,
    address: SocketAddr,
    listener: TcpListener,
}

/// Who wants a socket: a name and an address.
pub(crate) type Wanted<'a> = (&'a str, SocketAddr);

/// What was passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// The environment variables do not fit together, or what they say is not there.
    #[error("LISTEN_FDS, LISTEN_FDNAMES: {0}")]
    Environment(io::Error),
    /// It is no listening TCP socket.
    #[error("what systemd has passed as {name:?} is no listening TCP socket: {cause}")]
    NotTcp {
        /// Its name.
        name: String,
        /// What is wrong with it.
        cause: io::Error,
    },
    /// Nobody wants it.
    #[error(
        "systemd has passed a socket {name:?} that listens on {address}: no listener is called so or \
         listens there"
    )]
    Unwanted {
        /// Its name.
        name: String,
        /// Where it listens.
        address: SocketAddr,
    },
}

impl Passed {
    /// Takes what came with the process, out of the environment: call it once, while there is just
    /// one thread.
    ///
    /// # Errors
    /// If anything of it is not a TCP socket.
    pub fn take() -> Result<Self, PassedError> {
        // A variable without a value is none: sd_notify would miss a number in it.
        let is_empty = |name| env::var_os(name).is_some_and(|value| value.is_empty());
        if is_empty("LISTEN_PID") || is_empty("LISTEN_FDS") {
            return Ok(Self::default());
        }
        // None also where LISTEN_PID names another process, whose names they are then.
        if sd_notify::listen_fds().map_err(PassedError::Environment)?.len() == 0 {
            return Ok(Self::default());
        }
        let names = sd_notify::listen_fds_with_names().map_err(PassedError::Environment)?;
        let names: Vec<_> = names.map(|(_, name)| name).collect();
        let mut fds = ListenFd::from_env();
        let take = |(index, name): (usize, String)| match take(&mut fds, index) {
            Ok((listener, address)) => Ok(Socket { name, address, listener }),
            Err(cause) => Err(PassedError::NotTcp { name, cause }),
        };
        let sockets = names.into_iter().enumerate().map(take).collect::<Result<_, _>>()?;
        Ok(Self { sockets })
    }

    /// Gives each socket to whom it is for, by its name, or else by its address. In the order of
    /// `wanted`, what each gets.
    ///
    /// # Errors
    /// Every socket that is for nobody.
    pub(crate) fn assign(
        mut self,
        wanted: &[Wanted<'_>],
    ) -> Result<Vec<Option<TcpListener>>, Vec<PassedError>> {
        let mut given: Vec<_> = wanted.iter().map(|_| None).collect();
        // Of several that one unit has named alike, each finds the listener of its own address.
        let fits: [fn(&Socket, &Wanted<'_>) -> bool; 3] = [
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
        let unwanted = |Socket { name, address, .. }| PassedError::Unwanted { name, address };
        Err(self.sockets.into_iter().map(unwanted).collect())
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

    /// Sockets with these names, and where they listen.
    fn passed(names: &[&str]) -> (Passed, Vec<SocketAddr>) {
        let socket = |name: &&str| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            Socket { name: (*name).to_owned(), address: listener.local_addr().unwrap(), listener }
        };
        let sockets: Vec<_> = names.iter().map(socket).collect();
        let addresses = sockets.iter().map(|socket| socket.address).collect();
        (Passed { sockets }, addresses)
    }

    fn assigned(passed: Passed, wanted: &[Wanted<'_>]) -> Vec<Option<SocketAddr>> {
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
    fn what_fits_nobody_is_an_error_and_so_is_a_second_one_of_a_name() {
        let (sockets, at) = passed(&["a", "a", "x"]);
        let errors = sockets.assign(&[("a", at[1]), ("b", ELSEWHERE)]).unwrap_err();
        let unwanted = |error: &PassedError| match error {
            PassedError::Unwanted { address, .. } => *address,
            _ => panic!("{error}"),
        };
        assert_eq!(errors.iter().map(unwanted).collect::<Vec<_>>(), [at[0], at[2]]);
    }
}
