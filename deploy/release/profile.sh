#!/usr/bin/env bash
# Writes a profile for the compiler: `profile.sh TARGET FILE`, with cargo-zigbuild's name of the target. Builds the program with
# counters, in the same way as build.sh, and counts its branches under loads of benches/peers: handshakes of all kinds, bytes in
# both directions, messages. A program of another machine runs in qemu.
#   LLVM_PROFDATA   llvm-profdata of the compiler's LLVM version; by default that of rustup's component llvm-tools
# Needs the C library of another machine (Debian: libc6-MACHINE-cross) and qemu-user-static.
set -euo pipefail
target=${1:?target}
out=$(realpath "${2:?file to write}")
cd "$(dirname "$0")/../.."
machine=${target%%-*}
dir=$PWD/target/profile
counts=$dir/$machine-counts
program=$dir/${target%%.*}/release/tlsidecar
profdata=${LLVM_PROFDATA:-$("${RUSTC:-rustc}" --print target-libdir)/../bin/llvm-profdata}
[ -x "$profdata" ] || { echo "$profdata is missing: rustup component add llvm-tools, or set LLVM_PROFDATA" >&2 && exit 1; }

RUSTC_WRAPPER=$PWD/deploy/release/rustc.sh TLSIDECAR_PROFILE_COUNTS=yes \
    cargo zigbuild --release --locked --target "$target" --target-dir "$dir"
if [ "$machine" != "$(uname -m)" ]; then
    printf '#!/bin/sh\nexec qemu-%s-static -L /usr/%s-linux-gnu "%s" "$@"\n' "$machine" "$machine" "$program" >"$dir/$machine"
    chmod +x "$dir/$machine"
    program=$dir/$machine
fi
rm -rf "$counts"
LLVM_PROFILE_FILE=$counts/%m%c.profraw TLSIDECAR_BENCH_PROGRAM=$program \
    cargo bench --locked --profile dev --bench peers -- --peers tlsidecar --rounds 1 --seconds 1.5 --out "$dir/figures" \
    --loads "full 1;resumed 1;to backend, 64;to client, 64;both ways, 64;128 B, 32;4 KiB, 1000" 2>&1 | tee "$dir/log"
if grep -qE 'NO FIGURE|SKIPPED' "$dir/log"; then echo "a load has failed" >&2 && exit 1; fi
"$profdata" merge --output "$out" "$counts"/*.profraw
