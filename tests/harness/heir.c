/*
 * A successor that speaks the handshake of an upgrade as it is told to, and
 * serves nobody.
 *
 * heir SCRIPT ARGV...   the rest is what the old master says to its program
 *
 * Asked for --version it says that it is ours.
 *
 * SCRIPT is steps with ';' between them:
 *   say TEXT    a message to the old master
 *   hear        waits for a message of the old master's; its end ends us, with 0
 *   pid         writes our pid into the pidfile that we were given
 *   shut        closes the handshake
 *   touch PATH  makes a file, for the test to see
 *   exit CODE
 *   hang        waits for ever; only SIGKILL ends it
 *
 * What it is given: RMOGSTORED_UPGRADE=1:HANDSHAKE_FD:PIDFILE_FD
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const char *env = getenv("RMOGSTORED_UPGRADE");
    if (argc > 1 && !strcmp(argv[argc - 1], "--version")) {
        puts("rmogstored 0.0.0");
        return 0;
    }
    int version, handshake, pidfile = -1;
    if (argc < 2 || !env || sscanf(env, "%d:%d:%d", &version, &handshake, &pidfile) < 2) {
        dprintf(2, "heir: RMOGSTORED_UPGRADE is %s\n", env ? env : "missing");
        return 2;
    }
    for (int signal_nr = 1; signal_nr < 32; signal_nr++)
        signal(signal_nr, SIG_IGN);
    for (char *step = strtok(argv[1], ";"); step; step = strtok(NULL, ";")) {
        char text[256];
        if (!strncmp(step, "say ", 4)) {
            if (send(handshake, step + 4, strlen(step + 4), 0) < 0)
                dprintf(2, "heir: say: %s\n", strerror(errno));
        } else if (!strcmp(step, "hear")) {
            /* the old one's end may not block, and so ours may not */
            struct pollfd one = {handshake, POLLIN, 0};
            while (poll(&one, 1, -1) < 0)
                ;
            ssize_t n = recv(handshake, text, sizeof text - 1, 0);
            if (n <= 0) {
                dprintf(2, "heir: the old master has gone\n");
                return 0;
            }
            text[n] = 0;
            dprintf(2, "heir: heard %s\n", text);
        } else if (!strcmp(step, "pid")) {
            int n = snprintf(text, sizeof text, "%d\n", getpid());
            if (ftruncate(pidfile, 0) || pwrite(pidfile, text, (size_t)n, 0) != n)
                dprintf(2, "heir: pidfile: %s\n", strerror(errno));
        } else if (!strcmp(step, "shut")) {
            close(handshake);
        } else if (!strncmp(step, "touch ", 6)) {
            close(open(step + 6, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
        } else if (!strncmp(step, "exit ", 5)) {
            return atoi(step + 5);
        } else if (!strcmp(step, "hang")) {
            for (;;)
                pause();
        } else {
            dprintf(2, "heir: no such step: %s\n", step);
            return 2;
        }
    }
    return 0;
}
