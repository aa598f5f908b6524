#!/usr/bin/env bash
# Builds the Debian package and prints its path. Needs cargo-deb. Arguments, such as
# `--deb-version 1.2.3`, are passed to cargo-deb.
#
# The binary generates the man pages and completions. If it cannot run, because it was built for another
# machine, set TLSIDECAR_BIN to one that can.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --release --locked --quiet
exec deploy/debian/pack.sh "$@"
