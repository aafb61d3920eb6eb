/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traffic to whatever address it is given, over IPv4: a service's, or a
 * backend's. traffic.py compiles this and calls it.
 *
 * Each rate function makes batches until its time is over, and returns how many
 * operations that were, or -errno. Client and server take turns on one
 * processor: what a packet costs on its way, on either side, is missing from
 * the rate, and no idle processor hides it.
 */
#define _GNU_SOURCE
#include "traffic.h"

#include <string.h>

/* ---- connect(2) to accept(2) ---- */

/* Connects sockets that are there, one after the other: nanoseconds until each was accepted. */
int connect_accept(struct traffic *t, unsigned int count, const int *fds, long long *nanoseconds) {
    const struct linger reset = {.l_onoff = 1};

    while (count--) {
        const void *to = target(t);
        long long begin = now();
        int fd;

        if (connect(*fds++, to, sizeof(*t->to)))
            return -errno;
        fd = accepted(t->server);
        *nanoseconds++ = now() - begin;
        if (fd < 0)
            return fd;
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        close(fd);
    }
    return 0;
}

/* ---- HTTP: a request on each of some connections, then all answers ---- */

static const char request[] = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
static const char last[] = "ok\n"; /* how the server's answer ends */

static int ask_all(int *fds) {
    const size_t tail = sizeof(last) - 1;

    for (int n = 0; n < BATCH; n++)
        if (send(fds[n], request, sizeof(request) - 1, MSG_NOSIGNAL) != sizeof(request) - 1)
            return -errno;
    for (int n = 0; n < BATCH; n++) {
        char answer[2048];
        size_t size = 0;

        do {
            ssize_t more = recv(fds[n], answer + size, sizeof(answer) - size, 0);

            if (more <= 0)
                return more ? -errno : -EPROTO;
            size += more;
        } while (size < tail || memcmp(answer + size - tail, last, tail));
    }
    return BATCH;
}

static int http_kept_batch(struct traffic *t, int *fds) {
    (void)t;
    return ask_all(fds);
}

static int http_new_batch(struct traffic *t, int *fds) {
    int err = connect_all(t, SOCK_STREAM, fds);

    return err ? err : close_all(fds, BATCH, ask_all(fds));
}

long long http_kept(struct traffic *t) {
    int fds[BATCH], err = connect_all(t, SOCK_STREAM, fds);

    return err ? err : repeat_and_close(t, http_kept_batch, fds, BATCH);
}

long long http_new(struct traffic *t) {
    int fds[BATCH];

    return repeat(t, http_new_batch, fds);
}

/* ---- bytes through one TCP connection ---- */

static char bytes[1 << 16];

static int bulk_batch(struct traffic *t, int *fds) {
    size_t left = sizeof(bytes);
    (void)t;

    if (send(fds[0], bytes, sizeof(bytes), MSG_NOSIGNAL) != sizeof(bytes))
        return -errno;
    while (left) {
        ssize_t got = recv(fds[1], bytes, left, 0);

        if (got <= 0)
            return got ? -errno : -EPROTO;
        left -= got;
    }
    return sizeof(bytes);
}

long long bulk(struct traffic *t) {
    int fds[2] = {connected(t, SOCK_STREAM)};

    if (fds[0] < 0)
        return fds[0];
    fds[1] = accepted(t->server);
    if (fds[1] < 0)
        return close_all(fds, 1, fds[1]);
    return repeat_and_close(t, bulk_batch, fds, 2);
}

/* ---- datagrams, there and back ---- */

/* From the address that it was asked at. */
static int answer(int server) {
    char control[64] __attribute__((aligned(8))), payload;
    struct sockaddr_in client;
    struct iovec part = {.iov_base = &payload, .iov_len = 1};
    struct msghdr m = {.msg_name = &client,
                       .msg_namelen = sizeof(client),
                       .msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof(control)};
    struct in_pktinfo *info;

    if (recvmsg(server, &m, 0) != 1)
        return -errno;
    if (!CMSG_FIRSTHDR(&m))
        return -EPROTO;
    info = (void *)CMSG_DATA(CMSG_FIRSTHDR(&m));
    info->ipi_spec_dst = info->ipi_addr;
    info->ipi_ifindex = 0;
    return sendmsg(server, &m, 0) == 1 ? 0 : -errno;
}

/* An answer must come from where it was asked for, whether that is a service or not. */
static int echoes(struct traffic *t, int fd, const struct sockaddr_in *to) {
    for (int n = 0; n < BATCH; n++)
        if (sendto(fd, "", 1, 0, (const void *)to, to ? sizeof(*to) : 0) != 1)
            return -errno;
    for (int n = 0; n < BATCH; n++) {
        int err = answer(t->server);

        if (err)
            return err;
    }
    for (int n = 0; n < BATCH; n++) {
        struct sockaddr_in from;
        socklen_t size = sizeof(from);
        char payload;

        if (recvfrom(fd, &payload, 1, 0, (void *)&from, &size) != 1)
            return -errno;
        if (to && (from.sin_port != to->sin_port || from.sin_addr.s_addr != to->sin_addr.s_addr))
            return -EPROTO;
    }
    return 2 * BATCH;
}

static int connected_batch(struct traffic *t, int *fds) { return echoes(t, fds[0], NULL); }

static int unconnected_batch(struct traffic *t, int *fds) { return echoes(t, fds[0], t->to); }

long long udp_connected(struct traffic *t) {
    int fd = connected(t, SOCK_DGRAM);

    return fd < 0 ? fd : repeat_and_close(t, connected_batch, &fd, 1);
}

long long udp_unconnected(struct traffic *t) {
    int fd = made(SOCK_DGRAM);

    return fd < 0 ? fd : repeat_and_close(t, unconnected_batch, &fd, 1);
}

/* ---- DNS, as resolvers ask: each name by a new connected socket ---- */

static const char query[] = "\0\1\1\0\0\1\0\0\0\0\0\0\5bench\4test\0\0\1\0\1";

static int dns_batch(struct traffic *t, int *fds) {
    int result = connect_all(t, SOCK_DGRAM, fds);

    if (result)
        return result;
    for (int n = 0; n < BATCH && !result; n++)
        if (send(fds[n], query, sizeof(query) - 1, 0) != sizeof(query) - 1)
            result = -errno;
    for (int n = 0; n < BATCH && !result; n++) {
        char reply[512];
        ssize_t size = recv(fds[n], reply, sizeof(reply), 0);

        if (size < 0)
            result = -errno;
        else if (size < 12 || memcmp(reply, query, 2) || reply[7] != 1) /* one answer in it */
            result = -EPROTO;
    }
    return close_all(fds, BATCH, result ? result : BATCH);
}

long long dns(struct traffic *t) {
    int fds[BATCH];

    return repeat(t, dns_batch, fds);
}
