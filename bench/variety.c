/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that are started for one connection: variety.py compiles this and calls it. */
#define _GNU_SOURCE
#include <errno.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

static long long now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Nanoseconds from fork to the end that was waited for, or -errno; a failure of its own is EPROTO.
 */
long long run_once(const char *program, char *const *argv) {
    long long begin = now();
    int status, err;
    pid_t pid;

    err = posix_spawn(&pid, program, NULL, NULL, argv, NULL);
    if (err)
        return -err;
    if (waitpid(pid, &status, 0) != pid)
        return -errno;
    return status ? -EPROTO : now() - begin;
}
