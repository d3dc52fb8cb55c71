/*
 * A program that does not get on: preloaded, it makes one step of a master's
 * or a worker's start hang, crash or fail for as long as a control file says so.
 *
 * FAULT_CONTROL  the control file, PAGE bytes, mapped; its text is
 *                WHO WHERE WHAT, three letters; a first byte of 0: nothing
 *   WHO    m     a master: the process in which the library was loaded
 *          c     a worker that is a copy of it, by fork
 *          i     a worker that is an image of its own (RMOGSTORED_WORKER was
 *                in its environment)
 *          w     a worker of either kind
 *   WHERE  s     start: the library is loaded
 *          b     birth: the first thing after fork, in the child
 *          f     fork
 *          d     a directory below FAULT_BELOW is opened
 *          t     the process starts its first thread: later ones, whom the
 *                election or a disk asks for, are not its start
 *   WHAT   h     hang until the text changes
 *          a     abort
 *          x     exit with 9
 *          e     the call fails with EAGAIN (fork, thread)
 *   At byte 64, two u32: how often it struck, and how often it may; 0: always.
 *
 * A process that execs something else (an upgrade) begins as a master again.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

struct page {
    _Atomic char text[64];
    _Atomic uint32_t struck, may;
};

static struct page *page;
/* Started by this process so far. */
static _Atomic unsigned threads;
static char role, below[PATH_MAX];
static size_t below_len;
static long (*real_syscall)(long, ...);

static char text(int at)
{
    return atomic_load_explicit(&page->text[at], memory_order_acquire);
}

static int is_meant(char where)
{
    if (!page || !text(0) || text(1) != where)
        return 0;
    return text(0) == role || (text(0) == 'w' && role != 'm');
}

/* 1: the call shall fail. */
static int strike(char where)
{
    if (!is_meant(where))
        return 0;
    uint32_t nth = atomic_fetch_add(&page->struck, 1) + 1, may = atomic_load(&page->may);
    if (may && nth > may)
        return 0;
    char what = text(2);
    if (what == 'a')
        abort();
    if (what == 'x')
        _exit(9);
    while (what == 'h' && is_meant(where) && text(2) == 'h') {
        struct timespec ms = {0, 1000000};
        nanosleep(&ms, NULL);
    }
    return what == 'e';
}

static void child(void)
{
    role = 'c';
    threads = 0;
    strike('b');
}

__attribute__((constructor)) static void begin(void)
{
    const char *c = getenv("FAULT_CONTROL"), *b = getenv("FAULT_BELOW");
    real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    role = getenv("RMOGSTORED_WORKER") ? 'i' : 'm';
    if (b && strlen(b) < PATH_MAX) {
        strcpy(below, b);
        below_len = strlen(b);
    }
    int fd = c ? (int)real_syscall(SYS_openat, AT_FDCWD, c, O_RDWR | O_CLOEXEC, 0) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    real_syscall(SYS_close, fd);
    if (at == MAP_FAILED)
        return;
    page = at;
    pthread_atfork(NULL, NULL, child);
    strike('s');
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

pid_t fork(void)
{
    if (strike('f')) {
        errno = EAGAIN;
        return -1;
    }
    return NEXT(fork)();
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    if (!atomic_fetch_add(&threads, 1) && strike('t'))
        return EAGAIN;
    return NEXT(pthread_create)(thread, attr, run, arg);
}

static void by_open(const char *path, uint64_t flags)
{
    if (is_meant('d') && below_len && flags & O_DIRECTORY && path && !strncmp(path, below, below_len))
        strike('d');
}

#define OPEN(name)                                                          \
    int name(const char *path, int flags, ...)                              \
    {                                                                       \
        va_list rest;                                                       \
        va_start(rest, flags);                                              \
        unsigned mode = va_arg(rest, unsigned);                             \
        va_end(rest);                                                       \
        by_open(path, (uint64_t)flags);                                     \
        return NEXT(name)(path, flags, mode);                               \
    }
#define OPENAT(name)                                                        \
    int name(int dir, const char *path, int flags, ...)                     \
    {                                                                       \
        va_list rest;                                                       \
        va_start(rest, flags);                                              \
        unsigned mode = va_arg(rest, unsigned);                             \
        va_end(rest);                                                       \
        by_open(path, (uint64_t)flags);                                     \
        return NEXT(name)(dir, path, flags, mode);                          \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* openat2 has no wrapper in the C library. Its struct begins with the flags. */
long syscall(long nr, ...)
{
    long a[6];
    va_list rest;
    va_start(rest, nr);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if (nr == SYS_openat2)
        by_open((const char *)a[1], *(const uint64_t *)a[2]);
    if (!real_syscall)
        real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}
