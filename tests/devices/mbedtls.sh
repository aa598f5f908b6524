#!/bin/sh
# Builds mbedTLS from its sources, once for each size of the input buffer, which is a setting of the library:
#     mbedtls.sh SOURCES OUT SIZE...
# OUT/SIZE.a has what depends on the size, OUT/rest.a everything else. mbedTLS 3.6 offers the size with TLS 1.3 only if
# MBEDTLS_SSL_RECORD_SIZE_LIMIT is set; by default it is not.
set -eu
sources=$1 out=$2
shift 2

# Compiles C files into objects in a directory.
compile() {
    mkdir -p "$1"
    # shellcheck disable=SC2016 # The inner shell expands it.
    xargs -P "$(nproc)" -I '{}' sh -c 'exec cc -c -O1 -I"$1/include" -DMBEDTLS_SSL_IN_CONTENT_LEN="$2" \
        -DMBEDTLS_SSL_OUT_CONTENT_LEN=4096 -DMBEDTLS_SSL_RECORD_SIZE_LIMIT "$4" -o "$3/$(basename "$4" .c).o"' compile "$sources" "$2" "$1" '{}'
    ar rc "$1.a" "$1"/*.o
}

find "$sources/library" -name '*.c' ! -name 'ssl_*' | compile "$out/rest" 16384
for size in "$@"; do
    find "$sources/library" -name 'ssl_*.c' | compile "$out/$size" "$size"
done
