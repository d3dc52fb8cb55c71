/*
 * A stand-in for cmogstored: what PROTOCOL.md section 6 says of its listeners,
 * its pidfile, .oldbin and CMOGSTORED_FD, and as much HTTP as the tests'
 * clients speak (GET, and PUT with Content-Length). Unlike the model it lets an
 * idle connection ask once more when it quits, so that no failure that a test
 * counts is its own.
 *
 * Options, as argv (--key=value, -d) or in the file that --config names
 * (key = value): docroot, pidfile, httplisten, httpgetlisten, mgmtlisten
 * (IPv4:PORT); --version. Any other is ignored.
 *
 * CMOG_NONBLOCK=1 in the environment: its listeners are O_NONBLOCK.
 * CMOG_FDS in the environment: this instead of the list that it would hand on.
 *
 * stderr: "listening on http 127.0.0.1:1", "ready with 1 workers", "upgrade:
 * pid 1 was started", so that a test may wait for them as for ours.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LISTENERS 16
#define HEAD 16384
/* How long an idle connection may ask once more while we quit. */
#define LAST_WORD_MS 1500

struct listener {
    char kind[12];
    struct sockaddr_in addr;
    int fd;
    pthread_t thread;
    _Atomic int gone;
};

static struct listener listeners[LISTENERS];
static int listener_count, is_nonblocking;
static char docroot[PATH_MAX], pidfile[PATH_MAX], oldbin[PATH_MAX + 8];
static _Atomic int quitting, conns;
static pid_t successor;

static void say(const char *format, ...)
{
    char line[512];
    int n = snprintf(line, sizeof line, "cmog[%d] ", getpid());
    va_list rest;
    va_start(rest, format);
    n += vsnprintf(line + n, sizeof line - (size_t)n - 1, format, rest);
    va_end(rest);
    line[n++] = '\n';
    if (write(2, line, (size_t)n) < 0)
        return;
}

#define DIE(...) (say(__VA_ARGS__), exit(1))

/* Options. */

static void option(const char *key, const char *value);

static void config(const char *path)
{
    char line[1024], key[64], value[900];
    FILE *file = fopen(path, "re");
    if (!file)
        DIE("config=%s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, file))
        if (sscanf(line, " %63[a-z-] = %899s", key, value) == 2)
            option(key, value);
    fclose(file);
}

static void option(const char *key, const char *value)
{
    if (!strcmp(key, "docroot"))
        snprintf(docroot, sizeof docroot, "%s", value);
    else if (!strcmp(key, "pidfile"))
        snprintf(pidfile, sizeof pidfile, "%s", value);
    else if (!strcmp(key, "config"))
        config(value);
    else if (!strcmp(key, "httplisten") || !strcmp(key, "httpgetlisten") || !strcmp(key, "mgmtlisten")) {
        struct listener *l = &listeners[listener_count++];
        char ip[64];
        int port;
        if (listener_count > LISTENERS || sscanf(value, "%63[0-9.]:%d", ip, &port) != 2)
            DIE("%s=%s", key, value);
        l->addr.sin_family = AF_INET;
        l->addr.sin_port = htons((uint16_t)port);
        inet_pton(AF_INET, ip, &l->addr.sin_addr);
        l->fd = -1;
        strcpy(l->kind, *key == 'm' ? "mgmt" : strstr(key, "get") ? "http-get" : "http");
    }
}

static void options(char **argv)
{
    for (argv++; *argv; argv++) {
        char key[64];
        char *value = strchr(*argv, '=');
        if (value && sscanf(*argv, "--%63[a-z-]", key) == 1)
            option(key, value + 1);
    }
}

/* Listeners: inherited by bound address, or our own. */

static void inherit(void)
{
    char *list = getenv("CMOGSTORED_FD");
    for (char *at = list; at && *at;) {
        errno = 0;
        long fd = strtol(at, &at, 10);
        struct sockaddr_in addr;
        socklen_t len = sizeof addr;
        if (*at && *at != ',')
            DIE("CMOGSTORED_FD contained invalid byte: %d", *at);
        at += *at == ',';
        if (getsockname((int)fd, (struct sockaddr *)&addr, &len) < 0)
            DIE("getsockname(fd=%ld) failed: %s", fd, strerror(errno));
        struct listener *heir = NULL;
        for (int i = 0; i < listener_count && !heir; i++)
            if (listeners[i].fd < 0 && listeners[i].addr.sin_addr.s_addr == addr.sin_addr.s_addr &&
                listeners[i].addr.sin_port == addr.sin_port)
                heir = &listeners[i];
        if (!heir) {
            close((int)fd);
            continue;
        }
        heir->fd = (int)fd;
        fcntl((int)fd, F_SETFD, FD_CLOEXEC);
    }
    unsetenv("CMOGSTORED_FD");
}

static void bind_others(void)
{
    for (int i = 0; i < listener_count; i++) {
        struct listener *l = &listeners[i];
        socklen_t len = sizeof l->addr;
        int one = 1;
        const char *how = l->fd < 0 ? "" : ", inherited";
        if (l->fd < 0) {
            l->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
            if (bind(l->fd, (struct sockaddr *)&l->addr, len) < 0 || listen(l->fd, 1024) < 0)
                DIE("port %d: %s", ntohs(l->addr.sin_port), strerror(errno));
            if (is_nonblocking)
                fcntl(l->fd, F_SETFL, fcntl(l->fd, F_GETFL) | O_NONBLOCK);
        }
        getsockname(l->fd, (struct sockaddr *)&l->addr, &len);
        char ip[32];
        inet_ntop(AF_INET, &l->addr.sin_addr, ip, sizeof ip);
        if (*how)
            say("adopted %s %s:%d%s", l->kind, ip, ntohs(l->addr.sin_port), how);
        say("listening on %s %s:%d", l->kind, ip, ntohs(l->addr.sin_port));
    }
}

/* The pidfile: no lock, as in the model. */

static void write_pid(const char *path)
{
    if (!*path)
        return;
    char text[32] = "";
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || read(fd, text, sizeof text - 1) < 0)
        DIE("%s: %s", path, strerror(errno));
    pid_t pid = atoi(text);
    if (pid > 0 && pid != getpid() && pid != successor && kill(pid, 0) == 0)
        DIE("already running on PID: %d", pid);
    int n = snprintf(text, sizeof text, "%d\n", getpid());
    if (ftruncate(fd, 0) || pwrite(fd, text, (size_t)n, 0) != n)
        DIE("%s: %s", path, strerror(errno));
    close(fd);
}

