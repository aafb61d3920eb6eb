/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The calls that are measured, in tight loops: Python between them would cost
 * more than they do. load.py compiles this and calls it.
 *
 * Each function makes `count` calls, going round the targets and the sockets,
 * and returns 0 or -errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct load {
    int family;
    int type;
    int server;        /* takes what comes to any backend: a listener, or a datagram socket */
    unsigned int size; /* of an address of this family */
    unsigned int targets;
    unsigned int sockets;
    unsigned int next;
    const struct sockaddr_in6 *to;  /* an IPv4 address lies at the beginning of its place */
    const struct sockaddr_in6 *own; /* each socket's own address */
    const int *fds;
};

static const void *target(struct load *l) { return &l->to[l->next % l->targets]; }

/* Reset instead of a goodbye: no TIME_WAIT fills the ports. */
static void hang_up(int fd) {
    const struct linger reset = {.l_onoff = 1};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
}

void drain(struct load *l) {
    int fd;

    while ((fd = accept4(l->server, NULL, NULL, SOCK_NONBLOCK)) >= 0)
        close(fd);
}

int connect_reused(struct load *l, unsigned int count) {
    for (; count--; l->next++)
        if (connect(l->fds[0], target(l), l->size))
            return -errno;
    return 0;
}

int connect_new(struct load *l, unsigned int count) {
    for (; count--; l->next++) {
        int fd = socket(l->family, l->type, 0);

        if (fd < 0 || connect(fd, target(l), l->size))
            return -errno;
        hang_up(fd);
        if (l->type == SOCK_STREAM && l->next % 256 == 0)
            drain(l);
    }
    return 0;
}

/* Socket n always sends to target n; nobody reads, so most datagrams are dropped on arrival. */
int send_reused(struct load *l, unsigned int count) {
    for (; count--; l->next++)
        if (sendto(l->fds[l->next % l->sockets], "", 1, 0, target(l), l->size) != 1)
            return -errno;
    return 0;
}

int send_new(struct load *l, unsigned int count) {
    for (; count--; l->next++) {
        int fd = socket(l->family, l->type, 0);

        if (fd < 0 || sendto(fd, "", 1, 0, target(l), l->size) != 1)
            return -errno;
        close(fd);
    }
    return 0;
}

/* An answer must come from where it was asked for, whether that is a service or not. */
static bool is_target(struct load *l, const struct sockaddr_in6 *from) {
    const struct sockaddr_in6 *to = target(l);
    const struct sockaddr_in *to4 = target(l), *from4 = (const void *)from;

    if (l->family == AF_INET)
        return from4->sin_port == to4->sin_port && from4->sin_addr.s_addr == to4->sin_addr.s_addr;
    return from->sin6_port == to->sin6_port &&
           !memcmp(&from->sin6_addr, &to->sin6_addr, sizeof(to->sin6_addr));
}

/* The server answers from the address that it was asked at. */
static int answer(struct load *l, const struct sockaddr_in6 *client) {
    char control[64] __attribute__((aligned(8))), payload;
    struct iovec part = {.iov_base = &payload, .iov_len = 1};
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof(control)};
    struct cmsghdr *c;

    if (recvmsg(l->server, &m, 0) != 1)
        return -errno;
    c = CMSG_FIRSTHDR(&m);
    if (!c)
        return -EPROTO;
    if (l->family == AF_INET) {
        struct in_pktinfo *info = (void *)CMSG_DATA(c);

        info->ipi_spec_dst = info->ipi_addr;
        info->ipi_ifindex = 0;
    }
    m.msg_name = (void *)client;
    m.msg_namelen = l->size;
    return sendmsg(l->server, &m, 0) == 1 ? 0 : -errno;
}

static int converse(struct load *l, unsigned int count, bool connected) {
    for (; count--; l->next++) {
        unsigned int n = l->next % l->sockets;
        struct sockaddr_in6 from;
        socklen_t size = sizeof(from);
        char payload;
        int err;

        if (connected ? send(l->fds[n], "", 1, 0) != 1
                      : sendto(l->fds[n], "", 1, 0, target(l), l->size) != 1)
            return -errno;
        err = answer(l, &l->own[n]);
        if (err)
            return err;
        if (recvfrom(l->fds[n], &payload, 1, 0, (void *)&from, &size) != 1)
            return -errno;
        if (!is_target(l, &from))
            return -EPROTO;
    }
    return 0;
}

int receive(struct load *l, unsigned int count) { return converse(l, count, false); }

int receive_connected(struct load *l, unsigned int count) { return converse(l, count, true); }

int get_peer(struct load *l, unsigned int count) {
    for (; count--; l->next++) {
        struct sockaddr_in6 peer;
        socklen_t size = sizeof(peer);

        if (getpeername(l->fds[l->next % l->sockets], (void *)&peer, &size))
            return -errno;
        if (!is_target(l, &peer))
            return -EPROTO;
    }
    return 0;
}

/* Connects socket n to target n, and writes down how long each call took. */
int connect_timed(struct load *l, unsigned int count, long long *nanoseconds) {
    for (; count--; l->next++) {
        struct timespec begin, end;
        int err;

        clock_gettime(CLOCK_MONOTONIC, &begin);
        err = connect(l->fds[l->next % l->sockets], target(l), l->size);
        clock_gettime(CLOCK_MONOTONIC, &end);
        if (err)
            return -errno;
        *nanoseconds++ = (end.tv_sec - begin.tv_sec) * 1000000000LL + end.tv_nsec - begin.tv_nsec;
    }
    return 0;
}
