// SPDX-License-Identifier: Apache-2.0
/*
 * connect.c's client by io_uring: uring HOST PORT tcp|udp|udp-unconnected [async]
 *
 * The socket calls go through the ring, by bare system calls; with "async" the
 * kernel's worker threads make them. Prints as connect.c does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int ring;
static char *sq, *cq;
static struct io_uring_sqe *sqes;
static struct io_uring_params params;
static unsigned char flags;

static int fail(int error) {
    printf("%s\n", strerrorname_np(error));
    return 1;
}

static void *map(size_t size, off_t what) {
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);

    if (at == MAP_FAILED)
        exit(fail(errno));
    return at;
}

static void set_up(void) {
    ring = syscall(SYS_io_uring_setup, 4, &params);
    if (ring < 0) {
        printf("no io_uring: %s\n", strerrorname_np(errno));
        exit(77);
    }
    sq = map(params.sq_off.array + params.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    cq = map(params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
             IORING_OFF_CQ_RING);
    sqes = map(params.sq_entries * sizeof(*sqes), IORING_OFF_SQES);
}

/* One call, waited for: its result, or -errno. */
static int run(int opcode, int fd, const void *at, unsigned int length, unsigned long offset) {
    unsigned *tail = (void *)(sq + params.sq_off.tail), *array = (void *)(sq + params.sq_off.array);
    unsigned *head = (void *)(cq + params.cq_off.head),
             *mask = (void *)(cq + params.cq_off.ring_mask);
    unsigned index = *tail & *(unsigned *)(sq + params.sq_off.ring_mask);
    struct io_uring_cqe *cqes = (void *)(cq + params.cq_off.cqes);
    struct io_uring_sqe *sqe = &sqes[index];
    int result;

    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = opcode;
    sqe->flags = flags;
    sqe->fd = fd;
    sqe->addr = (unsigned long)at;
    sqe->len = length;
    sqe->off = offset;
    array[index] = index;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    while (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
        if (errno != EINTR)
            return -errno;
    result = cqes[*head & *mask].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
    char said[256] = "", host[64], port[8], hello[] = "hello";
    struct sockaddr_storage peer = {0};
    struct iovec out = {hello, 5}, in = {said, sizeof(said) - 1};
    struct msghdr message = {.msg_iov = &out, .msg_iovlen = 1};
    socklen_t length = sizeof(peer);
    int fd, connected, result;

    if (argc < 4)
        return 2;
    flags = argc > 4 ? IOSQE_ASYNC : 0;
    connected = strcmp(argv[3], "udp-unconnected") != 0;
    hints.ai_socktype = strcmp(argv[3], "tcp") ? SOCK_DGRAM : SOCK_STREAM;
    if (getaddrinfo(argv[1], argv[2], &hints, &found))
        return 2;
    set_up();
    fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0);
    if (connected) {
        result = run(IORING_OP_CONNECT, fd, found->ai_addr, 0, found->ai_addrlen);
        if (result < 0)
            return fail(-result);
    } else {
        message.msg_name = found->ai_addr;
        message.msg_namelen = found->ai_addrlen;
    }
    if (hints.ai_socktype == SOCK_DGRAM) {
        result = run(IORING_OP_SENDMSG, fd, &message, 1, 0);
        if (result < 0)
            return fail(-result);
    }
    message.msg_name = &peer;
    message.msg_namelen = sizeof(peer);
    message.msg_iov = &in;
    result = run(IORING_OP_RECVMSG, fd, &message, 1, 0);
    if (result < 0)
        return fail(-result);
    if (connected && getpeername(fd, (struct sockaddr *)&peer, &length))
        return fail(errno);
    if (getnameinfo((struct sockaddr *)&peer, connected ? length : message.msg_namelen, host,
                    sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
        return 2;
    said[strcspn(said, " \n")] = '\0';
    printf("%s %s %s\n", said, host, port);
    freeaddrinfo(found);
    return 0;
}
