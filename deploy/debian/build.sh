#!/usr/bin/env bash
# Builds the Debian package and prints its path. Needs cargo-deb. Arguments, such as
# `--deb-version 1.2.3`, are passed to cargo-deb.
#
# The binary generates the man pages and completions. If it cannot run, because it was built for another
# machine, set TLSIDECAR_BIN to one that can.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --release --locked --quiet
binary=${TLSIDECAR_BIN:-target/release/tlsidecar}

# Source directory in [package.metadata.deb] of Cargo.toml.
made=target/debian-made
rm -rf "$made"
mkdir -p "$made/man" "$made/completions"
"$binary" man --dir "$made/man"
gzip -9n "$made"/man/*
"$binary" completions bash >"$made/completions/tlsidecar"
"$binary" completions zsh >"$made/completions/_tlsidecar"
"$binary" completions fish >"$made/completions/tlsidecar.fish"

cargo deb --quiet --locked --no-build "$@"
