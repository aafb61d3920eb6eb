// SPDX-License-Identifier: Apache-2.0
/*
 * A client in C: connect HOST PORT tcp|udp|udp-unconnected
 *
 * Prints what the server said, a blank, and the address that the kernel gave
 * for it (getpeername for TCP and connected UDP, recvfrom's source otherwise);
 * on failure the errno's name. Names are resolved by the C library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(void) {
    printf("%s\n", strerrorname_np(errno));
    return 1;
}

int main(int argc, char **argv) {
    struct addrinfo hints = {0}, *found;
    struct sockaddr_storage peer = {0};
    socklen_t length = sizeof(peer);
    char said[256] = "", host[64], port[8];
    int fd, connected;

    if (argc != 4)
        return 2;
    connected = strcmp(argv[3], "udp-unconnected") != 0;
    hints.ai_socktype = strcmp(argv[3], "tcp") ? SOCK_DGRAM : SOCK_STREAM;
    if (getaddrinfo(argv[1], argv[2], &hints, &found))
        return 2;
    fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail();
    if (connected && connect(fd, found->ai_addr, found->ai_addrlen))
        return fail();
    if (hints.ai_socktype == SOCK_DGRAM &&
        sendto(fd, "hello", 5, 0, connected ? NULL : found->ai_addr,
               connected ? 0 : found->ai_addrlen) != 5)
        return fail();
    if (recvfrom(fd, said, sizeof(said) - 1, 0, (struct sockaddr *)&peer, &length) < 0)
        return fail();
    if (connected) {
        length = sizeof(peer);
        if (getpeername(fd, (struct sockaddr *)&peer, &length))
            return fail();
    }
    if (getnameinfo((struct sockaddr *)&peer, length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV))
        return 2;
    said[strcspn(said, " \n")] = '\0';
    printf("%s %s %s\n", said, host, port);
    freeaddrinfo(found);
    return close(fd) != 0;
}
