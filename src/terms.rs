//! The vocabulary of the product, without dependencies.
//!
//! **Not here.** Behaviour: the other rooms decide, measure and report with these words.

pub mod closed_set;
pub mod labels;
pub mod reason;
