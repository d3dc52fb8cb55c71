/*
 * Devices whose open() takes its time, for one process tree: preloaded, it
 * delays whatever opens a name below one of them.
 *
 * SLOW_OPEN   "dev9=20000,dev8=5000": device and microseconds
 *
 * It is a disk that never has an inode in memory: each open waits, and one that
 * may not wait (openat2 with RESOLVE_CACHED) always fails with EAGAIN, whatever
 * was opened before. So a server that asks first and one that does not see the
 * same disk, and the clients go round more files than a cache of descriptors
 * holds. A device is known by its name as a part of the path, or of where the
 * directory leads that the path is relative to.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DEVICES 8
#define RESOLVE_CACHED_FLAG 0x20 /* linux/openat2.h, since 5.12 */
#define PATH_ROOM 4096

static struct {
    char name[32]; /* with a slash behind it */
    size_t len;
    long us;
} devices[DEVICES];
static int device_count;
static long (*real_syscall)(long, ...);
static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);

/* Other libraries may open files before ours has begun. */
static void find_real(void)
{
    if (real_openat)
        return;
    real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    real_open = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    real_openat = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64");
}

__attribute__((constructor)) static void begin(void)
{
    const char *at = getenv("SLOW_OPEN");
    find_real();
    while (at && *at && device_count < DEVICES) {
        if (sscanf(at, "%30[^=]=%ld", devices[device_count].name, &devices[device_count].us) == 2) {
            strcat(devices[device_count].name, "/");
            devices[device_count].len = strlen(devices[device_count].name);
            device_count++;
        }
        at = strchr(at, ',');
        if (at)
            at++;
    }
}

/* Microseconds that an open of this path takes longer; 0 elsewhere. */
static long delay_of(const char *path)
{
    for (int i = 0; i < device_count; i++)
        for (const char *at = path; (at = strstr(at, devices[i].name)); at++)
            if (at == path || at[-1] == '/')
                return devices[i].us;
    return 0;
}

static long delay_at(int dir, const char *path)
{
    char link[40], where[PATH_ROOM + 2];
    int saved = errno;
    if (!path || !device_count)
        return 0;
    long us = delay_of(path);
    /* a path that begins at the docroot names its device itself */
    if (us || path[0] == '/' || dir == AT_FDCWD || !strncmp(path, "dev", 3))
        return us;
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t n = readlink(link, where, PATH_ROOM);
    errno = saved;
    if (n <= 0)
        return 0;
    where[n] = '/';
    where[n + 1] = 0;
    return delay_of(where);
}

static void wait_us(long us)
{
    struct timespec left = {us / 1000000, us % 1000000 * 1000};
    int saved = errno;
    while (us && nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
    errno = saved;
}

static unsigned mode_of(int flags, va_list rest)
{
    return flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(rest, unsigned) : 0;
}

/* On 64 bits open is open64. The last two are what fortified programs call. */
#define SLOW_OPEN(name)                                    \
    int name(const char *path, int flags, ...)             \
    {                                                      \
        va_list rest;                                      \
        va_start(rest, flags);                             \
        unsigned mode = mode_of(flags, rest);              \
        va_end(rest);                                      \
        find_real();                                       \
        wait_us(delay_at(AT_FDCWD, path));                 \
        return real_open(path, flags, mode);               \
    }
#define SLOW_OPENAT(name)                                  \
    int name(int dir, const char *path, int flags, ...)    \
    {                                                      \
        va_list rest;                                      \
        va_start(rest, flags);                             \
        unsigned mode = mode_of(flags, rest);              \
        va_end(rest);                                      \
        find_real();                                       \
        wait_us(delay_at(dir, path));                      \
        return real_openat(dir, path, flags, mode);        \
    }
SLOW_OPEN(open)
SLOW_OPEN(open64)
SLOW_OPENAT(openat)
SLOW_OPENAT(openat64)

int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open(path, flags); }
int __openat_2(int dir, const char *path, int flags) { return openat(dir, path, flags); }
int __openat64_2(int dir, const char *path, int flags) { return openat(dir, path, flags); }

/* openat2 has no wrapper in the C library. Its struct: flags, mode, resolve. */
long syscall(long nr, ...)
{
    long a[6];
    va_list rest;
    va_start(rest, nr);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    find_real();
    if (nr == SYS_openat2) {
        long us = delay_at((int)a[0], (const char *)a[1]);
        if (us && ((const uint64_t *)a[2])[2] & RESOLVE_CACHED_FLAG) {
            errno = EAGAIN;
            return -1;
        }
        wait_us(us);
    }
    return real_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}
