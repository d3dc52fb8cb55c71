/*
 * A disk that hangs, for one process tree: preloaded, it holds the calls that
 * touch one device for as long as a control file says so.
 *
 * HANG_BELOW    the device, an absolute path without symlinks
 * HANG_CONTROL  the control file, PAGE bytes, mapped: byte 0 is the mode,
 *                 '0' nothing is held
 *                 'o' whatever looks up a name: open, opendir, stat
 *                 'r' reading a file's content: read, pread, sendfile
 *                 'w' whatever changes the disk: opens that make a file,
 *                     write, fsync, link, rename, unlink, mkdir
 *                 'a' all of them, and statvfs
 *                 'm' what looks up a name in memory alone (RESOLVE_CACHED)
 *                 'z' nothing, but who reads from memory alone (RWF_NOWAIT) gets
 *                     0 bytes, as on Linux 5.9 and 5.10 at times
 *                 'v' nothing, but that is EINVAL, as before Linux 4.14
 *               the digits behind it are the milliseconds that one call is held;
 *               0 or none: until the mode changes or the file vanishes.
 *               At byte 64, two u32: calls held now, all that were held ever.
 *
 * A thread that is held is called "held:" and what its name was, so that
 * /proc/PID/task shows who is. Like a real disk, no signal but KILL ends it.
 *
 * fstat is left alone: a file that is open has its inode in memory. Nothing else
 * of the device is: who may not wait (RESOLVE_CACHED, RWF_NOWAIT) gets EAGAIN in
 * place of being held, but for 'm'.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define RESOLVE_CACHED_FLAG 0x20 /* linux/openat2.h, since 5.12 */

struct page {
    _Atomic char text[64];
    _Atomic uint32_t held, ever;
};

static struct page *page;
static char below[PATH_MAX], control[PATH_MAX];
static size_t below_len;
static long (*real_syscall)(long, ...);

__attribute__((constructor)) static void begin(void)
{
    const char *b = getenv("HANG_BELOW"), *c = getenv("HANG_CONTROL");
    real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (!b || !c || strlen(b) >= PATH_MAX || strlen(c) >= PATH_MAX)
        return;
    strcpy(below, b);
    strcpy(control, c);
    below_len = strlen(below);
    int fd = (int)real_syscall(SYS_openat, AT_FDCWD, control, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    real_syscall(SYS_close, fd);
    if (at != MAP_FAILED)
        page = at;
}

static char mode(void)
{
    return page ? atomic_load_explicit(&page->text[0], memory_order_acquire) : '0';
}

/* Is this kind of call held at present? */
static int is_held(char kind)
{
    char m = mode();
    return m == 'a' || m == kind;
}

static unsigned long limit_ms(void)
{
    unsigned long ms = 0;
    for (int i = 1; i < 12; i++) {
        char c = page->text[i];
        if (c < '0' || c > '9')
            break;
        ms = ms * 10 + (unsigned long)(c - '0');
    }
    return ms;
}

static unsigned long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (unsigned long)t.tv_sec * 1000 + (unsigned long)t.tv_nsec / 1000000;
}

/* Waits until the disk answers. */
static void hold(char kind)
{
    int saved = errno;
    char name[32] = "", shown[40];
    unsigned long limit = limit_ms(), began = now_ms();
    atomic_fetch_add(&page->held, 1);
    atomic_fetch_add(&page->ever, 1);
    prctl(PR_GET_NAME, name);
    snprintf(shown, sizeof shown, "held:%s", name);
    prctl(PR_SET_NAME, shown);
    for (unsigned turn = 0; is_held(kind); turn++) {
        struct timespec ms = {0, 1000000};
        if (limit && now_ms() - began >= limit)
            break;
        nanosleep(&ms, NULL);
        if (turn % 64 == 63 && real_syscall(SYS_faccessat, AT_FDCWD, control, F_OK) < 0)
            break;
    }
    prctl(PR_SET_NAME, name);
    atomic_fetch_sub(&page->held, 1);
    errno = saved;
}

static int is_below(const char *path)
{
    return !strncmp(path, below, below_len) && (path[below_len] == '/' || !path[below_len]);
}

/* Where a descriptor leads; 0 if nowhere on a disk. */
static int place_of(int fd, char *at)
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int saved = errno;
    long n = real_syscall(SYS_readlinkat, AT_FDCWD, link, at, (size_t)PATH_MAX - 1);
    errno = saved;
    if (n <= 0 || at[0] != '/')
        return 0;
    at[n] = 0;
    return 1;
}

