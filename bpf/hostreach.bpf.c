// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The socket-layer load balancer: a service's address becomes a backend's
 * inside connect(2) and sendmsg(2), and the service's again in recvmsg(2) and
 * getpeername(2). struct bpf_sock_addr is stable UAPI, so nothing here needs
 * the kernel's BTF.
 *
 * Inner functions return 0 or -errno; verdict() turns that into what the hook
 * wants, once. What is no service's passes untouched.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "hostreach.h"
#include "remembered.h"
#include "traced.h"

#include "likely.bpf.h"
#include "address.bpf.h"
#include "maps.bpf.h"
char LICENSE[] SEC("license") = "Dual BSD/GPL";

#include "knobs.bpf.h"
#include "record.bpf.h"
#include "hint.bpf.h"
#include "service.bpf.h"
#include "select.bpf.h"
#include "active.bpf.h"
#include "origin.bpf.h"
#ifndef HR_LEGACY
#include "place.bpf.h"
#include "release.bpf.h"
#endif
#include "only.bpf.h"
#include "connection.bpf.h"
#include "more.bpf.h"
#include "datagram.bpf.h"
#include "bind.bpf.h"
#include "trace.bpf.h"
#include "verdict.bpf.h"
#include "connect.bpf.h"

/*
 * A send on a connected socket that names the peer is left alone: an IPv6 UDP
 * socket connected to a v4-mapped backend comes here with the backend's own
 * address on every send. One that names the connected service goes to the
 * connected backend.
 */
static __always_inline bool sends_to_peer(struct bpf_sock_addr *ctx, const struct hr_key *key,
					  bool v6)
{
	struct bpf_sock *sk = socket_of(ctx);
	const struct hr_origin *origin;
	struct hr_origin spilt;

	if (!sk || !is_connected(sk))
		return false;
	if (peer_is(sk, key->ip, key->port))
		return true;
	origin = connected_origin(ctx, sk, key, &spilt);
	if (!origin)
		return false;
	store_address(ctx, origin->given_ip, origin->given_port, v6);
	return true;
}

static __always_inline int sendmsg(struct bpf_sock_addr *ctx, bool v6)
{
	struct hr_origin origin WHOLE = {};
	struct seat seat = {};
	struct service service;
	struct hr_key key WHOLE;
	__u64 *translations;
	struct hint hint;
	bool known;

	load_destination(&key, ctx, v6);
	if (key.protocol != IPPROTO_UDP || sends_to_peer(ctx, &key, v6))
		return 0;
	if (!scopes_of(&key)) { /* or it would be looked for first, and forgotten then */
		forget_datagram(ctx, &key);
		return 0;
	}
	known = recall_datagram(ctx, &key, &origin);
	if (!known || !take_known(ctx, &key, &origin, &service)) {
		find_hint(&hint, &key);
		if (!known && is_used(&hint))
			expect_only(ctx, &seat);
		if (!find_service(ctx, scopes_of(&key), &key, &hint, &service)) {
			forget_datagram(ctx, &key);
			return 0;
		}
		known = known || recall_disconnected(ctx, &key, &origin);
		ask_for(&origin, &key); /* last: what was not whole in the LRU may be there */
		if (!known || is_refused(ctx, &service) ||
		    !take_again(&origin, service.index, origin.backend, origin.incarnation)) {
			if (!choose(ctx, &service, &origin)) {
				count_refusal(service.index);
				trace(ctx, &service, &key, &origin, HR_NO_BACKEND);
				return refuse(ctx, &key, DISCARD_PORT, v6);
			}
		}
		if (remember_datagram(ctx, &seat, &key, &origin, !known)) {
			count_event(HR_UNREMEMBERED);
			trace(ctx, &service, &key, &origin, HR_UNANSWERABLE);
			return refuse(ctx, &key, DISCARD_PORT, v6);
		}
	}
	trace(ctx, &service, &key, &origin, HR_TRANSLATED);
	store_address(ctx, origin.given_ip, origin.given_port, v6);
	translations = translations_of(service.index);
	if (translations)
		count_translation(translations);
	return 0;
}

