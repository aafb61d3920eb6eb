/* SPDX-License-Identifier: Apache-2.0 */
/* The shortest life of a client: once ADDRESS PORT connects by TCP and ends. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    struct sockaddr_in to = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (argc != 3 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
        return 2;
    to.sin_port = htons(atoi(argv[2]));
    return fd < 0 || connect(fd, (void *)&to, sizeof(to)) != 0;
}