/* HTTP. */

static void date(char *to, size_t size, time_t when)
{
    struct tm tm;
    gmtime_r(&when, &tm);
    strftime(to, size, "%a, %d %b %Y %H:%M:%S GMT", &tm);
}

static int send_all(int fd, const char *bytes, size_t n)
{
    while (n) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return 0;
        bytes += sent;
        n -= (size_t)sent;
    }
    return 1;
}

static int reply(int fd, const char *status, int keep, const struct stat *file, const char *body)
{
    char head[1024], now[64], modified[64];
    size_t len = file ? (size_t)file->st_size : 0;
    date(now, sizeof now, time(NULL));
    int n = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nStatus: %s\r\nDate: %s\r\n", status, status, now);
    if (file) {
        date(modified, sizeof modified, file->st_mtime);
        n += snprintf(head + n, sizeof head - (size_t)n, "Last-Modified: %s\r\n", modified);
    }
    n += snprintf(head + n, sizeof head - (size_t)n,
                  "Content-Length: %zu\r\nContent-Type: %s\r\n%sConnection: %s\r\n\r\n", len,
                  file ? "application/octet-stream" : "text/plain", file ? "Accept-Ranges: bytes\r\n" : "",
                  keep ? "keep-alive" : "close");
    return send_all(fd, head, (size_t)n) && (!file || send_all(fd, body, len));
}

static int get(int fd, const char *path, int keep)
{
    struct stat facts;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &facts) || !S_ISREG(facts.st_mode)) {
        if (file >= 0)
            close(file);
        return reply(fd, "404 Not Found", keep, NULL, NULL);
    }
    char *body = malloc((size_t)facts.st_size + 1);
    facts.st_size = read(file, body, (size_t)facts.st_size);
    close(file);
    int sent = reply(fd, "200 OK", keep, &facts, body);
    free(body);
    return sent;
}

/* `have` bytes of the body came with the head; the rest is in the socket. */
static int put(int fd, const char *path, size_t len, const char *have, size_t had, int keep)
{
    char temp[PATH_MAX + 1200], *body = malloc(len + 1);
    memcpy(body, have, had);
    while (had < len) {
        ssize_t n = recv(fd, body + had, len - had, 0);
        if (n <= 0) {
            free(body);
            return 0;
        }
        had += (size_t)n;
    }
    snprintf(temp, sizeof temp, "%s.%d.tmp", path, fd);
    int file = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int stored = file >= 0 && write(file, body, len) == (ssize_t)len;
    if (file >= 0)
        close(file);
    free(body);
    stored = stored && rename(temp, path) == 0;
    return reply(fd, stored ? "201 Created" : "500 Internal Server Error", keep, NULL, NULL);
}

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Waits for input of an idle connection: 0 when it shall end. */
static int wait_input(int fd)
{
    long last = 0;
    for (;;) {
        struct pollfd one = {fd, POLLIN, 0};
        if (poll(&one, 1, 20) != 0)
            return 1;
        if (quitting && !last)
            last = now_ms() + LAST_WORD_MS;
        if (last && now_ms() > last)
            return 0;
    }
}

