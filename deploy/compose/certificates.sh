#!/bin/sh
# Creates a CA and a server certificate in the directory $1, unless they exist.
set -eu
cd "$1"
if [ -e tls.crt ]; then exit 0; fi
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }
key ca.key
openssl req -x509 -new -key ca.key -days 3650 -subj "/CN=tlsidecar example CA" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" -out ca.crt
key tls.key
openssl req -new -key tls.key -subj "/CN=mosquitto" -out tls.csr
printf '%s\n' "subjectAltName=DNS:mosquitto,DNS:localhost,IP:127.0.0.1" "extendedKeyUsage=serverAuth" \
    "basicConstraints=CA:FALSE" "keyUsage=digitalSignature" >tls.ext
openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" -days 90 \
    -extfile tls.ext -out tls.new 2>/dev/null
# The CA's key is no longer needed, and the containers that mount the certificates must not have it.
rm -f tls.csr tls.ext ca.key
# User of tlsidecar's image. Outside of a container the owner of the keys stays unchanged.
if [ "$(id -u)" = 0 ] && [ -z "${KEEP_OWNER:-}" ]; then chown 65532:65532 tls.key; fi
# Written last: this file marks the others as complete.
mv tls.new tls.crt
