/* SPDX-License-Identifier: Apache-2.0 */
/* What all kinds of traffic need: whom they call, for how long, and sockets. */
#ifndef BENCH_TRAFFIC_H
#define BENCH_TRAFFIC_H

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 16

struct traffic {
    const struct sockaddr_in *to; /* gone round */
    unsigned int targets;
    unsigned int next;
    int server; /* at all backends: a listener that does not block, or a datagram socket */
    long long nanoseconds;
    long long took;
};

static long long now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Repeats batch() for as long as is wanted. */
static long long repeat(struct traffic *t, int (*batch)(struct traffic *, int *), int *fds) {
    long long begin = now(), operations = 0;

    do {
        int done = batch(t, fds);

        if (done < 0)
            return done;
        operations += done;
        t->took = now() - begin;
    } while (t->took < t->nanoseconds);
    return operations;
}

static const void *target(struct traffic *t) { return &t->to[t->next++ % t->targets]; }

static int made(int type) {
    const struct timeval patience = {.tv_sec = 2};
    const struct linger reset = {.l_onoff = 1}; /* no TIME_WAIT fills the ports */
    int fd = socket(AF_INET, type, 0);

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (type == SOCK_STREAM)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    return fd;
}

static int connected(struct traffic *t, int type) {
    int fd = made(type);

    if (fd >= 0 && connect(fd, target(t), sizeof(*t->to))) {
        int err = -errno;

        close(fd);
        return err;
    }
    return fd;
}

static int close_all(int *fds, int count, int result) {
    while (count--)
        close(fds[count]);
    return result;
}

static long long repeat_and_close(struct traffic *t, int (*batch)(struct traffic *, int *),
                                  int *fds, int count) {
    long long operations = repeat(t, batch, fds);

    close_all(fds, count, 0);
    return operations;
}

/* So many connected sockets; all or none. */
static int connect_all(struct traffic *t, int type, int *fds) {
    for (int n = 0; n < BATCH; n++)
        if ((fds[n] = connected(t, type)) < 0)
            return close_all(fds, n, fds[n]);
    return 0;
}

static int accepted(int listener) {
    long long begin = now();
    int fd;

    while ((fd = accept4(listener, NULL, NULL, 0)) < 0)
        if (errno != EAGAIN || now() - begin > 2000000000LL)
            return -errno;
    return fd;
}

#endif /* BENCH_TRAFFIC_H */
