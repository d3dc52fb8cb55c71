/*
 * closed PORT PATTERN CONNECTIONS SECONDS close|keep: so many clients, each of
 * which asks anew as soon as it was answered, with a connection per request or
 * over a kept one. PATTERN may have two %d: of fid / 1000, and of the fid, which
 * goes round 10,000 files in turn, so that no cache of fewer helps.
 *
 * A latency is the time from before connect() (kept: from the request) to the
 * reply's last byte. Prints, times in microseconds:
 * RESULT requests elapsed errors mean sd p50 p99 max
 */
#define _GNU_SOURCE
#include "dial.h"
#include "reply.h"
#include <math.h>
#include <stdio.h>

#define FILES 10000

struct conn {
    int fd;
    uint64_t asked;
    struct reply reply;
};

static const char *pattern;
static int port, ep, is_kept;
static unsigned next_fid;
static unsigned long long errors;
static uint32_t *took;
static size_t took_len, took_room;

static void record(uint64_t us)
{
    if (took_len == took_room) {
        took_room = took_room ? 2 * took_room : 65536;
        took = realloc(took, took_room * sizeof *took);
        if (!took)
            exit(1);
    }
    took[took_len++] = (uint32_t)us;
}

static void begin(struct conn *c)
{
    c->asked = now_us();
    reply_begin(&c->reply);
    c->fd = dial(port);
    if (c->fd < 0 || watch(ep, EPOLL_CTL_ADD, c->fd, EPOLLOUT, c) < 0) {
        perror("closed: connect");
        exit(1);
    }
}

static void again(struct conn *c)
{
    close(c->fd);
    begin(c);
}

static void ask(struct conn *c)
{
    char path[512], request[1024];
    unsigned fid = next_fid++ % FILES;
    snprintf(path, sizeof path, pattern, fid / 1000, fid);
    int len = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: bench\r\n%s\r\n", path,
                       is_kept ? "" : "Connection: close\r\n");
    reply_begin(&c->reply);
    if (write(c->fd, request, (size_t)len) != len) {
        errors++;
        again(c);
    }
}

static void turn(void *conn, uint32_t events)
{
    struct conn *c = conn;
    char buffer[65536];
    if (events & EPOLLOUT) {
        watch(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
        ask(c);
        return;
    }
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        errors += !is_kept || c->reply.head_len > 0;
        again(c);
        return;
    }
    switch (reply_feed(&c->reply, buffer, (size_t)n)) {
    case REPLY_MORE:
        return;
    case REPLY_DONE:
        record(now_us() - c->asked);
        if (is_kept) {
            c->asked = now_us();
            ask(c);
        } else {
            again(c);
        }
        return;
    case REPLY_BAD:
        errors++;
        again(c);
    }
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Who was not answered has waited all the same, at least until now: a server that
 * answers nobody must not look quick. */
static void report(const struct conn *all, int count, uint64_t elapsed)
{
    size_t answered = took_len;
    for (int i = 0; i < count; i++)
        record(now_us() - all[i].asked);
    double sum = 0, squares = 0, mean = 0;
    for (size_t i = 0; i < took_len; i++)
        sum += took[i];
    if (took_len)
        mean = sum / (double)took_len;
    for (size_t i = 0; i < took_len; i++)
        squares += (took[i] - mean) * (took[i] - mean);
    if (took_len)
        qsort(took, took_len, sizeof *took, by_size);
    printf("RESULT %zu %llu %llu %.1f %.1f %u %u %u\n", answered, (unsigned long long)elapsed, errors, mean,
           took_len ? sqrt(squares / (double)took_len) : 0, took_len ? took[took_len / 2] : 0,
           took_len ? took[took_len * 99 / 100] : 0, took_len ? took[took_len - 1] : 0);
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fputs("usage: closed PORT PATTERN CONNECTIONS SECONDS close|keep\n", stderr);
        return 2;
    }
    port = atoi(argv[1]);
    pattern = argv[2];
    int count = atoi(argv[3]);
    is_kept = !strcmp(argv[5], "keep");
    ep = epoll_create1(EPOLL_CLOEXEC);
    end_at_signal();
    struct conn *all = calloc((size_t)count, sizeof *all);
    uint64_t began = now_us(), end = began + (uint64_t)(atof(argv[4]) * 1e6);
    for (int i = 0; i < count; i++)
        begin(&all[i]);
    drive(ep, end, turn);
    report(all, count, now_us() - began);
    return 0;
}
