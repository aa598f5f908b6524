//! The vocabulary of the product: closed sets of words, and patterns for names.
//!
//! **Not here.** Behaviour: the other rooms decide, measure and report in these terms.

pub(crate) mod addresses;
pub mod closed_set;
pub(crate) mod iana;
pub mod labels;
pub mod name_pattern;
pub(crate) mod negotiated;
pub(crate) mod offer_class;
pub mod reason;
pub mod rollout;
pub mod rule_pattern;
