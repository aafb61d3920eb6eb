// SPDX-License-Identifier: Apache-2.0
// step PID MAP...: stops a process after each instruction that changes one of these mapped BPF
// arrays, and after each system call. It begins and ends where the process raises SIGSTOP, which
// then does not stop it.
//
// On stdin: "wait", for the next SIGSTOP; "step", to the next event before the one after; "go", on
// from there, unwatched. On stdout: "ready" at first, then what came of it: "stopped" for a
// SIGSTOP, "store", "call NUMBER FIRST WORD" (of a system call: its first argument, and the 32-bit
// word at its second one, or -1), "going", or "ended" when the process is no more.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAPS_MAX 16

#if defined(__x86_64__)
#define SYSCALL_CODE 0x050f
#define SYSCALL_MASK 0xffff
#elif defined(__aarch64__)
#define SYSCALL_CODE 0xd4000001
#define SYSCALL_MASK 0xffffffff
#else
#error "which instruction is a system call here?"
#endif

struct table {
    const char *now;
    char *seen;
    size_t size;
};

static struct table tables[MAPS_MAX];
static int table_count;
static pid_t traced;

static void fail(const char *what) {
    fprintf(stderr, "step: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long bpf(int command, union bpf_attr *attr) {
    return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static void open_table(const char *pin) {
    union bpf_attr attr = {.pathname = (uintptr_t)pin};
    struct bpf_map_info info = {0};
    long fd = bpf(BPF_OBJ_GET, &attr);
    if (fd < 0)
        fail(pin);
    memset(&attr, 0, sizeof(attr));
    attr.info.bpf_fd = fd;
    attr.info.info_len = sizeof(info);
    attr.info.info = (uintptr_t)&info;
    if (bpf(BPF_OBJ_GET_INFO_BY_FD, &attr))
        fail(pin);
    struct table *t = &tables[table_count++];
    t->size = (size_t)((info.value_size + 7) / 8 * 8) * info.max_entries;
    t->now = mmap(NULL, t->size, PROT_READ, MAP_SHARED, (int)fd, 0);
    t->seen = malloc(t->size);
    if (t->now == MAP_FAILED || !t->seen)
        fail(pin);
    memcpy(t->seen, t->now, t->size);
}

static bool have_changed(void) {
    bool changed = false;
    for (int i = 0; i < table_count; i++) {
        struct table *t = &tables[i];
        if (!memcmp(t->seen, t->now, t->size))
            continue;
        memcpy(t->seen, t->now, t->size);
        changed = true;
    }
    return changed;
}

struct call {
    bool is_next;
    unsigned long number, first, second;
};

// Reading the code costs a system call, so each place is looked at once.
static bool is_call(unsigned long pc) {
    static struct {
        unsigned long pc;
        bool is_call;
    } seen[1 << 16];
    unsigned long at = (pc ^ pc >> 16) % (sizeof(seen) / sizeof(seen[0]));
    if (seen[at].pc != pc) {
        errno = 0;
        long code = ptrace(PTRACE_PEEKTEXT, traced, pc, NULL);
        seen[at].pc = pc;
        seen[at].is_call = !errno && (code & SYSCALL_MASK) == SYSCALL_CODE;
    }
    return seen[at].is_call;
}

// `entered`: it stands in the call, not before it.
static struct call next_call(bool entered) {
    struct user_regs_struct regs;
    struct iovec all = {&regs, sizeof(regs)};
    struct call call = {0};
    if (ptrace(PTRACE_GETREGSET, traced, NT_PRSTATUS, &all))
        return call;
#if defined(__x86_64__)
    call.is_next = entered || is_call(regs.rip);
    call.number = entered ? regs.orig_rax : regs.rax;
    call.first = regs.rdi, call.second = regs.rsi;
#elif defined(__aarch64__)
    call.is_next = entered || is_call(regs.pc);
    call.number = regs.regs[8], call.first = regs.regs[0], call.second = regs.regs[1];
#endif
    return call;
}

static long word_at(unsigned long address) {
    errno = 0;
    long word = ptrace(PTRACE_PEEKDATA, traced, address, NULL);
    return errno ? -1 : (long)(word & 0xffffffff);
}

// To the next stop that this one instruction, or a signal, makes; false at SIGSTOP, which it tells.
static bool wait_for_stop(int *signal) {
    int status;
    if (waitpid(traced, &status, __WALL) != traced || !WIFSTOPPED(status)) {
        puts("ended");
        exit(0);
    }
    *signal = status >> 16 ? 0 : WSTOPSIG(status);
    if (*signal == SIGSTOP) {
        have_changed();
        puts("stopped");
        return false;
    }
    return true;
}

static void resume(int how, int signal) {
    if (ptrace(how, traced, NULL, (void *)(uintptr_t)signal)) {
        puts("ended");
        exit(0);
    }
}

static void wait_for_sigstop(void) {
    for (int signal; wait_for_stop(&signal);)
        resume(PTRACE_CONT, signal == SIGTRAP ? 0 : signal);
}

// False at SIGSTOP.
static bool go_to(int how) {
    for (int signal = 0; signal != SIGTRAP;) {
        resume(how, signal);
        if (!wait_for_stop(&signal))
            return false;
    }
    return true;
}

static void tell(struct call call, long word) {
    have_changed();
    printf("call %lu %lu %ld\n", call.number, call.first, word);
}

// Without mapped tables all that it does to them is calls.
static void step_by_calls(void) {
    if (!go_to(PTRACE_SYSCALL))
        return;
    struct call call = next_call(true);
    long word = word_at(call.second);
    if (go_to(PTRACE_SYSCALL))
        tell(call, word);
}

static void step(void) {
    for (;;) {
        struct call call = next_call(false);
        long word = call.is_next ? word_at(call.second) : -1;
        if (!go_to(PTRACE_SINGLESTEP))
            return;
        if (call.is_next) {
            tell(call, word);
            return;
        }
        if (have_changed()) {
            puts("store");
            return;
        }
    }
}

// Whether it stands still or runs.
static void let_go(void) {
    if (!ptrace(PTRACE_DETACH, traced, NULL, NULL) || ptrace(PTRACE_INTERRUPT, traced, NULL, NULL))
        return;
    if (waitpid(traced, NULL, __WALL) == traced)
        ptrace(PTRACE_DETACH, traced, NULL, NULL);
}

int main(int argc, char **argv) {
    if (argc < 2 || argc - 2 > MAPS_MAX)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    traced = atoi(argv[1]);
    for (int i = 2; i < argc; i++)
        open_table(argv[i]);
    if (ptrace(PTRACE_SEIZE, traced, NULL, (void *)PTRACE_O_EXITKILL))
        fail("seize");
    cpu_set_t one; // for both: it is always the other's turn
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof(one), &one);
    sched_setaffinity(traced, sizeof(one), &one);
    puts("ready");
    for (char line[16]; fgets(line, sizeof(line), stdin);) {
        if (line[0] == 's') {
            table_count ? step() : step_by_calls();
        } else if (line[0] == 'w') {
            wait_for_sigstop();
        } else {
            resume(PTRACE_CONT, 0);
            puts("going");
        }
    }
    let_go();
    return 0;
}