static void *serve(void *arg)
{
    int fd = (int)(long)arg, goes_on = 1;
    char in[HEAD + 1];
    size_t have = 0;
    while (goes_on) {
        char *end;
        in[have] = 0;
        while (!(end = memmem(in, have, "\r\n\r\n", 4))) {
            if (have == HEAD || (!have && !wait_input(fd)))
                goto out;
            ssize_t n = recv(fd, in + have, HEAD - have, 0);
            if (n <= 0)
                goto out;
            have += (size_t)n;
            in[have] = 0;
        }
        *end = 0;
        char verb[16] = "", target[1024] = "", path[PATH_MAX + 1100];
        char *length = strcasestr(in, "\r\nContent-Length:"), *body = end + 4;
        size_t len = length ? strtoul(length + 17, NULL, 10) : 0;
        sscanf(in, "%15s %1023s", verb, target);
        snprintf(path, sizeof path, "%s%s", docroot, target);
        goes_on = !quitting && !strcasestr(in, "\r\nConnection: close");
        size_t rest = have - (size_t)(body - in), taken = rest < len ? rest : len;
        int sent = !strcmp(verb, "PUT")  ? put(fd, path, len, body, taken, goes_on)
                   : !strcmp(verb, "GET") ? get(fd, path, goes_on)
                                          : reply(fd, "405 Method Not Allowed", goes_on, NULL, NULL);
        goes_on = goes_on && sent;
        have = rest - taken;
        memmove(in, body + taken, have);
    }
out:
    /* what the client still sends must not turn the end into a reset */
    shutdown(fd, SHUT_WR);
    for (struct pollfd one = {fd, POLLIN, 0}; poll(&one, 1, 500) > 0;)
        if (recv(fd, in, HEAD, 0) <= 0)
            break;
    close(fd);
    conns--;
    return NULL;
}

static void *accept_all(void *arg)
{
    struct listener *l = arg;
    sigset_t urg;
    sigemptyset(&urg);
    sigaddset(&urg, SIGURG);
    pthread_sigmask(SIG_UNBLOCK, &urg, NULL);
    while (!quitting) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) {
            struct pollfd one = {l->fd, POLLIN, 0};
            if (errno == EAGAIN)
                poll(&one, 1, 50);
            continue;
        }
        pthread_t thread;
        conns++;
        if (pthread_create(&thread, NULL, serve, (void *)(long)fd)) {
            close(fd);
            conns--;
        } else {
            pthread_detach(thread);
        }
    }
    l->gone = 1;
    return NULL;
}

/* Signals. */

static void upgrade(char **argv)
{
    if (successor) {
        say("upgrade: pid %d is not done", successor);
        return;
    }
    unlink(pidfile);
    write_pid(oldbin);
    char list[256] = "CMOGSTORED_FD=", *given = getenv("CMOG_FDS");
    for (int i = 0; i < listener_count; i++)
        sprintf(list + strlen(list), "%s%d", i ? "," : "", listeners[i].fd);
    if (given)
        snprintf(list, sizeof list, "CMOGSTORED_FD=%s", given);
    pid_t pid = fork();
    if (pid == 0) {
        char *env[1024] = {list};
        int n = 1;
        for (char **e = environ; *e && n < 1023; e++)
            env[n++] = *e;
        sigset_t none;
        sigemptyset(&none);
        for (int i = 0; i < listener_count; i++)
            fcntl(listeners[i].fd, F_SETFD, 0);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execvpe(argv[0], argv, env);
        _exit(127);
    }
    successor = pid;
    say("upgrade: pid %d was started", pid);
}

static void reap(void)
{
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
        if (pid != successor)
            continue;
        say("upgrade: pid %d has ended; this server serves on", pid);
        write_pid(pidfile);
        unlink(oldbin);
        successor = 0;
    }
}

static void nothing(int signal_nr)
{
    (void)signal_nr;
}

/* Served to the end, and then the end. */
__attribute__((noreturn)) static void quit(void)
{
    quitting = 1;
    for (int i = 0; i < listener_count;) {
        if (listeners[i].gone) {
            i++;
            continue;
        }
        pthread_kill(listeners[i].thread, SIGURG);
        usleep(1000);
    }
    while (conns)
        usleep(1000);
    unlink(successor ? oldbin : pidfile);
    say("stopped");
    exit(0);
}

int main(int argc, char **argv)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    /* without SA_RESTART: accept4 must return */
    struct sigaction kick = {.sa_handler = nothing};
    sigaction(SIGURG, &kick, NULL);
    is_nonblocking = getenv("CMOG_NONBLOCK") != NULL;
    if (argc > 1 && !strcmp(argv[argc - 1], "--version")) {
        puts("cmogstored 1.8.1");
        return 0;
    }
    options(argv);
    snprintf(oldbin, sizeof oldbin, "%s.oldbin", pidfile);
    inherit();
    bind_others();
    write_pid(pidfile);
    for (int i = 0; i < listener_count; i++)
        if (pthread_create(&listeners[i].thread, NULL, accept_all, &listeners[i]))
            DIE("no thread");
    say("ready with 1 workers");
    for (;;) {
        int signal_nr;
        sigwait(&all, &signal_nr);
        switch (signal_nr) {
        case SIGQUIT:
        case SIGTERM:
        case SIGINT:
            quit();
        case SIGUSR2:
            upgrade(argv);
            break;
        case SIGCHLD:
            reap();
            break;
        default:
            break;
        }
    }
}
