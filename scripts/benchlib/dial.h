/* Non-blocking connections to a port of 127.0.0.1, the clock, and the end of a run. */
#ifndef DIAL_H
#define DIAL_H
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t is_over;

static void over(int signal)
{
    (void)signal;
    is_over = 1;
}

/* TERM ends a run early; what was counted until then is reported. */
static void end_at_signal(void)
{
    struct sigaction act = {.sa_handler = over};
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* Microseconds, monotonic. */
static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* A socket that connects, or -1. */
static int dial(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

static int watch(int ep, int how, int fd, uint32_t events, void *who)
{
    struct epoll_event ev = {.events = events, .data.ptr = who};
    return epoll_ctl(ep, how, fd, &ev);
}

/* Gives each event to the connection that it is of, until then or until the run is ended. */
static void drive(int ep, uint64_t end, void (*turn)(void *, uint32_t))
{
    while (!is_over && now_us() < end) {
        struct epoll_event ready[64];
        int n = epoll_wait(ep, ready, 64, 50);
        for (int i = 0; i < n; i++)
            turn(ready[i].data.ptr, ready[i].events);
    }
}
#endif
