//! What the operator sees and does.

pub mod admin;
pub mod metrics;
pub mod shutdown;
