/* SPDX-License-Identifier: Apache-2.0 */
/* What a load costs that waits for the one before it, by how much memory they go over. */
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#define LINE 64

static double now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e9 + now.tv_nsec;
}

/* Numbers that repeat: the same order each time. */
static size_t next_number(unsigned long long *state) {
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return *state >> 33;
}

/* Nanoseconds of each of so many loads; below zero if there is no memory. */
double load_ns(size_t bytes, size_t loads) {
    size_t lines = bytes / LINE, n;
    unsigned long long state = 1;
    double began, took = -1;
    size_t *order = malloc(lines * sizeof(*order));
    char *memory = aligned_alloc(LINE, lines * LINE);
    void *volatile *at;

    if (!order || !memory)
        goto out;
    for (n = 0; n < lines; n++)
        order[n] = n;
    for (n = lines - 1; n > 0; n--) {
        size_t other = next_number(&state) % (n + 1), line = order[n];

        order[n] = order[other];
        order[other] = line;
    }
    /* one circle through all lines */
    for (n = 0; n < lines; n++)
        *(void **)(memory + order[n] * LINE) = memory + order[(n + 1) % lines] * LINE;
    at = (void *volatile *)memory;
    for (n = 0; n < lines; n++)
        at = (void *volatile *)*at;
    began = now_ns();
    for (n = 0; n < loads; n++)
        at = (void *volatile *)*at;
    took = (now_ns() - began) / loads;
out:
    free(order);
    free(memory);
    return took;
}
