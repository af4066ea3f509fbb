/*
 * The least that running commands costs: posix_spawn `sh -c true` COUNT times, SLOTS at once.
 * Prints the nanoseconds it took.  usage: spawn_loop COUNT SLOTS
 */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int argc, char **argv)
{
    char *command[] = {"/bin/sh", "-c", "true", NULL};
    int count = argc == 3 ? atoi(argv[1]) : 0;
    int slots = argc == 3 ? atoi(argv[2]) : 0;
    int running = 0, status = 0;
    posix_spawn_file_actions_t actions;

    if (count < 1 || slots < 1)
        return 2;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    long long begin = now_ns();
    for (int started = 0; started < count || running > 0;) {
        if (started < count && running < slots) {
            pid_t pid;
            if (posix_spawn(&pid, command[0], &actions, NULL, command, environ) != 0)
                return 1;
            started++;
            running++;
        } else {
            if (waitpid(-1, &status, 0) < 0 || status != 0)
                return 1;
            running--;
        }
    }
    printf("%lld\n", now_ns() - begin);
    return 0;
}
