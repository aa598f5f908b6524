#!/usr/bin/env bash
# Installs what build.sh needs into target/tools: zig as the C compiler and linker from PyPI, by hash, and cargo's commands
# for packages. Without optimisation these are built in a third of the time.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=$PWD/target/tools
python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r deploy/release/requirements.txt
# Outside of this directory, whose settings are for the program.
cd /
for tool in cargo-deb@3.8.0 cargo-generate-rpm@0.21.1 cargo-cyclonedx@0.5.9; do
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --debug --root "$tools" "$tool"
done
rm -rf "$tools/build"
