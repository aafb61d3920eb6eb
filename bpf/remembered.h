/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What sockets remember: the layout of `holders`, `places`, `connections`, `datagrams`,
 * `more_datagrams` and `overflow`. Includes nothing.
 */
#ifndef HR_REMEMBERED_H
#define HR_REMEMBERED_H

/* What a socket asked for, and where it was sent. */
struct hr_origin {
	__u32 asked_ip[4]; /* network byte order */
	__u32 given_ip[4]; /* network byte order */
	__u16 asked_port; /* network byte order */
	__u16 given_port; /* network byte order; 0 = nothing */
	__u32 backend; /* id in `backends` */
	__u32 incarnation; /* of that id */
};

/*
 * Socket storage outlives every upgrade of the programs and cannot be copied,
 * so its values say which layout they have.
 */
#define HR_STORAGE_VERSION 1

/*
 * Socket storage: the service that a TCP or UDP socket is connected to. The
 * hook runs before the kernel connects: when a connected UDP socket fails to
 * connect elsewhere, it stays connected where it was, so that is kept too.
 * An origin counts while the socket's peer is the backend that was given.
 */
struct hr_connection {
	struct hr_origin latest;
	struct hr_origin before;
	__u32 version; /* HR_STORAGE_VERSION */
	__u32 counted; /* id of the backend whose `active` this socket is one of */
	__u32 incarnation; /* of that id; 0 = none */
};

/*
 * Connections by socket cookie: the socket whose cookie is `holders`[n] has its
 * connection at `places`[n], n being its cookie modulo HR_PLACES. Who finds his
 * place taken, or cannot have one, has it in socket storage. Cookies rise by one,
 * so it takes a long-lived socket, or very many, to be in another's way.
 */
#define HR_PLACES 65536
#define HR_CROWDED (1ULL << 63) /* of a holder: some socket's is in storage instead */
/*
 * Of a holder: it is an unconnected UDP socket, and has no connection; `latest` is the one
 * service that it has sent to. Who has sent to more keeps them in storage.
 */
#define HR_UNCONNECTED (1ULL << 62)

struct hr_place {
	struct hr_connection connection; /* the kernel's programs take it for one in storage */
	__u32 pad;
	__u64 netns; /* cookie of the socket's network namespace */
	__u64 pad2[2]; /* two cache lines */
};

/*
 * How many services one unconnected UDP socket remembers: so many in `datagrams`,
 * so many in `more_datagrams`, and what is beyond in `overflow`, where the sockets
 * of all the node's pods are in each other's way.
 */
#define HR_DATAGRAM_ORIGINS 8
#define HR_MORE_ORIGINS 24

/*
 * Socket storage: the services that an unconnected UDP socket has sent to. It
 * needs no lock: the kernel holds the socket's while these hooks run.
 */
struct hr_datagrams {
	__u16 version; /* HR_STORAGE_VERSION */
	__u16 overflowed; /* 1: this socket remembers more than `origin` holds */
	__u32 silent; /* bit n: origin n keeps its backend, but names it no more */
	__u64 clock; /* counts sends; the latest send to a backend names it */
	__u64 stamp[HR_DATAGRAM_ORIGINS]; /* `clock` at the last send; 0 = free, as all after it */
	struct hr_origin origin[HR_DATAGRAM_ORIGINS];
};

/* Socket storage: the same for the few sockets that send to more than these. */
struct hr_more_datagrams {
	__u32 version; /* HR_STORAGE_VERSION */
	__u32 place; /* of what was looked for last */
	__u64 latest; /* the same */
	__u64 stamp[HR_MORE_ORIGINS]; /* twice hr_datagrams.clock at the last send, one more if
					 silent */
	struct hr_origin origin[HR_MORE_ORIGINS];
};

/* LRU: what socket storage could not hold. */
enum hr_overflow_kind {
	HR_BY_ASKED = 0, /* ip and port are the service's */
	HR_BY_GIVEN = 1, /* ip and port are the backend's, of a datagram */
	HR_BY_PEER = 2, /* ip and port are the backend's, of a connection */
	HR_BY_CONNECTED = 3, /* ip and port are the service's, of a connection */
};

struct hr_overflow_key {
	__u64 cookie; /* the socket's */
	__u32 ip[4]; /* network byte order */
	__u16 port; /* network byte order */
	__u16 kind; /* enum hr_overflow_kind */
	__u32 pad;
};

#endif /* HR_REMEMBERED_H */
