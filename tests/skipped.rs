//! The last lines of `cargo test`: which tests were skipped, of those that libtest counts as passed.
//!
//! A program without libtest, which cargo starts after the others, since its name is behind theirs.
//! `support/skips.rs` has the rest.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "support/skips.rs"]
mod skips;

fn main() {
    // Test runners ask each program for its tests: there are none.
    if !std::env::args().any(|argument| argument == "--list") {
        print!("{}", skips::summary(skips::DIRECTORY.as_ref(), &skips::this_run()));
    }
}
