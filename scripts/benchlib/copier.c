/*
 * copier PORT PATH CONNECTIONS SECONDS: GETs one file again and again over kept
 * connections, and copies every byte of it: a client that discards in the kernel
 * (MSG_TRUNC) makes the server's sendfile look three times as dear as it is.
 *
 * Prints: RESULT requests bytes microseconds errors
 */
#define _GNU_SOURCE
#include "dial.h"
#include "reply.h"
#include <stdio.h>

/* What one read() takes at most. Bytes. */
#define READ_MAX (256 * 1024)

struct conn {
    int fd;
    struct reply reply;
};

static char request[1024], buffer[READ_MAX];
static int port, ep;
static unsigned long long requests, bytes, errors;

static void begin(struct conn *c)
{
    reply_begin(&c->reply);
    c->fd = dial(port);
    if (c->fd < 0 || watch(ep, EPOLL_CTL_ADD, c->fd, EPOLLOUT, c) < 0) {
        perror("copier: connect");
        exit(1);
    }
}

static void ask(struct conn *c)
{
    ssize_t len = (ssize_t)strlen(request);
    reply_begin(&c->reply);
    if (write(c->fd, request, (size_t)len) != len) {
        errors++;
        close(c->fd);
        begin(c);
    }
}

static void turn(void *conn, uint32_t events)
{
    struct conn *c = conn;
    if (events & EPOLLOUT) {
        watch(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
        ask(c);
        return;
    }
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        /* between two replies a server may close: its keep-alive has a limit */
        errors += c->reply.head_len > 0;
        close(c->fd);
        begin(c);
        return;
    }
    bytes += (unsigned long long)n;
    switch (reply_feed(&c->reply, buffer, (size_t)n)) {
    case REPLY_MORE:
        return;
    case REPLY_DONE:
        requests++;
        ask(c);
        return;
    case REPLY_BAD:
        errors++;
        close(c->fd);
        begin(c);
    }
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fputs("usage: copier PORT PATH CONNECTIONS SECONDS\n", stderr);
        return 2;
    }
    port = atoi(argv[1]);
    int count = atoi(argv[3]);
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: bench\r\n\r\n", argv[2]);
    ep = epoll_create1(EPOLL_CLOEXEC);
    end_at_signal();
    struct conn *all = calloc((size_t)count, sizeof *all);
    uint64_t began = now_us(), end = began + (uint64_t)(atof(argv[4]) * 1e6);
    for (int i = 0; i < count; i++)
        begin(&all[i]);
    drive(ep, end, turn);
    printf("RESULT %llu %llu %llu %llu\n", requests, bytes, (unsigned long long)(now_us() - began), errors);
    return 0;
}
