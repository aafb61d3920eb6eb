// SPDX-License-Identifier: Apache-2.0
/*
 * Clients and servers for tests that need many connections in little time.
 *
 *   torture serve ENDPOINT/PROTOCOL...
 *     Says "ready". Each server answers with its own port, as text: TCP on
 *     accept, UDP each datagram. Ends with its standard input.
 *
 *   torture call SEED TARGET...
 *     TARGET: KIND,HOST,PORT,ANSWER,ALLOWED; KIND is tcp, udp-connected or
 *     udp-unconnected; ANSWER the port that the right backends have; ALLOWED
 *     errno names with + between, or "none". Connects and sends to a random
 *     one without pause, until its standard input ends; then prints, as JSON,
 *     how often each came to what.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_TARGETS 64
#define MAX_WRONG 20
#define PATIENCE_MS 5000
#define REUSE 20 /* datagrams of one unconnected socket */

static void die(const char *what) {
    perror(what);
    exit(3);
}

static socklen_t parse(const char *host, int port, struct sockaddr_storage *to) {
    struct sockaddr_in *in = (void *)to;
    struct sockaddr_in6 *in6 = (void *)to;

    memset(to, 0, sizeof(*to));
    if (inet_pton(AF_INET, host, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        return sizeof(*in);
    }
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) != 1)
        die(host);
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    return sizeof(*in6);
}

static bool stdin_ended(void) {
    struct pollfd in = {.fd = 0, .events = POLLIN};

    return poll(&in, 1, 0) > 0;
}

/* ---- servers ---- */

struct server {
    int fd;
    int port;
    bool tcp;
};

static void add(int epoll, int fd, void *data) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl");
}

