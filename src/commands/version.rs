//! `tlsidecar --version --verbose`: the sources and the compiler of the program.
//!
//! **Not here.** The values, which the build records (`build.rs`).

/// The version, the commit, the target, the compiler and the TLS libraries, one on each line.
pub const VERBOSE: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit      ",
    env!("BUILT_COMMIT"),
    "\ntarget      ",
    env!("BUILT_TARGET"),
    "\nrustc       ",
    env!("BUILT_RUSTC"),
    "\nrustls      ",
    env!("BUILT_RUSTLS"),
    "\naws-lc-rs   ",
    env!("BUILT_AWS_LC_RS"),
    "\naws-lc-sys  ",
    env!("BUILT_AWS_LC_SYS"),
);
