/* A device on OpenSSL. */

#include "device.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

static SSL_CTX *context;
static SSL *ssl;
static SSL_SESSION *session;
static int is_shut;

static _Noreturn void fail_now(const char *call) {
    fail(call, ERR_reason_error_string(ERR_peek_error()) ? ERR_reason_error_string(ERR_peek_error()) : "no reason");
}

void stack_open(const struct options *options) {
    int version = options->version == 13 ? TLS1_3_VERSION : TLS1_2_VERSION;
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (SSL_CTX_load_verify_locations(context, options->ca, NULL) != 1) fail_now("ca");
    if (options->cert == NULL) return;
    if (SSL_CTX_use_certificate_chain_file(context, options->cert) != 1) fail_now("cert");
    if (SSL_CTX_use_PrivateKey_file(context, options->key, SSL_FILETYPE_PEM) != 1) fail_now("key");
}

void stack_connect(int socket) {
    is_shut = 0;
    ssl = SSL_new(context);
    SSL_set_fd(ssl, socket);
    SSL_set_tlsext_host_name(ssl, NAME);
    SSL_set1_host(ssl, NAME);
    if (session != NULL) SSL_set_session(ssl, session);
    if (SSL_connect(ssl) != 1) fail_now("SSL_connect");
}

int stack_resumed(void) {
    return SSL_session_reused(ssl);
}

size_t stack_read(unsigned char *bytes, size_t length) {
    int result = SSL_read(ssl, bytes, (int)length);
    if (result > 0) return (size_t)result;
    if (SSL_get_error(ssl, result) == SSL_ERROR_ZERO_RETURN) return 0;
    fail_now("SSL_read");
}

void stack_write(const unsigned char *bytes, size_t length) {
    if (SSL_write(ssl, bytes, (int)length) != (int)length) fail_now("SSL_write");
}

void stack_shut(void) {
    if (SSL_shutdown(ssl) < 0) fail_now("SSL_shutdown");
    is_shut = 1;
}

void stack_close(void) {
    SSL_SESSION_free(session);
    session = SSL_get1_session(ssl);
    if (!is_shut) stack_shut();
    SSL_free(ssl);
}
