/* A device on GnuTLS, which offers record_size_limit (RFC 8449) where it is given a buffer. */

#include "device.h"

#include <gnutls/gnutls.h>
#include <stdio.h>

static gnutls_certificate_credentials_t credentials;
static gnutls_session_t session;
static gnutls_datum_t kept;
static const char *priority;
static size_t record_buffer;
static int is_shut;

static void expect(const char *call, long result) {
    if (result < 0) fail(call, gnutls_strerror((int)result));
}

void stack_open(const struct options *options) {
    priority = options->version == 13 ? "NORMAL:-VERS-ALL:+VERS-TLS1.3" : "NORMAL:-VERS-ALL:+VERS-TLS1.2";
    record_buffer = options->buffer;
    gnutls_certificate_allocate_credentials(&credentials);
    expect("ca", gnutls_certificate_set_x509_trust_file(credentials, options->ca, GNUTLS_X509_FMT_PEM));
    if (options->cert == NULL) return;
    expect("cert", gnutls_certificate_set_x509_key_file(credentials, options->cert, options->key, GNUTLS_X509_FMT_PEM));
}

void stack_connect(int socket) {
    int result;
    is_shut = 0;
    gnutls_init(&session, GNUTLS_CLIENT);
    expect("priority", gnutls_priority_set_direct(session, priority, NULL));
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_server_name_set(session, GNUTLS_NAME_DNS, NAME, sizeof NAME - 1);
    gnutls_session_set_verify_cert(session, NAME, 0);
    gnutls_transport_set_int(session, socket);
    if (record_buffer > 0) expect("buffer", gnutls_record_set_max_recv_size(session, record_buffer));
    if (kept.data != NULL) gnutls_session_set_data(session, kept.data, kept.size);
    do {
        result = gnutls_handshake(session);
    } while (result < 0 && !gnutls_error_is_fatal(result));
    expect("gnutls_handshake", result);
}

int stack_resumed(void) {
    return gnutls_session_is_resumed(session);
}

size_t stack_read(unsigned char *bytes, size_t length) {
    for (;;) {
        ssize_t result = gnutls_record_recv(session, bytes, length);
        if (result == GNUTLS_E_AGAIN || result == GNUTLS_E_INTERRUPTED) continue;
        expect("gnutls_record_recv", result);
        return (size_t)result;
    }
}

void stack_write(const unsigned char *bytes, size_t length) {
    while (length > 0) {
        ssize_t result = gnutls_record_send(session, bytes, length);
        expect("gnutls_record_send", result);
        bytes += result, length -= (size_t)result;
    }
}

void stack_shut(void) {
    expect("gnutls_bye", gnutls_bye(session, GNUTLS_SHUT_WR));
    is_shut = 1;
}

void stack_close(void) {
    gnutls_free(kept.data);
    kept.data = NULL;
    gnutls_session_get_data2(session, &kept);
    if (!is_shut) stack_shut();
    gnutls_deinit(session);
}
