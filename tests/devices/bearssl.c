/* A device on BearSSL: TLS 1.2 with a buffer of its own size, which it offers as max_fragment_length (RFC 6066).
 * It resumes by session IDs, and drops what arrives after its own close_notify. */

#include "device.h"

#include <bearssl/bearssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Bytes of a record around its plaintext: BR_SSL_BUFSIZE_INPUT - 16384, and the same for output. */
#define AROUND_INPUT 325
#define AROUND_OUTPUT 85

static br_ssl_client_context client;
static br_x509_minimal_context verifier;
static br_sslio_context io;
static br_ssl_session_parameters session;
static br_x509_certificate anchors[4], chain[8];
static size_t anchor_count, chain_length;
static br_skey_decoder_context key;
static unsigned char input[16384 + AROUND_INPUT], output[16384 + AROUND_OUTPUT];
static size_t input_length;
static int has_session, is_resumed, tcp;

/* An object of a PEM file while it is decoded. */
struct object {
    unsigned char *bytes;
    size_t length;
};

static void append(void *object, const void *bytes, size_t length) {
    struct object *to = object;
    to->bytes = realloc(to->bytes, to->length + length + 1);
    memcpy(to->bytes + to->length, bytes, length);
    to->length += length;
}

/* Returns the next object of a PEM file; no bytes at its end. */
static struct object next_object(FILE *file) {
    br_pem_decoder_context pem;
    struct object object = {0};
    int byte;
    br_pem_decoder_init(&pem);
    while ((byte = fgetc(file)) != EOF) {
        unsigned char one = (unsigned char)byte;
        size_t taken;
        /* The decoder takes a byte only after its last event has been read. */
        do {
            taken = br_pem_decoder_push(&pem, &one, 1);
            switch (br_pem_decoder_event(&pem)) {
            case BR_PEM_BEGIN_OBJ: br_pem_decoder_setdest(&pem, append, &object); break;
            case BR_PEM_END_OBJ: return object;
            case BR_PEM_ERROR: fail("PEM", "invalid");
            }
        } while (taken == 0);
    }
    return object;
}

/* Returns the number of certificates in a PEM file, decoded into `certs`. */
static size_t certificates(const char *path, br_x509_certificate *certs, size_t room) {
    FILE *file = fopen(path, "r");
    size_t count = 0;
    struct object object;
    if (file == NULL) fail("open", path);
    while ((object = next_object(file)).length > 0 && count < room) {
        certs[count].data = object.bytes;
        certs[count++].data_len = object.length;
    }
    fclose(file);
    return count;
}

static void *copied(const void *bytes, size_t length) {
    void *copy = malloc(length + 1);
    return memcpy(copy, bytes, length);
}

/* Returns the trust anchor that a CA's certificate describes. */
static br_x509_trust_anchor anchor_of(const br_x509_certificate *cert) {
    static struct object name;
    br_x509_trust_anchor anchor = {0};
    br_x509_decoder_context decoder;
    br_x509_pkey *public;
    memset(&name, 0, sizeof name);
    br_x509_decoder_init(&decoder, append, &name);
    br_x509_decoder_push(&decoder, cert->data, cert->data_len);
    public = br_x509_decoder_get_pkey(&decoder);
    if (public == NULL) fail_number("ca", br_x509_decoder_last_error(&decoder));
    anchor.dn.data = name.bytes;
    anchor.dn.len = name.length;
    anchor.flags = BR_X509_TA_CA;
    anchor.pkey = *public;
    if (public->key_type == BR_KEYTYPE_EC) {
        anchor.pkey.key.ec.q = copied(public->key.ec.q, public->key.ec.qlen);
    } else {
        anchor.pkey.key.rsa.n = copied(public->key.rsa.n, public->key.rsa.nlen);
        anchor.pkey.key.rsa.e = copied(public->key.rsa.e, public->key.rsa.elen);
    }
    return anchor;
}

