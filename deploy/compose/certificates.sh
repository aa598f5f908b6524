#!/bin/sh
# Makes a CA and a server's certificate in the directory $1, unless they are there.
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
# The CA's key has done what it was for: whoever mounts the certificates needs none.
rm -f tls.csr tls.ext ca.key
# The user of tlsidecar's image; elsewhere the keys stay with whoever made them.
if [ "$(id -u)" = 0 ] && [ -z "${KEEP_OWNER:-}" ]; then chown 65532:65532 tls.key; fi
# Last, for it says that all is there.
mv tls.new tls.crt
