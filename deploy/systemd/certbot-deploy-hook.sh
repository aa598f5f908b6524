#!/bin/sh
# For /etc/letsencrypt/renewal-hooks/deploy/: copies a renewed certificate to where tlsidecar may read it.
# certbot's own directories are for root alone. There is nothing to reload: tlsidecar watches the files.
set -eu

# The certificate that is for tlsidecar; hooks run for all of them.
: "${TLSIDECAR_CERT_NAME:=tlsidecar}"
: "${TLSIDECAR_CERT_DIR:=/etc/tlsidecar}"

if [ "$(basename "$RENEWED_LINEAGE")" != "$TLSIDECAR_CERT_NAME" ]; then exit 0; fi

# Each whole or not at all. Between the two, the key and the certificate do not belong together: that
# moment is refused, and the next is taken up.
put() {
    install -o root -g tlsidecar -m 0640 "$RENEWED_LINEAGE/$1" "$TLSIDECAR_CERT_DIR/.$2.new"
    mv -f "$TLSIDECAR_CERT_DIR/.$2.new" "$TLSIDECAR_CERT_DIR/$2"
}
put privkey.pem tls.key
put fullchain.pem tls.crt
