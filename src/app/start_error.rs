//! A failed start, and its lines for the operator.
//!
//! **Promises.** Each line is escaped: file names and addresses cannot control a terminal.
//!
//! **Not here.** The exit codes (`commands/run.rs`).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::finding::Finding;
use crate::control::sockets::ActivationError;
use crate::text::{Shown, one_line};
use crate::transparent::NotAllowed;

/// A failed start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificates, keys, CAs or CRLs of the configuration are invalid.
    #[error("{}", self.lines().join("\n"))]
    Material(Vec<Finding>),
    /// Sockets that were passed to the process cannot be used.
    #[error("{}", self.lines().join("\n"))]
    Activation(Vec<ActivationError>),
    /// A socket cannot be bound.
    #[error("cannot listen on {address} for {what}: {cause}{hint}")]
    Bind {
        /// The owner of the address.
        what: String,
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        cause: io::Error,
        /// A condition of the address that may not be met.
        hint: &'static str,
    },
    /// The Unix socket of the admin port cannot be bound.
    #[error("cannot listen on {} for the admin port: {cause}", Shown(path))]
    BindUnix {
        /// The path.
        path: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// A listener cannot connect from the addresses of devices.
    #[error("listener {listener:?}: {cause}")]
    Source {
        /// The name of the listener.
        listener: String,
        /// The missing permission.
        cause: NotAllowed,
    },
    /// Another error of the system.
    #[error("cannot {what}: {cause}")]
    System {
        /// The failed action.
        what: &'static str,
        /// The error of the system.
        cause: io::Error,
    },
}

impl StartError {
    /// Returns one line for each problem.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Material(problems) => problems.iter().map(ToString::to_string).collect(),
            Self::Activation(errors) => sentences(errors).iter().map(|line| shown(line)).collect(),
            Self::Bind { .. }
            | Self::BindUnix { .. }
            | Self::Source { .. }
            | Self::System { .. } => {
                vec![shown(&self.to_string())]
            }
        }
    }
}

/// Escapes a line for the log and the terminal.
pub(super) fn shown(line: &str) -> String {
    one_line(line).into_owned()
}

fn sentences(errors: &[ActivationError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}
