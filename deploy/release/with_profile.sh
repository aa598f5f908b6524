#!/bin/sh
# Wraps rustc: `RUSTC_WRAPPER=with_profile.sh TLSIDECAR_PROFILE=FILE cargo build --target …` compiles for the target with the
# profile of profile.sh. In RUSTFLAGS, the profile would also reach the C compiler, which has no counts for its functions.
case " $* " in
*" --target "*) exec "$@" -C "profile-use=$TLSIDECAR_PROFILE" -C llvm-args=-pgo-warn-missing-function=false ;;
*) exec "$@" ;;
esac
