/* A device on mbedTLS 2.28 or 3.6. The size of the input buffer is a setting of the library (mbedtls.sh); the
 * device offers it as max_fragment_length (RFC 6066). */

#include "device.h"

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#include <stdio.h>
#if MBEDTLS_VERSION_MAJOR >= 3
#include <psa/crypto.h>
#endif

static mbedtls_entropy_context entropy;
static mbedtls_ctr_drbg_context generator;
static mbedtls_net_context net;
static mbedtls_ssl_config config;
static mbedtls_ssl_context ssl;
static mbedtls_ssl_session session;
static mbedtls_x509_crt ca, own;
static mbedtls_pk_context key;
static int has_session, is_shut, sent_certificate_check;

/* Fails if a call has. */
static void expect(const char *call, int result) {
    char words[128], all[160];
    if (result >= 0) return;
    mbedtls_strerror(result, words, sizeof words);
    snprintf(all, sizeof all, "-0x%04x %s", (unsigned)-result, words);
    fail(call, all);
}

/* Returns the code of max_fragment_length for a buffer. */
static unsigned char fragment_code(size_t buffer) {
    switch (buffer) {
    case 512: return MBEDTLS_SSL_MAX_FRAG_LEN_512;
    case 1024: return MBEDTLS_SSL_MAX_FRAG_LEN_1024;
    case 2048: return MBEDTLS_SSL_MAX_FRAG_LEN_2048;
    case 4096: return MBEDTLS_SSL_MAX_FRAG_LEN_4096;
    default: return MBEDTLS_SSL_MAX_FRAG_LEN_NONE;
    }
}

/* Counts the certificates that are verified: a resumed session has none. */
static int on_certificate(void *unused, mbedtls_x509_crt *cert, int depth, uint32_t *flags) {
    (void)unused, (void)cert, (void)depth, (void)flags;
    sent_certificate_check = 1;
    return 0;
}

void stack_open(const struct options *options) {
    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&generator);
    mbedtls_ssl_config_init(&config);
    mbedtls_ssl_session_init(&session);
    mbedtls_x509_crt_init(&ca);
    mbedtls_x509_crt_init(&own);
    mbedtls_pk_init(&key);
    expect("random", mbedtls_ctr_drbg_seed(&generator, mbedtls_entropy_func, &entropy, NULL, 0));
    expect("ca", mbedtls_x509_crt_parse_file(&ca, options->ca));
    expect("config", mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                                 MBEDTLS_SSL_PRESET_DEFAULT));
    mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &generator);
    mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_ca_chain(&config, &ca, NULL);
    mbedtls_ssl_conf_verify(&config, on_certificate, NULL);
    expect("buffer", mbedtls_ssl_conf_max_frag_len(&config, fragment_code(options->buffer)));
#if MBEDTLS_VERSION_MAJOR >= 3
    expect("psa", (int)psa_crypto_init());
    mbedtls_ssl_conf_min_tls_version(&config, options->version == 13 ? MBEDTLS_SSL_VERSION_TLS1_3
                                                                      : MBEDTLS_SSL_VERSION_TLS1_2);
    mbedtls_ssl_conf_max_tls_version(&config, options->version == 13 ? MBEDTLS_SSL_VERSION_TLS1_3
                                                                      : MBEDTLS_SSL_VERSION_TLS1_2);
#if defined(MBEDTLS_SSL_PROTO_TLS1_3) && MBEDTLS_VERSION_NUMBER >= 0x03060100
    mbedtls_ssl_conf_tls13_enable_signal_new_session_tickets(
        &config, MBEDTLS_SSL_TLS1_3_SIGNAL_NEW_SESSION_TICKETS_ENABLED);
#endif
#endif
    if (options->cert == NULL) return;
    expect("cert", mbedtls_x509_crt_parse_file(&own, options->cert));
#if MBEDTLS_VERSION_MAJOR < 3
    expect("key", mbedtls_pk_parse_keyfile(&key, options->key, NULL));
#else
    expect("key", mbedtls_pk_parse_keyfile(&key, options->key, NULL, mbedtls_ctr_drbg_random, &generator));
#endif
    expect("own", mbedtls_ssl_conf_own_cert(&config, &own, &key));
}

void stack_connect(int socket) {
    is_shut = 0, sent_certificate_check = 0;
    mbedtls_net_init(&net);
    net.fd = socket;
    mbedtls_ssl_init(&ssl);
    expect("setup", mbedtls_ssl_setup(&ssl, &config));
    expect("name", mbedtls_ssl_set_hostname(&ssl, NAME));
    mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
    if (has_session) expect("session", mbedtls_ssl_set_session(&ssl, &session));
    expect("mbedtls_ssl_handshake", mbedtls_ssl_handshake(&ssl));
}

int stack_resumed(void) {
    return !sent_certificate_check;
}

/* Keeps the session, which replaces an earlier one. */
static void keep(void) {
    mbedtls_ssl_session_free(&session);
    mbedtls_ssl_session_init(&session);
    has_session = mbedtls_ssl_get_session(&ssl, &session) == 0;
}

size_t stack_read(unsigned char *bytes, size_t length) {
    for (;;) {
        int result = mbedtls_ssl_read(&ssl, bytes, length);
        if (result == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY) return 0;
        /* A message of the handshake has been read, not data. A timeout of the socket is another error. */
        if (result == MBEDTLS_ERR_SSL_WANT_READ) continue;
#if defined(MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET)
        if (result == MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET) {
            keep();
            continue;
        }
#endif
        if (result == 0) fail("mbedtls_ssl_read", "no close_notify");
        expect("mbedtls_ssl_read", result);
        return (size_t)result;
    }
}

void stack_write(const unsigned char *bytes, size_t length) {
    while (length > 0) {
        int result = mbedtls_ssl_write(&ssl, bytes, length);
        expect("mbedtls_ssl_write", result);
        bytes += result, length -= (size_t)result;
    }
}

void stack_shut(void) {
    expect("mbedtls_ssl_close_notify", mbedtls_ssl_close_notify(&ssl));
    is_shut = 1;
}

void stack_close(void) {
    /* With TLS 1.3 the session is in the ticket, which a read has reported. */
    if (!has_session) keep();
    if (!is_shut) stack_shut();
    mbedtls_ssl_free(&ssl);
}
