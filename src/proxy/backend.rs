//! The legacy servers behind a listener, and how a connection to one of them is made.
//!
//! A route has a [`Pool`] of addresses. A connection chooses one of them by the policy and by their health, waits for a
//! place if as many connects are in progress as may be, and goes on with the next address if it fails.
//!
//! **Not here.** The selection of the route (`route.rs`).

mod address;
mod check;
pub(crate) mod dial;
mod health;
pub(crate) mod lookup;
mod places;
mod pool;
mod stream;

pub(crate) use self::address::{Backend, ConnectBounds, ConnectError};
pub(crate) use self::check::Check;
pub(crate) use self::pool::Pool;
pub(crate) use self::stream::{BackendStream, either_is_ready};
