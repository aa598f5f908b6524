//! The certificates, keys, CAs, CRLs and allow rules of a policy, checked file by file.
//!
//! **Promises.** A file is parsed whole, each key belongs to its certificate, and no valid certificate is
//! replaced by one that is not valid now. A file that fails keeps its earlier content. Key bytes are wiped
//! once they are loaded, and no error quotes a file's content.
//!
//! **Not here.** Reading files (`material.rs`), joining their content (`policy.rs`).

pub(crate) mod chain;
pub(crate) mod clients;
pub(crate) mod crl_files;
pub(crate) mod guards;
pub(crate) mod loaded;
pub(crate) mod pem;
pub(crate) mod rules;
mod signing;
pub(crate) mod suites;
pub(crate) mod summary;
pub(crate) mod verifier;