static int fd_is_held(char kind, int fd)
{
    char at[PATH_MAX];
    return is_held(kind) && place_of(fd, at) && is_below(at);
}

static void by_fd(char kind, int fd)
{
    if (fd_is_held(kind, fd))
        hold(kind);
}

static int path_is_held(char kind, int dir, const char *path)
{
    char at[2 * PATH_MAX];
    if (!is_held(kind) || !path)
        return 0;
    if (path[0] == '/')
        return is_below(path);
    if (dir == AT_FDCWD) {
        if (real_syscall(SYS_getcwd, at, (size_t)PATH_MAX) <= 0)
            return 0;
    } else if (!place_of(dir, at)) {
        return 0;
    }
    size_t len = strlen(at);
    if (path[0] && strcmp(path, "."))
        snprintf(at + len, sizeof at - len, "/%s", path);
    return is_below(at);
}

static void by_path(char kind, int dir, const char *path)
{
    if (path_is_held(kind, dir, path))
        hold(kind);
}

/* An open looks up a name, and may make a file. */
static void by_open(int dir, const char *path, uint64_t flags)
{
    if (mode() == 'w') {
        if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)))
            by_path('w', dir, path);
    } else {
        by_path('o', dir, path);
    }
}

#define NEXT(name) ((__typeof__(&name))next(&at_##name, #name))
static void *next(void *_Atomic *slot, const char *name)
{
    void *at = atomic_load_explicit(slot, memory_order_relaxed);
    if (!at) {
        at = dlsym(RTLD_NEXT, name);
        atomic_store_explicit(slot, at, memory_order_relaxed);
    }
    return at;
}

/* A call `name` that asks `before` first. */
#define HELD(type, name, params, args, before) \
    static void *_Atomic at_##name;            \
    type name params                           \
    {                                          \
        before;                                \
        return NEXT(name) args;                \
    }

static unsigned open_mode(int flags, va_list rest)
{
    return flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(rest, unsigned) : 0;
}

#define HELD_OPEN(name)                                              \
    static void *_Atomic at_##name;                                  \
    int name(const char *path, int flags, ...)                       \
    {                                                                \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        unsigned mode = open_mode(flags, rest);                      \
        va_end(rest);                                                \
        by_open(AT_FDCWD, path, (uint64_t)flags);                    \
        return NEXT(name)(path, flags, mode);                        \
    }
#define HELD_OPENAT(name)                                            \
    static void *_Atomic at_##name;                                  \
    int name(int dir, const char *path, int flags, ...)              \
    {                                                                \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        unsigned mode = open_mode(flags, rest);                      \
        va_end(rest);                                                \
        by_open(dir, path, (uint64_t)flags);                         \
        return NEXT(name)(dir, path, flags, mode);                   \
    }
HELD_OPEN(open)
HELD_OPEN(open64)
HELD_OPENAT(openat)
HELD_OPENAT(openat64)

HELD(DIR *, opendir, (const char *path), (path), by_path('o', AT_FDCWD, path))
HELD(struct dirent64 *, readdir64, (DIR *dir), (dir), by_fd('r', dirfd(dir)))

HELD(ssize_t, read, (int fd, void *to, size_t n), (fd, to, n), by_fd('r', fd))
HELD(ssize_t, pread, (int fd, void *to, size_t n, off_t o), (fd, to, n, o), by_fd('r', fd))
HELD(ssize_t, pread64, (int fd, void *to, size_t n, off64_t o), (fd, to, n, o), by_fd('r', fd))
#define HELD_READV(name, off)                                                          \
    static void *_Atomic at_##name;                                                    \
    ssize_t name(int fd, const struct iovec *v, int n, off o, int flags)               \
    {                                                                                  \
        if (flags & RWF_NOWAIT && fd_is_held('r', fd)) {                               \
            errno = EAGAIN;                                                            \
            return -1;                                                                 \
        }                                                                              \
        if (flags & RWF_NOWAIT && fd_is_held('z', fd))                                 \
            return 0;                                                                  \
        if (flags & RWF_NOWAIT && fd_is_held('v', fd)) {                               \
            errno = EINVAL;                                                            \
            return -1;                                                                 \
        }                                                                              \
        by_fd('r', fd);                                                                \
        return NEXT(name)(fd, v, n, o, flags);                                         \
    }
