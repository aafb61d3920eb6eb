// SPDX-License-Identifier: Apache-2.0
// For LD_PRELOAD: counts the bpf(2) calls of a process, and lets one of them, or all that load
// programs of one type, fail without reaching the kernel.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/syscall.h>

// Shared with whoever starts the process: see harness/failing.py.
struct plan {
    long at;           // the number of the call that fails, from 1; 0: none
    long error;        // how
    long command;      // only calls of this command count; -1: all
    long program_type; // all that load such programs fail; -1: by their number alone
    long calls;        // so many were there
};

static struct plan *plan;

void fail_by(struct plan *wanted) { plan = wanted; }

static int is_due(int command, const union bpf_attr *attributes) {
    if (!plan)
        return 0;
    if (command == BPF_PROG_LOAD && (long)attributes->prog_type == plan->program_type)
        return 1;
    if (plan->command >= 0 && plan->command != command)
        return 0;
    return __atomic_add_fetch(&plan->calls, 1, __ATOMIC_RELAXED) == plan->at;
}

// libbpf makes its calls by this function of libc.
long syscall(long number, ...) {
    static long (*next)(long, ...);
    long a[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (number == SYS_bpf && is_due((int)a[0], (void *)a[1])) {
        errno = (int)plan->error;
        return -1;
    }
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "syscall");
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
