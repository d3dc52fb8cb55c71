/*
 * The init of one test: it starts a program, adopts and reaps whoever of its
 * descendants is orphaned, tells how each process ended, and kills what is left
 * when the test has gone. So a test can follow a service from one master to
 * the next, as an init would.
 *
 * keeper PROGRAM ARGV...   PROGRAM is looked up in PATH
 * stdout: "started PID", "PID exited CODE", "PID killed SIGNAL", a line each
 * stdin:  its end is the test's end
 * stderr: the program's
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

/* Takes leave of all who have ended; 0 when there is no child any more. */
static int reap(void)
{
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid == 0)
            return 1;
        if (pid < 0)
            return errno != ECHILD;
        if (WIFEXITED(status))
            dprintf(1, "%d exited %d\n", pid, WEXITSTATUS(status));
        else
            dprintf(1, "%d killed %d\n", pid, WTERMSIG(status));
    }
}

/* SIGKILL to all children; who is orphaned by that is the next round's. */
static void kill_children(void)
{
    char path[64], list[65536];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = read(fd, list, sizeof list - 1);
    close(fd);
    list[n > 0 ? n : 0] = 0;
    for (char *word = strtok(list, " "); word; word = strtok(NULL, " "))
        kill(atoi(word), SIGKILL);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    sigset_t child, before;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &before);
    signal(SIGPIPE, SIG_IGN);
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int events = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    pid_t pid = fork();
    if (pid < 0 || null < 0 || events < 0)
        return 2;
    if (pid == 0) {
        dup2(null, 0);
        dup2(null, 1);
        signal(SIGPIPE, SIG_DFL);
        sigprocmask(SIG_SETMASK, &before, NULL);
        execvp(argv[1], argv + 1);
        dprintf(2, "keeper: %s: %s\n", argv[1], strerror(errno));
        _exit(127);
    }
    dprintf(1, "started %d\n", pid);
    /* the end of the program's stderr is the test's to see */
    dup2(null, 2);
    for (;;) {
        struct pollfd both[2] = {{0, POLLIN, 0}, {events, POLLIN, 0}};
        poll(both, 2, -1);
        struct signalfd_siginfo info;
        while (read(events, &info, sizeof info) > 0)
            ;
        int some = reap();
        if (both[0].revents & (POLLIN | POLLHUP)) {
            while (some) {
                kill_children();
                usleep(1000);
                some = reap();
            }
            return 0;
        }
    }
}
