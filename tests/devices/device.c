/* A device: the steps that it takes, on any TLS stack (device.h).
 *
 *     device PORT CA CERT KEY VERSION BUFFER STEP...
 *
 * CERT and KEY are `-` without a client certificate. The legacy server behind the sidecar, in stack.rs, answers
 * requests of one line. A failure is one line on standard output, and exit code 1. */

#include "device.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define BURST (64 * 1024)
#define BULK (1024 * 1024)

static const char *current_step = "start";
static int port, tcp = -1;

void fail(const char *call, const char *words) {
    printf("FAILED %s: %s: %s\n", current_step, call, words);
    exit(1);
}

void fail_number(const char *call, long number) {
    char words[32];
    snprintf(words, sizeof words, "%ld (%s0x%lx)", number, number < 0 ? "-" : "", labs(number));
    fail(call, words);
}

/* Returns the byte at this place of every transfer. */
static unsigned char byte_at(uint32_t place) {
    return (unsigned char)((place * 2654435761u) >> 24);
}

static void send_text(const char *text) {
    stack_write((const unsigned char *)text, strlen(text));
}

static void expect_text(const char *text) {
    unsigned char found[64];
    size_t wanted = strlen(text), have = 0, read;
    while (have < wanted) {
        read = stack_read(found + have, wanted - have);
        if (read == 0) fail("read", "the stream has ended");
        have += read;
    }
    if (memcmp(found, text, wanted) != 0) fail("read", "other bytes than expected");
}

static void receive_transfer(size_t length) {
    unsigned char bytes[5000];
    size_t have = 0, read, i;
    while (have < length) {
        read = stack_read(bytes, length - have < sizeof bytes ? length - have : sizeof bytes);
        if (read == 0) fail("read", "the stream has ended");
        for (i = 0; i < read; i++)
            if (bytes[i] != byte_at((uint32_t)(have + i))) fail("read", "another byte than expected");
        have += read;
    }
}

static void send_transfer(size_t length) {
    unsigned char bytes[3000];
    size_t done = 0, part, i;
    while (done < length) {
        part = length - done < sizeof bytes ? length - done : sizeof bytes;
        for (i = 0; i < part; i++) bytes[i] = byte_at((uint32_t)(done + i));
        stack_write(bytes, part);
        done += part;
    }
}

static void step_connect(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = 30};
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    tcp = socket(AF_INET, SOCK_STREAM, 0);
    if (tcp < 0 || connect(tcp, (struct sockaddr *)&address, sizeof address) != 0) fail("connect", "no TCP");
    setsockopt(tcp, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(tcp, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    stack_connect(tcp);
}

static void step_echo(void) {
    send_text("echo\n");
    expect_text("echo\n");
    /* Known after the first read: with TLS 1.3, a rejection arrives after the handshake. */
    printf("%s\n", stack_resumed() ? "resumed" : "full");
}

static void step_burst(void) {
    send_text("burst\n");
    receive_transfer(BURST);
}

static void step_bulk(void) {
    send_text("download\n");
    receive_transfer(BULK);
    send_text("upload\n");
    send_transfer(BULK);
    expect_text("ok\n");
}

static void step_half_close(void) {
    unsigned char end;
    send_text("collect\n");
    send_text("the last reading\n");
    stack_shut();
    expect_text("17\n");
    if (stack_read(&end, 1) != 0) fail("read", "bytes after the end");
}

static void step_pause(void) {
    printf("paused\n");
    fflush(stdout);
    if (getchar() == EOF) fail("pause", "standard input has ended");
}

static void step_close(void) {
    stack_close();
    close(tcp);
}

static const struct {
    const char *name;
    void (*run)(void);
} STEPS[] = {
    {"connect", step_connect},       {"echo", step_echo},   {"burst", step_burst}, {"bulk", step_bulk},
    {"half-close", step_half_close}, {"pause", step_pause}, {"close", step_close},
};

static void run(const char *name) {
    size_t i;
    current_step = name;
    for (i = 0; i < sizeof STEPS / sizeof STEPS[0]; i++) {
        if (strcmp(STEPS[i].name, name) == 0) {
            STEPS[i].run();
            return;
        }
    }
    fail("step", "unknown");
}

int main(int argc, char **argv) {
    struct options options = {0};
    int i;
    if (argc < 8) {
        printf("device PORT CA CERT KEY VERSION BUFFER STEP...\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    port = atoi(argv[1]);
    options.ca = argv[2];
    options.cert = strcmp(argv[3], "-") == 0 ? NULL : argv[3];
    options.key = strcmp(argv[4], "-") == 0 ? NULL : argv[4];
    options.version = strcmp(argv[5], "1.3") == 0 ? 13 : 12;
    options.buffer = (size_t)atol(argv[6]);
    stack_open(&options);
    for (i = 7; i < argc; i++) run(argv[i]);
    return 0;
}
