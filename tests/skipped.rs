//! Prints the last lines of `cargo test`: the skipped tests, which libtest counts as passed.
//!
//! A program without libtest, which cargo starts last because of its name. `support/skips.rs` has the notes.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "support/skips.rs"]
mod skips;

fn main() {
    // Test runners list the tests of each program; this one has none.
    if !std::env::args().any(|argument| argument == "--list") {
        print!("{}", skips::summary(skips::DIRECTORY.as_ref(), &skips::this_run()));
    }
}
