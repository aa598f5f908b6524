/* A small device on mbedTLS: TLS 1.2, a CA in flash, a client certificate.
 *
 * It makes the same calls as ESP-IDF's esp-tls, so the sidecar treats it as it treats an ESP32. It
 * connects, sends an MQTT CONNECT packet, and prints the length of the answer.
 *
 *     cc -Wall -Wextra -o device device.c -lmbedtls -lmbedx509 -lmbedcrypto
 *     ./device HOST PORT CA [CERTIFICATE KEY]
 */

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#include <stdio.h>
#include <stdlib.h>

/* MQTT 3.1.1: CONNECT with a clean session, a keepalive of 60 s and an empty client identifier. */
static const unsigned char CONNECT[] = {0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 0};

static mbedtls_ssl_context ssl;

/* Prints a failure by number, as firmware logs it, and in words, and exits. */
static void expect(const char *what, int result) {
    char words[128];
    if (result >= 0) {
        return;
    }
    mbedtls_strerror(result, words, sizeof words);
    printf("%s: -0x%04x %s\n", what, (unsigned)-result, words);
    if (result == MBEDTLS_ERR_X509_CERT_VERIFY_FAILED) {
        mbedtls_x509_crt_verify_info(words, sizeof words, "", mbedtls_ssl_get_verify_result(&ssl));
        printf("%s", words);
    }
    exit(1);
}

int main(int argc, char **argv) {
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
    mbedtls_net_context socket;
    mbedtls_ssl_config config;
    mbedtls_x509_crt ca, own;
    mbedtls_pk_context key;
    unsigned char answer[1024];
    int length;

    if (argc != 4 && argc != 6) {
        printf("device HOST PORT CA [CERTIFICATE KEY]\n");
        return 2;
    }
    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&random);
    mbedtls_net_init(&socket);
    mbedtls_ssl_init(&ssl);
    mbedtls_ssl_config_init(&config);
    mbedtls_x509_crt_init(&ca);
    mbedtls_x509_crt_init(&own);
    mbedtls_pk_init(&key);
    expect("random", mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0));
    expect("ca", mbedtls_x509_crt_parse_file(&ca, argv[3]));
    expect("config", mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT,
                                                 MBEDTLS_SSL_TRANSPORT_STREAM,
                                                 MBEDTLS_SSL_PRESET_DEFAULT));
    mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
    mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_ca_chain(&config, &ca, NULL);
    if (argc == 6) {
        expect("certificate", mbedtls_x509_crt_parse_file(&own, argv[4]));
#if MBEDTLS_VERSION_MAJOR < 3
        expect("key", mbedtls_pk_parse_keyfile(&key, argv[5], NULL));
#else
        expect("key", mbedtls_pk_parse_keyfile(&key, argv[5], NULL, mbedtls_ctr_drbg_random, &random));
#endif
        expect("config", mbedtls_ssl_conf_own_cert(&config, &own, &key));
    }
    expect("setup", mbedtls_ssl_setup(&ssl, &config));
    /* Name for SNI, which the server certificate also has to contain. */
    expect("name", mbedtls_ssl_set_hostname(&ssl, argv[1]));

    expect("connect", mbedtls_net_connect(&socket, argv[1], argv[2], MBEDTLS_NET_PROTO_TCP));
    mbedtls_ssl_set_bio(&ssl, &socket, mbedtls_net_send, mbedtls_net_recv, NULL);
    expect("handshake", mbedtls_ssl_handshake(&ssl));
    printf("%s, %s\n", mbedtls_ssl_get_version(&ssl), mbedtls_ssl_get_ciphersuite(&ssl));
    expect("write", mbedtls_ssl_write(&ssl, CONNECT, sizeof CONNECT));
    length = mbedtls_ssl_read(&ssl, answer, sizeof answer);
    expect("read", length);
    printf("an answer of %d bytes\n", length);
    mbedtls_ssl_close_notify(&ssl);
    return 0;
}
