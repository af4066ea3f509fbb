/*
 * queuectl-executor: become an account, then become its job. The runner spawns it as root, with an
 * empty environment and nothing on the command line; it is what switch.py does after a fork, without
 * the fork: this program is small where the runner is large.
 *
 *   0 1 2   the job's input and outputs
 *   3       the order (a memfd), in this machine's byte order:
 *           struct order; groups u32 each; texts, each ended by a zero byte: cwd, each of the files
 *           to try, each of argv, each of the environment; the script, to the end
 *   4       the report: closed without a word by a successful execve(2), else stage and errno
 *
 * With a script there are no files to try, and argv is what follows its path.
 * Until the ids are changed nothing that the submitter chose is touched; after it nothing is root's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U /* Linux 6.3 */
#endif

enum { ORDER_FD = 3, SCRIPT_FD = 3, REPORT_FD = 4 };
enum stage { CWD = 1, EXEC = 2, SCRIPT = 3, SPAWN = 4, SWITCH = 8 }; /* as in messages.py */

struct order {
    uint64_t nofile_soft, nofile_hard;
    uint32_t uid, gid, umask, script_bytes;
    uint32_t group_count, file_count, argv_count, env_count;
};

static char shell[] = "/bin/sh";
static char script_path[] = "/proc/self/fd/3";

static _Noreturn void fail(enum stage stage, int number) {
    uint32_t report[2] = {stage, (uint32_t)number};
    if (write(REPORT_FD, report, sizeof report) != sizeof report) {
        /* Nobody is there to hear it. */
    }
    /* By a signal: no exit code of ours must be taken for one of the job. */
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static int is_shortage(int number) {
    return number == EAGAIN || number == EMFILE || number == ENFILE || number == ENOMEM ||
           number == ENOSPC || number == EDQUOT;
}

static _Noreturn void fail_exec(enum stage stage, int number) {
    fail(is_shortage(number) ? SPAWN : stage, number);
}

static void leave_runner(const struct order *order) {
    struct rlimit limit = {order->nofile_soft, order->nofile_hard};
    /* What the runner itself was given without close-on-exec. */
    syscall(SYS_close_range, REPORT_FD + 1, ~0U, 0);
    if (setrlimit(RLIMIT_NOFILE, &limit) || setpriority(PRIO_PROCESS, 0, 0))
        fail(SPAWN, errno);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1)
        fail(SPAWN, errno);
    close(fd);
    umask(order->umask);
}

static int compare(const void *a, const void *b) {
    gid_t x = *(const gid_t *)a, y = *(const gid_t *)b;
    return x < y ? -1 : x > y;
}

static void become(const struct order *order, const gid_t *groups) {
    uid_t uid = order->uid, ruid, euid, suid;
    gid_t gid = order->gid, rgid, egid, sgid;
    int count = (int)order->group_count;
    if (setgroups(order->group_count, groups) || setresgid(gid, gid, gid) ||
        setresuid(uid, uid, uid))
        fail(SWITCH, errno);
    if (getresuid(&ruid, &euid, &suid) || getresgid(&rgid, &egid, &sgid) || ruid != uid ||
        euid != uid || suid != uid || rgid != gid || egid != gid || sgid != gid)
        fail(SWITCH, EPERM);
    gid_t *held = calloc((size_t)count + 1, sizeof *held);
    if (held == NULL)
        fail(SPAWN, ENOMEM);
    if (getgroups(count, held) != count)
        fail(SWITCH, EPERM);
    qsort(held, (size_t)count, sizeof *held, compare);
    if (memcmp(held, groups, (size_t)count * sizeof *held) != 0)
        fail(SWITCH, EPERM);
    free(held);
    if (uid != 0 && (setuid(0) == 0 || errno != EPERM))
        fail(SWITCH, EPERM);
}

/* Execute a file; return the errno. A text without "#!" is the shell's, as with execvp(3). */
static int try(char *file, char **argv, char **env) {
    execve(file, argv, env);
    if (errno == ENOEXEC) {
        /* There is room for one more in front of argv: see main. */
        char *name = argv[0];
        argv[-1] = shell;
        argv[0] = file;
        execve(shell, argv - 1, env);
        argv[0] = name;
    }
    return errno;
}

static _Noreturn void execute_file(char **files, uint32_t count, char **argv, char **env) {
    int reason = 0;
    struct stat found;
    /* One file is a path: not asked first whether it can be executed, it fails by its own reason. */
    if (count == 1 && strchr(argv[0], '/'))
        fail_exec(EXEC, try(files[0], argv, env));
    for (uint32_t i = 0; i < count; i++) {
        if (access(files[i], X_OK))
            continue;
        reason = try(files[i], argv, env);
        if (reason != ENOENT && reason != ENOTDIR && reason != EACCES && reason != ESTALE &&
            reason != ENODEV && reason != ETIMEDOUT)
            fail_exec(EXEC, reason);
    }
    /* As with execvp(3): a file that may not be executed is a better reason than none. */
    for (uint32_t i = 0; i < count && reason == 0; i++)
        if (lstat(files[i], &found) == 0)
            reason = EACCES;
    fail_exec(EXEC, reason ? reason : ENOENT);
}

static _Noreturn void execute_script(const char *script, size_t size, char **argv, char **env) {
    int fd = memfd_create("script", MFD_EXEC);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("script", 0); /* Before Linux 6.3 every memfd may be executed. */
    if (fd < 0)
        fail_exec(SCRIPT, errno);
    for (size_t done = 0; done < size;) {
        ssize_t part = pwrite(fd, script + done, size - done, (off_t)done);
        if (part < 0)
            fail_exec(SCRIPT, errno);
        done += (size_t)part;
    }
    if (fd != SCRIPT_FD)
        fail(SPAWN, EPROTO);
    /* There is room for two more in front of argv: see main. */
    argv[-1] = script_path;
    argv[-2] = shell;
    int is_interpreted = size >= 2 && memcmp(script, "#!", 2) == 0;
    execve(is_interpreted ? script_path : shell, is_interpreted ? argv - 1 : argv - 2, env);
    fail_exec(SCRIPT, errno);
}

/* Point at `count` texts and end the list. */
static char **point(char **list, uint32_t count, char **text) {
    for (uint32_t i = 0; i < count; i++) {
        list[i] = *text;
        *text += strlen(*text) + 1;
    }
    list[count] = NULL;
    return list;
}

int main(void) {
    struct stat found;
    if (fcntl(REPORT_FD, F_SETFD, FD_CLOEXEC) || fstat(ORDER_FD, &found))
        fail(SPAWN, EPROTO);
    char *data = mmap(NULL, (size_t)found.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, ORDER_FD, 0);
    if (data == MAP_FAILED)
        fail(SPAWN, errno);
    close(ORDER_FD);
    const struct order *order = (const struct order *)data;
    const gid_t *groups = (const gid_t *)(order + 1);
    char *text = (char *)(groups + order->group_count);
    char *cwd = text;
    text += strlen(cwd) + 1;
    size_t pointers = (size_t)order->file_count + order->argv_count + order->env_count + 5;
    char **lists = calloc(pointers, sizeof *lists);
    if (lists == NULL)
        fail(SPAWN, ENOMEM);
    char **files = point(lists, order->file_count, &text);
    char **argv = point(files + order->file_count + 3, order->argv_count, &text);
    char **env = point(argv + order->argv_count + 1, order->env_count, &text);

    leave_runner(order);
    become(order, groups);
    if (chdir(cwd))
        fail(CWD, errno);
    if (order->script_bytes)
        execute_script(text, order->script_bytes, argv, env);
    execute_file(files, order->file_count, argv, env);
}
