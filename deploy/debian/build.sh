#!/usr/bin/env bash
# Builds the Debian package and prints its path. Needs cargo-deb. With arguments, such as
# `--deb-version 1.2.3`, they go to cargo-deb.
#
# The man pages and completions come from the binary itself; where it cannot run, because it was built for
# another machine, TLSIDECAR_BIN names one that can.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --release --locked --quiet
binary=${TLSIDECAR_BIN:-target/release/tlsidecar}

# Where [package.metadata.deb] in Cargo.toml takes them from.
made=target/debian-made
rm -rf "$made"
mkdir -p "$made/man" "$made/completions"
"$binary" man --dir "$made/man"
gzip -9n "$made"/man/*
"$binary" completions bash >"$made/completions/tlsidecar"
"$binary" completions zsh >"$made/completions/_tlsidecar"
"$binary" completions fish >"$made/completions/tlsidecar.fish"

cargo deb --quiet --locked --no-build "$@"
