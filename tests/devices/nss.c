/* A device on NSS, with a database beside its program. */

#include "device.h"

#include <base64.h>
#include <cert.h>
#include <certdb.h>
#include <keyhi.h>
#include <nss.h>
#include <pk11pub.h>
#include <private/pprio.h>
#include <prerror.h>
#include <secerr.h>
#include <ssl.h>
#include <sslproto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static CERTCertificate *own;
static SECKEYPrivateKey *own_key;
static PRFileDesc *ssl;
static size_t record_buffer;
static int is_shut;

static _Noreturn void fail_now(const char *call) {
    const char *name = PR_ErrorToName(PR_GetError());
    fail(call, name != NULL ? name : "no reason");
}

/* Returns the text of a file. */
static char *text_of(const char *path) {
    static char text[64 * 1024];
    FILE *file = fopen(path, "r");
    if (file == NULL) fail("open", path);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

/* Decodes the next object of PEM text, and moves behind it. Returns whether there is one. */
static int next_object(char **text, SECItem *der) {
    char *start = strstr(*text, "-----BEGIN "), *end;
    if (start == NULL) return 0;
    start = strchr(start, '\n') + 1;
    end = strstr(start, "-----END ");
    *text = strchr(end, '\n') + 1;
    end[0] = 0;
    memset(der, 0, sizeof *der);
    if (ATOB_ConvertAsciiToItem(der, start) != SECSuccess) fail_now("PEM");
    return 1;
}

/* Imports the certificates of a file, and returns the first one. */
static CERTCertificate *import(const char *path, const char *name) {
    CERTCertificate *first = NULL;
    char *text = text_of(path), nickname[32];
    SECItem der;
    int count = 0;
    while (next_object(&text, &der)) {
        CERTCertificate *cert = CERT_NewTempCertificate(CERT_GetDefaultCertDB(), &der, NULL, PR_FALSE, PR_TRUE);
        snprintf(nickname, sizeof nickname, "%s-%d", name, count++);
        if (cert == NULL) fail_now(name);
        if (PK11_ImportCert(PK11_GetInternalKeySlot(), cert, CK_INVALID_HANDLE, nickname, PR_FALSE) != SECSuccess)
            fail_now(name);
        if (first == NULL) first = cert;
    }
    return first;
}

static void import_key(const char *path) {
    char *text = text_of(path);
    SECItem der;
    SECItem nickname = {siBuffer, (unsigned char *)"own", 3};
    if (!next_object(&text, &der)) fail("key", "no PEM");
    if (PK11_ImportDERPrivateKeyInfoAndReturnKey(PK11_GetInternalKeySlot(), &der, &nickname, NULL, PR_TRUE, PR_TRUE,
                                                 KU_ALL, &own_key, NULL) != SECSuccess)
        fail_now("key");
}

static void open_database(void) {
    char directory[4096];
    ssize_t length = readlink("/proc/self/exe", directory, sizeof directory - 32);
    char path[4200];
    if (length < 0) fail("readlink", "no /proc");
    directory[length] = 0;
    strcat(directory, ".XXXXXX");
    if (mkdtemp(directory) == NULL) fail("mkdtemp", directory);
    snprintf(path, sizeof path, "sql:%s", directory);
    if (NSS_InitReadWrite(path) != SECSuccess) fail_now("NSS_InitReadWrite");
    if (PK11_InitPin(PK11_GetInternalKeySlot(), NULL, "") != SECSuccess) fail_now("PK11_InitPin");
}

void stack_open(const struct options *options) {
    PRUint16 version = options->version == 13 ? SSL_LIBRARY_VERSION_TLS_1_3 : SSL_LIBRARY_VERSION_TLS_1_2;
    SSLVersionRange range = {version, version};
    CERTCertTrust trust = {CERTDB_VALID_CA | CERTDB_TRUSTED_CA, 0, 0};
    CERTCertificate *ca;
    record_buffer = options->buffer;
    open_database();
    SSL_VersionRangeSetDefault(ssl_variant_stream, &range);
    SSL_OptionSetDefault(SSL_ENABLE_SESSION_TICKETS, PR_TRUE);
    ca = import(options->ca, "ca");
    if (CERT_ChangeCertTrust(CERT_GetDefaultCertDB(), ca, &trust) != SECSuccess) fail_now("trust");
    if (options->cert == NULL) return;
    import_key(options->key);
    own = import(options->cert, "own");
}

static SECStatus on_request(void *unused, PRFileDesc *socket, CERTDistNames *names, CERTCertificate **cert,
                            SECKEYPrivateKey **key) {
    (void)unused, (void)socket, (void)names;
    if (own == NULL) return SECFailure;
    *cert = CERT_DupCertificate(own);
    *key = SECKEY_CopyPrivateKey(own_key);
    return SECSuccess;
}

void stack_connect(int socket) {
    is_shut = 0;
    ssl = SSL_ImportFD(NULL, PR_ImportTCPSocket(socket));
    if (ssl == NULL) fail_now("SSL_ImportFD");
    SSL_SetURL(ssl, NAME);
    SSL_GetClientAuthDataHook(ssl, on_request, NULL);
    if (record_buffer > 0 && SSL_OptionSet(ssl, SSL_RECORD_SIZE_LIMIT, (PRIntn)record_buffer) != SECSuccess)
        fail_now("buffer");
    if (SSL_ResetHandshake(ssl, PR_FALSE) != SECSuccess || SSL_ForceHandshake(ssl) != SECSuccess)
        fail_now("SSL_ForceHandshake");
}

int stack_resumed(void) {
    SSLChannelInfo info;
    if (SSL_GetChannelInfo(ssl, &info, sizeof info) != SECSuccess) fail_now("SSL_GetChannelInfo");
    return info.resumed;
}

size_t stack_read(unsigned char *bytes, size_t length) {
    PRInt32 result = PR_Read(ssl, bytes, (PRInt32)length);
    if (result < 0) fail_now("PR_Read");
    return (size_t)result;
}

void stack_write(const unsigned char *bytes, size_t length) {
    if (PR_Write(ssl, bytes, (PRInt32)length) != (PRInt32)length) fail_now("PR_Write");
}

void stack_shut(void) {
    if (PR_Shutdown(ssl, PR_SHUTDOWN_SEND) != PR_SUCCESS) fail_now("PR_Shutdown");
    is_shut = 1;
}

void stack_close(void) {
    if (!is_shut) stack_shut();
    PR_Close(ssl);
}