static void answer(int epoll, struct server *server) {
    struct sockaddr_storage from;
    socklen_t length = sizeof(from);
    char text[8], got[2048];
    struct server *conn;
    int size = sprintf(text, "%d", server->port);

    if (!server->tcp) {
        if (recvfrom(server->fd, got, sizeof(got), 0, (void *)&from, &length) >= 0)
            sendto(server->fd, text, size, 0, (void *)&from, length);
        return;
    }
    conn = calloc(1, sizeof(*conn));
    conn->fd = accept4(server->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (conn->fd < 0) {
        free(conn);
        return;
    }
    if (write(conn->fd, text, size) != size) {
        close(conn->fd);
        free(conn);
        return;
    }
    add(epoll, conn->fd, conn);
}

static int serve(int count, char **endpoints) {
    int epoll = epoll_create1(EPOLL_CLOEXEC), i;
    struct server self = {0};

    for (i = 0; i < count; i++) {
        struct server *server = calloc(1, sizeof(*server));
        char *host = endpoints[i], *protocol = strchr(host, '/'), *colon;
        struct sockaddr_storage at;
        socklen_t length;
        int one = 1;

        *protocol++ = '\0';
        colon = strrchr(host, ':');
        *colon = '\0';
        if (*host == '[') {
            host++;
            colon[-1] = '\0';
        }
        server->port = atoi(colon + 1);
        server->tcp = !strcmp(protocol, "tcp");
        length = parse(host, server->port, &at);
        server->fd =
            socket(at.ss_family, (server->tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK, 0);
        setsockopt(server->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (bind(server->fd, (void *)&at, length))
            die(host);
        if (server->tcp && listen(server->fd, 4096))
            die("listen");
        add(epoll, server->fd, server);
    }
    add(epoll, 0, &self);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[64];
        int ready = epoll_wait(epoll, events, 64, -1);

        for (i = 0; i < ready; i++) {
            struct server *server = events[i].data.ptr;

            if (server == &self)
                return 0;
            if (server->port) {
                answer(epoll, server);
            } else { /* the client is done */
                close(server->fd);
                free(server);
            }
        }
    }
}

/* ---- clients ---- */

enum kind { TCP, UDP_CONNECTED, UDP_UNCONNECTED };

struct target {
    const char *name;
    enum kind kind;
    struct sockaddr_storage at;
    socklen_t length;
    int answer;
    const char *allowed;
    int reused; /* an unconnected socket, or -1 */
    int uses;
    unsigned long right, errors[256], forbidden;
};

static char wrong[MAX_WRONG][200];
static int wrongs;

static void blame(struct target *t, const char *what, const char *detail) {
    t->forbidden++;
    if (wrongs < MAX_WRONG)
        snprintf(wrong[wrongs++], sizeof(wrong[0]), "%s: %s %s", t->name, what, detail);
}

static bool is_allowed(const char *allowed, const char *name) {
    size_t length = strlen(name);
    const char *at;

    for (at = allowed; (at = strstr(at, name)); at += length)
        if ((at == allowed || at[-1] == '+') && (!at[length] || at[length] == '+'))
            return true;
    return false;
}

static void failed(struct target *t, const char *call) {
    int error = errno;

    t->errors[error & 255]++;
    if (!is_allowed(t->allowed, strerrorname_np(error)))
        blame(t, call, strerrorname_np(error));
}

static bool same(const struct sockaddr_storage *a, const struct sockaddr_storage *b) {
    const struct sockaddr_in *a4 = (void *)a, *b4 = (void *)b;
    const struct sockaddr_in6 *a6 = (void *)a, *b6 = (void *)b;

    if (a->ss_family != b->ss_family)
        return false;
    if (a->ss_family == AF_INET)
        return a4->sin_port == b4->sin_port && a4->sin_addr.s_addr == b4->sin_addr.s_addr;
    return a6->sin6_port == b6->sin6_port && !memcmp(&a6->sin6_addr, &b6->sin6_addr, 16);
}

/* False if the socket is of no more use. */
static bool hear(struct target *t, int fd) {
    struct sockaddr_storage peer = {0};
    socklen_t length = sizeof(peer);
    struct pollfd in = {.fd = fd, .events = POLLIN};
    char said[64] = "";
    ssize_t size;

    if (poll(&in, 1, PATIENCE_MS) == 0) {
        blame(t, "no answer", "");
        return false;
    }
    size = recvfrom(fd, said, sizeof(said) - 1, 0, (void *)&peer, &length);
    if (size <= 0) {
        if (!size)
            errno = ENODATA;
        failed(t, "recv");
        return false;
    }
    if (t->kind != UDP_UNCONNECTED) {
        length = sizeof(peer);
        memset(&peer, 0, sizeof(peer));
        if (getpeername(fd, (void *)&peer, &length)) {
            failed(t, "getpeername");
            return false;
        }
    }
    if (atoi(said) != t->answer) {
        blame(t, "answered by", said);
        return false;
    }
    if (!same(&peer, &t->at)) {
        blame(t, "another peer is shown than asked for; answered by", said);
        return false;
    }
    t->right++;
    return true;
}

static void call_connected(struct target *t) {
    struct linger reset = {.l_onoff = 1}; /* no TIME_WAIT: there are not so many ports */
    bool tcp = t->kind == TCP;
    int fd = socket(t->at.ss_family, tcp ? SOCK_STREAM : SOCK_DGRAM, 0);

    if (fd < 0)
        die("socket");
    if (tcp)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    if (connect(fd, (void *)&t->at, t->length))
        failed(t, "connect");
    else if (!tcp && send(fd, "?", 1, 0) != 1)
        failed(t, "send");
    else
        hear(t, fd);
    close(fd);
}

static void call_unconnected(struct target *t) {
    bool useful = true;

    if (t->reused < 0)
        t->reused = socket(t->at.ss_family, SOCK_DGRAM, 0);
    if (sendto(t->reused, "?", 1, 0, (void *)&t->at, t->length) != 1)
        failed(t, "sendto");
    else
        useful = hear(t, t->reused);
    if (!useful || ++t->uses % REUSE == 0) {
        close(t->reused);
        t->reused = -1;
    }
}

static void report(struct target *targets, int count) {
    int i, error;

    printf("{\"targets\": [");
    for (i = 0; i < count; i++) {
        struct target *t = &targets[i];

        printf("%s{\"name\": \"%s\", \"right\": %lu, \"forbidden\": %lu, \"errors\": {",
               i ? ", " : "", t->name, t->right, t->forbidden);
        for (error = 0; error < 256; error++)
            if (t->errors[error])
                printf("\"%s\": %lu, ", strerrorname_np(error), t->errors[error]);
        printf("\"\": 0}}");
    }
    printf("], \"wrong\": [");
    for (i = 0; i < wrongs; i++)
        printf("%s\"%s\"", i ? ", " : "", wrong[i]);
    printf("]}\n");
}

static int call(unsigned int seed, int count, char **arguments) {
    static struct target targets[MAX_TARGETS];
    unsigned long done = 0;
    int i;

    if (count < 1 || count > MAX_TARGETS)
        return 2;
    for (i = 0; i < count; i++) {
        struct target *t = &targets[i];
        char *kind = strtok(arguments[i], ","), *host = strtok(NULL, ",");
        int port = atoi(strtok(NULL, ","));
        char *name = malloc(128);

        snprintf(name, 128, "%s %s %d", kind, host, port);
        t->name = name;
        t->kind = !strcmp(kind, "tcp")             ? TCP
                  : !strcmp(kind, "udp-connected") ? UDP_CONNECTED
                                                   : UDP_UNCONNECTED;
        t->length = parse(host, port, &t->at);
        t->answer = atoi(strtok(NULL, ","));
        t->allowed = strtok(NULL, ",");
        t->reused = -1;
    }
    while (done++ % 16 || !stdin_ended()) {
        struct target *t = &targets[rand_r(&seed) % count];

        if (t->kind == UDP_UNCONNECTED)
            call_unconnected(t);
        else
            call_connected(t);
    }
    report(targets, count);
    return 0;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc > 2 && !strcmp(argv[1], "serve"))
        return serve(argc - 2, argv + 2);
    if (argc > 3 && !strcmp(argv[1], "call"))
        return call(atoi(argv[2]), argc - 3, argv + 3);
    return 2;
}
