#!/bin/sh
# Wraps rustc (RUSTC_WRAPPER) for builds with a profile. Crates of the target are compiled with counters if
# TLSIDECAR_PROFILE_COUNTS is set, and with the profile TLSIDECAR_PROFILE otherwise; build scripts and macros are not.
# RUSTFLAGS would also reach the C compiler, by way of the crate cc, which has no counts for its functions.
case " $* " in
*" --target "*) ;;
*) exec "$@" ;;
esac
if [ -z "${TLSIDECAR_PROFILE_COUNTS:-}" ]; then
    exec "$@" -C "profile-use=$TLSIDECAR_PROFILE" -C llvm-args=-disable-vp=true
fi
for arg; do
    case $arg in
    linker=*) export "TLSIDECAR_LINKER=${arg#linker=}" ;;
    esac
done
# The counters are mapped from their file (%c), since the program confines itself and is killed at the end. LLVM does not
# profile values in this mode. LLVM_PROFILE_FILE names the file at run time.
exec "$@" -C profile-generate -C llvm-args=-runtime-counter-relocation -C llvm-args=-disable-vp=true \
    -C "linker=$(dirname "$0")/linker.sh"