HELD_READV(preadv2, off_t)
HELD_READV(preadv64v2, off64_t)
HELD(ssize_t, sendfile, (int to, int fd, off_t *o, size_t n), (to, fd, o, n), by_fd('r', fd))
HELD(ssize_t, sendfile64, (int to, int fd, off64_t *o, size_t n), (to, fd, o, n), by_fd('r', fd))

HELD(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n), by_fd('w', fd))
HELD(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), by_fd('w', fd))
HELD(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), by_fd('w', fd))
HELD(int, fallocate64, (int fd, int m, off64_t o, off64_t n), (fd, m, o, n), by_fd('w', fd))
HELD(int, fsync, (int fd), (fd), by_fd('w', fd))
HELD(int, fdatasync, (int fd), (fd), by_fd('w', fd))
HELD(int, syncfs, (int fd), (fd), by_fd('w', fd))
HELD(int, fchmod, (int fd, mode_t m), (fd, m), by_fd('w', fd))

HELD(int, linkat, (int a, const char *p, int b, const char *q, int f), (a, p, b, q, f), by_path('w', b, q))
HELD(int, rename, (const char *p, const char *q), (p, q), by_path('w', AT_FDCWD, q))
HELD(int, renameat, (int a, const char *p, int b, const char *q), (a, p, b, q), by_path('w', b, q))
HELD(int, unlink, (const char *p), (p), by_path('w', AT_FDCWD, p))
HELD(int, unlinkat, (int d, const char *p, int f), (d, p, f), by_path('w', d, p))
HELD(int, mkdir, (const char *p, mode_t m), (p, m), by_path('w', AT_FDCWD, p))
HELD(int, mkdirat, (int d, const char *p, mode_t m), (d, p, m), by_path('w', d, p))

HELD(int, stat, (const char *p, struct stat *s), (p, s), by_path('o', AT_FDCWD, p))
HELD(int, stat64, (const char *p, struct stat64 *s), (p, s), by_path('o', AT_FDCWD, p))
HELD(int, lstat, (const char *p, struct stat *s), (p, s), by_path('o', AT_FDCWD, p))
HELD(int, lstat64, (const char *p, struct stat64 *s), (p, s), by_path('o', AT_FDCWD, p))
HELD(int, fstatat, (int d, const char *p, struct stat *s, int f), (d, p, s, f),
     if (*p) by_path('o', d, p))
HELD(int, fstatat64, (int d, const char *p, struct stat64 *s, int f), (d, p, s, f),
     if (*p) by_path('o', d, p))
HELD(int, statx, (int d, const char *p, int f, unsigned m, struct statx *s), (d, p, f, m, s),
     if (p && *p) by_path('o', d, p))

/* What asks the filesystem itself: held with all else only ('a'). */
HELD(int, statvfs, (const char *p, struct statvfs *s), (p, s), by_path('s', AT_FDCWD, p))
HELD(int, statvfs64, (const char *p, struct statvfs64 *s), (p, s), by_path('s', AT_FDCWD, p))
HELD(int, fstatvfs, (int fd, struct statvfs *s), (fd, s), by_fd('s', fd))
HELD(int, fstatvfs64, (int fd, struct statvfs64 *s), (fd, s), by_fd('s', fd))
HELD(int, statfs, (const char *p, struct statfs *s), (p, s), by_path('s', AT_FDCWD, p))
HELD(int, fstatfs, (int fd, struct statfs *s), (fd, s), by_fd('s', fd))

/* openat2 has no wrapper in the C library. Its struct: flags, mode, resolve. */
long syscall(long nr, ...)
{
    long a[6];
    va_list rest;
    va_start(rest, nr);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if (nr == SYS_openat2) {
        const uint64_t *how = (const uint64_t *)a[2];
        if (how[2] & RESOLVE_CACHED_FLAG && path_is_held('o', (int)a[0], (const char *)a[1])) {
            errno = EAGAIN;
            return -1;
        }
        if (how[2] & RESOLVE_CACHED_FLAG)
            by_path('m', (int)a[0], (const char *)a[1]);
        else
            by_open((int)a[0], (const char *)a[1], how[0]);
    }
    if (!real_syscall)
        real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}