static __always_inline int recvmsg(struct bpf_sock_addr *ctx, bool v6)
{
	struct bpf_sock *sk = socket_of(ctx);
	const struct hr_origin *origin;
	struct hr_origin spilt;
	struct hr_key source;

	load_address(&source, ctx, v6);
	if (source.protocol != IPPROTO_UDP)
		return PASS;
	/*
	 * From the peer: what it was connected as, and nothing else. A record from
	 * before connect(AF_UNSPEC) does not count; datagrams queued before
	 * connect do. Where the socket is not shown, a connection's record may be
	 * older than that, and a datagram's counts as well.
	 */
	if (!sk || (is_connected(sk) && peer_is(sk, source.ip, source.port))) {
		origin = recall_connection(ctx, &source, &spilt);
		if (origin)
			store_address(ctx, origin->asked_ip, origin->asked_port, v6);
		if (origin || sk)
			return PASS;
	}
	if (recall_source(ctx, &source)) {
		store_address(ctx, source.ip, source.port, v6);
		return PASS;
	}
	/* or it was queued while the socket was connected to another service */
	origin = sk && is_connected(sk) ? recall_former(ctx, &source) : NULL;
	if (origin)
		store_address(ctx, origin->asked_ip, origin->asked_port, v6);
	return PASS;
}

static __always_inline int getpeername(struct bpf_sock_addr *ctx, bool v6)
{
	const struct hr_origin *origin;
	struct hr_origin spilt;
	struct hr_key peer;

	load_address(&peer, ctx, v6);
	origin = recall_connection(ctx, &peer, &spilt);
	if (origin)
		store_address(ctx, origin->asked_ip, origin->asked_port, v6);
	return PASS;
}

SEC("cgroup/connect4")
int hr_connect4(struct bpf_sock_addr *ctx)
{
	return verdict(connect(ctx, false));
}

SEC("cgroup/connect6")
int hr_connect6(struct bpf_sock_addr *ctx)
{
	return verdict(connect(ctx, true));
}

SEC("cgroup/sendmsg4")
int hr_sendmsg4(struct bpf_sock_addr *ctx)
{
	return verdict(sendmsg(ctx, false));
}

SEC("cgroup/sendmsg6")
int hr_sendmsg6(struct bpf_sock_addr *ctx)
{
	return verdict(sendmsg(ctx, true));
}

SEC("cgroup/recvmsg4")
int hr_recvmsg4(struct bpf_sock_addr *ctx)
{
	return recvmsg(ctx, false);
}

SEC("cgroup/recvmsg6")
int hr_recvmsg6(struct bpf_sock_addr *ctx)
{
	return recvmsg(ctx, true);
}

SEC("cgroup/getpeername4")
int hr_getpeername4(struct bpf_sock_addr *ctx)
{
	return getpeername(ctx, false);
}

SEC("cgroup/getpeername6")
int hr_getpeername6(struct bpf_sock_addr *ctx)
{
	return getpeername(ctx, true);
}

#ifndef HR_LEGACY /* both are newer */

SEC("cgroup/sock_release")
int hr_sock_release(struct bpf_sock *sk)
{
	struct hr_connection *c;

	if (knobs.has_places && sk->protocol != IPPROTO_MPTCP_SOCKET) {
		struct seat seat;

		if (!find_old_seat(&seat, sk, sk))
			return PASS;
		if (is_held(&seat)) {
			c = (struct hr_connection *)place_at(&seat);
			if (c) {
				uncount(c);
				leave_seat(&seat, c);
			}
			if (!(seat.held & HR_UNCONNECTED))
				return PASS;
		}
		if (!(seat.held & HR_CROWDED))
			return PASS;
	}
	c = bpf_sk_storage_get(&connections, sk, NULL, 0);
	if (c)
		uncount(c);
	return PASS;
}

SEC("cgroup/post_bind4")
int hr_post_bind4(struct bpf_sock *sk)
{
	return verdict(check_bind(sk, false));
}

SEC("cgroup/post_bind6")
int hr_post_bind6(struct bpf_sock *sk)
{
	return verdict(check_bind(sk, true));
}

#endif
