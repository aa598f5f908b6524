#!/usr/bin/env bash
# Links a program with counters by the linker $TLSIDECAR_LINKER: zig's C compiler takes the option -u, which rustc adds for the
# runtime of the counters, only in the form for the linker.
set -euo pipefail
args=()
for arg; do
    case $arg in
    -u | __llvm_profile_runtime) arg=-Wl,$arg ;;
    esac
    args+=("$arg")
done
exec "$TLSIDECAR_LINKER" "${args[@]}"
