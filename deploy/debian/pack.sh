#!/usr/bin/env bash
# Packs the program that cargo has built before, and prints the path of the package: build.sh without the build.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The changelog has the version of the package.
DEB_VERSION="" previous=""
for argument in "$@"; do
    if [ "$previous" = --deb-version ]; then DEB_VERSION=$argument; fi
    previous=$argument
done
export DEB_VERSION

# Source directory in [package.metadata.deb] of Cargo.toml.
deploy/release/documents.sh target/package
cargo deb --quiet --locked --no-build "$@"
