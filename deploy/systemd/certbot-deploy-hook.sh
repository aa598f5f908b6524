#!/bin/sh
# For /etc/letsencrypt/renewal-hooks/deploy/: installs a renewed certificate in a directory that tlsidecar can read.
# Only root can read certbot's directories. No reload is needed: tlsidecar watches the files.
set -eu

# Name of tlsidecar's certificate; certbot runs hooks for all certificates.
: "${TLSIDECAR_CERT_NAME:=tlsidecar}"
: "${TLSIDECAR_CERT_DIR:=/etc/tlsidecar}"

if [ "$(basename "$RENEWED_LINEAGE")" != "$TLSIDECAR_CERT_NAME" ]; then exit 0; fi

# Each file is replaced atomically. Between the two renames the key does not match the certificate: tlsidecar
# rejects this state, and loads the next one.
put() {
    install -o root -g tlsidecar -m 0640 "$RENEWED_LINEAGE/$1" "$TLSIDECAR_CERT_DIR/.$2.new"
    mv -f "$TLSIDECAR_CERT_DIR/.$2.new" "$TLSIDECAR_CERT_DIR/$2"
}
put privkey.pem tls.key
put fullchain.pem tls.crt
