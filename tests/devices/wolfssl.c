/* A device on wolfSSL. */

#include "device.h"

#include <stdio.h>
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

static WOLFSSL_CTX *context;
static WOLFSSL *ssl;
static WOLFSSL_SESSION *session;
static int is_shut;
static size_t record_buffer;

static _Noreturn void fail_now(const char *call, int result) {
    char words[WOLFSSL_MAX_ERROR_SZ], all[WOLFSSL_MAX_ERROR_SZ + 16];
    int error = wolfSSL_get_error(ssl, result);
    wolfSSL_ERR_error_string((unsigned long)error, words);
    snprintf(all, sizeof all, "%d %s", error, words);
    fail(call, all);
}

void stack_open(const struct options *options) {
    record_buffer = options->buffer;
    wolfSSL_Init();
    context = wolfSSL_CTX_new(options->version == 13 ? wolfTLSv1_3_client_method() : wolfTLSv1_2_client_method());
    wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_PEER, NULL);
    if (wolfSSL_CTX_load_verify_locations(context, options->ca, NULL) != WOLFSSL_SUCCESS) fail("ca", options->ca);
#ifdef HAVE_SESSION_TICKET
    wolfSSL_CTX_UseSessionTicket(context);
#endif
    if (options->cert == NULL) return;
    if (wolfSSL_CTX_use_certificate_chain_file(context, options->cert) != WOLFSSL_SUCCESS) fail("cert", options->cert);
    if (wolfSSL_CTX_use_PrivateKey_file(context, options->key, WOLFSSL_FILETYPE_PEM) != WOLFSSL_SUCCESS)
        fail("key", options->key);
}

void stack_connect(int socket) {
    int result;
    is_shut = 0;
    ssl = wolfSSL_new(context);
    wolfSSL_set_fd(ssl, socket);
#ifdef HAVE_SNI
    wolfSSL_UseSNI(ssl, WOLFSSL_SNI_HOST_NAME, NAME, sizeof NAME - 1);
#endif
    wolfSSL_check_domain_name(ssl, NAME);
#ifdef HAVE_MAX_FRAGMENT
    if (record_buffer == 4096) wolfSSL_UseMaxFragment(ssl, WOLFSSL_MFL_2_12);
#endif
    if (session != NULL) wolfSSL_set_session(ssl, session);
    result = wolfSSL_connect(ssl);
    if (result != WOLFSSL_SUCCESS) fail_now("wolfSSL_connect", result);
}

int stack_resumed(void) {
    return wolfSSL_session_reused(ssl);
}

size_t stack_read(unsigned char *bytes, size_t length) {
    int result = wolfSSL_read(ssl, bytes, (int)length);
    if (result > 0) return (size_t)result;
    if (wolfSSL_get_error(ssl, result) == WOLFSSL_ERROR_ZERO_RETURN) return 0;
    fail_now("wolfSSL_read", result);
}

void stack_write(const unsigned char *bytes, size_t length) {
    int result = wolfSSL_write(ssl, bytes, (int)length);
    if (result != (int)length) fail_now("wolfSSL_write", result);
}

void stack_shut(void) {
    int result = wolfSSL_shutdown(ssl);
    if (result != WOLFSSL_SUCCESS && result != WOLFSSL_SHUTDOWN_NOT_DONE) fail_now("wolfSSL_shutdown", result);
    is_shut = 1;
}

void stack_close(void) {
    session = wolfSSL_get1_session(ssl);
    if (!is_shut) stack_shut();
    wolfSSL_free(ssl);
}