static void read_key(const char *path) {
    FILE *file = fopen(path, "r");
    struct object object;
    if (file == NULL) fail("open", path);
    object = next_object(file);
    fclose(file);
    br_skey_decoder_init(&key);
    br_skey_decoder_push(&key, object.bytes, object.length);
    if (br_skey_decoder_last_error(&key) != 0) fail_number("key", br_skey_decoder_last_error(&key));
}

static void set_own(void) {
    if (br_skey_decoder_key_type(&key) == BR_KEYTYPE_EC) {
        br_ssl_client_set_single_ec(&client, chain, chain_length, br_skey_decoder_get_ec(&key), BR_KEYTYPE_SIGN,
                                    BR_KEYTYPE_EC, br_ec_get_default(), br_ecdsa_sign_asn1_get_default());
    } else {
        br_ssl_client_set_single_rsa(&client, chain, chain_length, br_skey_decoder_get_rsa(&key),
                                     br_rsa_pkcs1_sign_get_default());
    }
}

void stack_open(const struct options *options) {
    static br_x509_trust_anchor trusted[4];
    size_t i;
    if (options->version != 12) fail("version", "BearSSL ends at TLS 1.2");
    input_length = (options->buffer == 0 ? 16384 : options->buffer) + AROUND_INPUT;
    anchor_count = certificates(options->ca, anchors, 4);
    for (i = 0; i < anchor_count; i++) trusted[i] = anchor_of(&anchors[i]);
    br_ssl_client_init_full(&client, &verifier, trusted, anchor_count);
    if (options->cert == NULL) return;
    chain_length = certificates(options->cert, chain, 8);
    read_key(options->key);
    set_own();
}

static int receive(void *unused, unsigned char *bytes, size_t length) {
    ssize_t result = read(tcp, bytes, length);
    (void)unused;
    return result > 0 ? (int)result : -1;
}

static int transmit(void *unused, const unsigned char *bytes, size_t length) {
    ssize_t result = send(tcp, bytes, length, MSG_NOSIGNAL);
    (void)unused;
    return result > 0 ? (int)result : -1;
}

/* Fails with the engine's error; its numbers are in bearssl_ssl.h. */
static _Noreturn void fail_now(const char *call) {
    fail_number(call, br_ssl_engine_last_error(&client.eng));
}

void stack_connect(int socket) {
    br_ssl_session_parameters now;
    tcp = socket;
    br_ssl_engine_set_buffers_bidi(&client.eng, input, input_length, output, sizeof output);
    if (has_session) br_ssl_engine_set_session_parameters(&client.eng, &session);
    if (br_ssl_client_reset(&client, NAME, has_session) != 1) fail_now("br_ssl_client_reset");
    br_sslio_init(&io, &client.eng, receive, NULL, transmit, NULL);
    /* A flush completes the handshake. */
    if (br_sslio_flush(&io) < 0) fail_now("handshake");
    br_ssl_engine_get_session_parameters(&client.eng, &now);
    is_resumed = has_session && now.session_id_len > 0 && now.session_id_len == session.session_id_len &&
                 memcmp(now.session_id, session.session_id, now.session_id_len) == 0;
}

int stack_resumed(void) {
    return is_resumed;
}

size_t stack_read(unsigned char *bytes, size_t length) {
    int result = br_sslio_read(&io, bytes, length);
    if (result > 0) return (size_t)result;
    if (br_ssl_engine_last_error(&client.eng) == BR_ERR_OK) return 0;
    fail_now("read");
}

void stack_write(const unsigned char *bytes, size_t length) {
    if (br_sslio_write_all(&io, bytes, length) < 0 || br_sslio_flush(&io) < 0) fail_now("write");
}

void stack_shut(void) {
    fail("close", "BearSSL drops what arrives after its own close_notify");
}

void stack_close(void) {
    br_ssl_engine_get_session_parameters(&client.eng, &session);
    has_session = session.session_id_len > 0;
    br_sslio_close(&io);
}
