/* The interface between the steps of a device (device.c) and its TLS stack (one file for each). */

#include <stddef.h>

struct options {
    const char *ca;
    const char *cert; /* NULL without a client certificate */
    const char *key;
    int version;   /* 12 or 13: the only version that is offered */
    size_t buffer; /* bytes of plaintext that a received record may hold; 0: the stack's default */
};

/* Name of the server, for SNI and for the check of its certificate. */
#define NAME "localhost"

/* Reads the files and configures the stack. */
void stack_open(const struct options *options);

/* Handshakes on a connected socket, and offers the session of the last connection that was closed. */
void stack_connect(int socket);

/* Returns whether the last handshake resumed a session. */
int stack_resumed(void);

/* Receives some bytes. Returns 0 after the server's close_notify. */
size_t stack_read(unsigned char *bytes, size_t length);

/* Sends all bytes. */
void stack_write(const unsigned char *bytes, size_t length);

/* Sends a close_notify, after which the stack still receives. */
void stack_shut(void);

/* Keeps the session for the next connection, and sends a close_notify if none has been sent. */
void stack_close(void);

/* Prints the failed call with the stack's words for it, and exits. */
_Noreturn void fail(const char *call, const char *words);

/* As above, with the stack's number of the error. */
_Noreturn void fail_number(const char *call, long number);
