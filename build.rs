//! Records the compiler and the sources, for `tlsidecar --version --verbose`, and the keys of the configuration for
//! its manual page.
//!
//! **Promises.** The same sources and the same compiler give the same program: nothing here depends on the time, the
//! machine or a work tree. The commit is that of the variable `TLSIDECAR_COMMIT`, if the recipe of a release sets it.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const PAGE: &str = "docs/configuration.md";

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-changed={PAGE}");
    println!("cargo::rerun-if-env-changed=TLSIDECAR_COMMIT");
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    for (name, value) in [
        ("COMMIT", env::var("TLSIDECAR_COMMIT").ok().filter(|commit| !commit.is_empty())),
        ("TARGET", env::var("TARGET").ok()),
        ("RUSTC", rustc()),
        ("RUSTLS", version(&lock, "rustls")),
        ("AWS_LC_RS", version(&lock, "aws-lc-rs")),
        ("AWS_LC_SYS", version(&lock, "aws-lc-sys")),
    ] {
        let value = value.unwrap_or_else(|| "unknown".to_owned());
        println!("cargo::rustc-env=BUILT_{name}={value}");
    }
    let page = fs::read_to_string(PAGE).expect("the page is part of the sources");
    let keys = keys(&page).expect("the page has a block with all keys");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("keys.toml"), keys).expect("cargo has made the directory");
}

/// Returns the version of the compiler.
fn rustc() -> Option<String> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().trim_start_matches("rustc ").to_owned())
}

/// Returns the version of a package in a lock file.
fn version(lock: &str, package: &str) -> Option<String> {
    let after = lock.split(&format!("\nname = \"{package}\"\nversion = \"")).nth(1)?;
    Some(after.split('"').next()?.to_owned())
}

/// Returns the block of TOML that has all keys.
fn keys(page: &str) -> Option<&str> {
    let after = page.split("All keys, with their defaults").nth(1)?;
    after.split("```toml\n").nth(1)?.split("```").next()
}
