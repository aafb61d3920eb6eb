/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is known of a socket that a service's connect made, and when it is to
 * be ended. Includes nothing; "hostreach.h" and "remembered.h" come before it.
 */
#ifndef HR_SOCKETS_H
#define HR_SOCKETS_H

enum hr_socket_flag {
	HR_SOCKET_THERE = 1, /* somebody has it open, connected to the backend that it was given */
	HR_SOCKET_DUE = 2, /* the same, and that backend is gone or down: it is to be ended */
	HR_SOCKET_ON_ITS_WAY = 4, /* sent to such a backend, and not connected, or not yet */
	HR_SOCKET_COUNTED = 8, /* open, and one of `active` */
};

/* One socket, as the iterators write it. */
struct hr_socket {
	__u64 cookie; /* the socket's; 0 = it has none yet, and nothing to give it one */
	__u32 netns; /* inode of its network namespace */
	__u16 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 flags; /* enum hr_socket_flag */
	__u8 pad;
	__u32 local_ip[4]; /* network byte order, IPv4 as IPv6-mapped */
	__u16 local_port; /* network byte order */
	__u16 pad2;
	__u32 counted; /* as in struct hr_connection */
	__u32 incarnation;
	struct hr_origin origin;
};

/*
 * Is a socket that was sent to this backend to be ended? That the backend was
 * removed can be told after its id was given to another one, too, unless that
 * happened twice.
 */
static inline int hr_is_due(const struct hr_backend *backend, const struct hr_origin *origin)
{
	const volatile struct hr_backend *now = backend;
	int ends = now->reset && (now->service == HR_NO_SERVICE || now->state == HR_DOWN);

	/*
	 * A writer who gives the id away says first what becomes of these sockets, then changes the
	 * incarnation, then all else: read the other way round.
	 */
	if (ends && now->incarnation == origin->incarnation)
		return 1;
	return now->reset_before == origin->incarnation;
}

#endif /* HR_SOCKETS_H */
