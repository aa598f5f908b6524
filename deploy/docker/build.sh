#!/bin/sh
# Builds the image's binary: `deploy/docker/build.sh OUT` creates the directory OUT with
#   tlsidecar            static, position independent, with the list of its crates inside (cargo-auditable)
#   tlsidecar.cdx.json   the other linked parts: the C library, the compiler's runtime, Rust's own library
# The same source, compiler and C library give the same bytes in any directory: the binary contains no path of
# the build machine. docs/image.md describes the comparison.
# Needs: cargo (the version in Cargo.toml), a C compiler, make, the static C library (Debian: libc6-dev).
set -eu
out=${1:?output directory}
root=$(cd "$(dirname "$0")/../.." && pwd)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
AUDITABLE_VERSION=0.7.7

mkdir -p "$out"
out=$(cd "$out" && pwd)
# cargo reads .cargo/config.toml in the current directory: it has the settings of jemalloc and AWS-LC.
cd "$root"
target_dir=${CARGO_TARGET_DIR:-$root/target}

# Does nothing if this version is installed. Without optimisation it builds in a third of the time. It runs before the flags
# of the build are set: without an explicit target, `-C target-feature=+crt-static` would also apply to procedural macros,
# which cannot be static.
env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_RUSTFLAGS -u CARGO_BUILD_TARGET \
    cargo install --quiet --locked --debug --root "$cargo_home" "cargo-auditable@$AUDITABLE_VERSION"

# With an explicit target, code for the build machine (build scripts, macros) stays dynamic.
machine=$(uname -m)
target=$machine-unknown-linux-gnu
variable=CARGO_TARGET_$(printf '%s' "$target" | tr 'a-z-' 'A-Z_')_RUSTFLAGS
# These variables would override the flags below.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS
# If several prefixes match, the last one applies: the target directory may be inside the source directory. If
# the toolchain contains Rust's sources, the compiler would otherwise record their path.
rust_sources=$(rustc --print sysroot)/lib/rustlib/src/rust
rust_commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
export "$variable=-C target-feature=+crt-static --remap-path-prefix=$rust_sources=/rustc/$rust_commit \
--remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$root=/src --remap-path-prefix=$target_dir=/target"
map="-ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$root=/src -ffile-prefix-map=$target_dir=/target"
export CFLAGS="$map"

# Like `cargo auditable build`, but cargo gets the wrapper by name and not by path: cargo hashes the wrapper's
# path into the crate's symbols, which changes the order of the binary's contents.
export PATH="$cargo_home/bin:$PATH"
CARGO="env" cargo-auditable auditable RUSTC_WORKSPACE_WRAPPER=cargo-auditable \
    cargo build --locked --profile image --target "$target" --target-dir "$target_dir"
cp "$target_dir/$target/image/tlsidecar" "$out/tlsidecar"

# Linked parts that are not crates: from the system and from the toolchain.
# In a package URL's version a "+" is written "%2B".
source_of() { dpkg-query -W -f '${source:Version}' "$1"; }
url() { printf 'pkg:%s@%s' "$1" "$(printf '%s' "$2" | sed 's/+/%2B/g')"; }
distribution=$(sed -n 's/^ID=//p' /etc/os-release)
gcc=gcc-$(cc -dumpversion)
libc=$(source_of libc6-dev)
runtime=$(source_of "libgcc-${gcc#gcc-}-dev")
rust=$(rustc --version | cut -d ' ' -f 2)
version=$(sed -n '/^version = /{s/version = "\(.*\)"/\1/p;q}' Cargo.toml)
cat >"$out/tlsidecar.cdx.json" <<SBOM
{
  "bomFormat": "CycloneDX",
  "specVersion": "1.4",
  "version": 1,
  "metadata": {
    "component": { "type": "application", "bom-ref": "tlsidecar", "name": "tlsidecar", "version": "$version" }
  },
  "components": [
    { "type": "library", "bom-ref": "glibc", "name": "glibc", "version": "$libc",
      "purl": "$(url "deb/$distribution/glibc" "$libc")?arch=source" },
    { "type": "library", "bom-ref": "gcc", "name": "$gcc", "version": "$runtime",
      "purl": "$(url "deb/$distribution/$gcc" "$runtime")?arch=source" },
    { "type": "library", "bom-ref": "rust-std", "name": "rust-std", "version": "$rust",
      "purl": "$(url generic/rust-std "$rust")" }
  ]
}
SBOM
