#!/usr/bin/env bash
# Writes a profile for the compiler: `profile.sh FILE`. It has the counts of each branch under the loads of benches/peers:
# handshakes of all kinds, bytes in both directions, messages. with_profile.sh builds with it.
# Needs rustc with its profiler runtime, and llvm-profdata of the same LLVM (`rustc --version --verbose`): rustup's component
# llvm-tools, or Debian's llvm-22, in the variable LLVM_PROFDATA.
set -euo pipefail
out=$(realpath "${1:?file to write}")
cd "$(dirname "$0")/../.."
target=$(uname -m)-unknown-linux-gnu
dir=$PWD/target/profile
tools=$(rustc --print sysroot)/lib/rustlib/$target/bin
profdata=${LLVM_PROFDATA:-$tools/llvm-profdata}
loads="full 1;resumed 1;to backend, 64;to client, 64;both ways, 64;128 B, 32;4 KiB, 1000"
[ -x "$profdata" ] || { echo "$profdata is missing: rustup component add llvm-tools, or set LLVM_PROFDATA" >&2 && exit 1; }

# The counts are in a file from the start on (%c): the process confines itself, and is killed in the end. That excludes counts of
# values (vp).
flags="-C profile-generate=$dir/counts -C llvm-args=-runtime-counter-relocation -C llvm-args=-disable-vp=true"
RUSTFLAGS=$flags cargo build --release --locked --bin tlsidecar --target "$target" --target-dir "$dir"
rm -rf "$dir/counts"
LLVM_PROFILE_FILE="$dir/counts/%m%c.profraw" TLSIDECAR_BENCH_PROGRAM=$dir/$target/release/tlsidecar \
    cargo bench --locked --profile dev --bench peers -- \
    --peers tlsidecar --loads "$loads" --rounds 1 --seconds 1.5 --out "$dir/figures" 2>&1 | tee "$dir/log"
if grep -qE 'NO FIGURE|SKIPPED' "$dir/log"; then echo "a load has failed" >&2 && exit 1; fi
"$profdata" merge --sparse --output "$out" "$dir"/counts/*.profraw
most=$("$profdata" show "$out" | sed -n 's/^Maximum function count: //p')
if [ "$most" -lt 100000 ]; then echo "the loads have not reached the program: at most $most calls" >&2 && exit 1; fi
ls -l "$out"
