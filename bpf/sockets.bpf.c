// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Sockets that services' connects made: found, counted and, where their
 * backend is gone, ended. These programs read the kernel's own structs, so
 * they are an object of their own, loaded only when they are needed.
 *
 * hr_records sees the sockets of every network namespace, but not under their
 * locks: it tells where to look. hr_tcp and hr_udp see those of the namespace
 * that they are opened in, each under its lock, decide again, and end it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#include "hostreach.h"
#include "remembered.h"
#include "traced.h"
#include "sockets.h"

#include "likely.bpf.h"
#include "address.bpf.h"
#include "maps.bpf.h"
#include "active.bpf.h"
#include "kernel.bpf.h"
char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* bpf_get_socket_cookie in these programs (Linux 5.12). Set before loading. */
const volatile bool has_cookie = true;

/* enum hr_socket_flag: which sockets are worth a word. Set before each look. */
__u32 wanted;
/* Whether hr_tcp and hr_udp end what they find. */
bool ending;

/* A closed TCP socket has no peer, and one that waits for its last packets no owner. */
static __always_inline bool has_peer(struct sock_common *sk, __u16 protocol)
{
	__u8 state = sk->skc_state;

	if (sk->skc_flags & (1UL << bpf_core_enum_value(enum sock_flags, SOCK_DEAD)))
		return false;
	if (protocol == IPPROTO_UDP)
		return state == BPF_TCP_ESTABLISHED;
	return state == BPF_TCP_ESTABLISHED || state == BPF_TCP_SYN_SENT ||
	       state == BPF_TCP_CLOSE_WAIT || state == BPF_TCP_FIN_WAIT1 ||
	       state == BPF_TCP_FIN_WAIT2;
}

static __always_inline bool leads_to_peer(const struct hr_origin *origin, struct sock_common *sk)
{
	__u32 peer[4];

	if (!origin->given_port || origin->given_port != sk->skc_dport)
		return false;
	peer_ip(sk, peer);
	return same_ip(origin->given_ip, peer);
}

static __always_inline bool is_due(const struct hr_origin *origin)
{
	const struct hr_backend *backend = bpf_map_lookup_elem(&backends, &origin->backend);

	return origin->given_port && backend && hr_is_due(backend, origin);
}

static __always_inline void copy_origin(struct hr_origin *to, const struct hr_origin *from)
{
	copy_ip(to->asked_ip, from->asked_ip);
	copy_ip(to->given_ip, from->given_ip);
	to->asked_port = from->asked_port;
	to->given_port = from->given_port;
	to->backend = from->backend;
	to->incarnation = from->incarnation;
}

static __always_inline bool same_backend(const struct hr_origin *a, const struct hr_origin *b)
{
	return a->backend == b->backend && a->incarnation == b->incarnation;
}

/* Which of the flags hold, and by which of the two origins. */
static __always_inline __u8 look(struct sock_common *sk, __u16 protocol,
				 const struct hr_connection *c, struct hr_origin *origin)
{
	__u8 flags = 0;

	if (sk->skc_flags & (1UL << bpf_core_enum_value(enum sock_flags, SOCK_DEAD)))
		return 0;
	if (c->incarnation)
		flags |= HR_SOCKET_COUNTED;
	copy_origin(origin, &c->latest);
	if (has_peer(sk, protocol)) {
		if (leads_to_peer(&c->latest, sk))
			flags |= HR_SOCKET_THERE;
		else if (leads_to_peer(&c->before, sk)) {
			copy_origin(origin, &c->before);
			flags |= HR_SOCKET_THERE;
		}
	}
	if (is_due(origin))
		flags |= flags & HR_SOCKET_THERE ? HR_SOCKET_DUE : HR_SOCKET_ON_ITS_WAY;
	return flags;
}

/* False if there was no room: the kernel then shows the same socket again. */
static __always_inline bool tell(struct seq_file *out, struct sock_common *sk,
				 struct hr_socket *told, const struct hr_connection *c)
{
	told->cookie = has_cookie ? bpf_get_socket_cookie(sk) : sk->skc_cookie.counter;
	told->netns = sk->skc_net.net->ns.inum;
	told->counted = c->counted;
	told->incarnation = c->incarnation;
	local_ip(sk, told->local_ip);
	told->local_port = bpf_htons(sk->skc_num);
	return !bpf_seq_write(out, told, sizeof(*told));
}

SEC("iter/bpf_sk_storage_map")
int hr_records(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	const struct hr_connection *c = ctx->value;
	struct sock *sk = ctx->sk;
	struct hr_socket told = {};

	if (!sk || !c)
		return 0;
	told.protocol = sk->sk_protocol;
	told.flags = look(&sk->__sk_common, told.protocol, c, &told.origin);
	if (told.flags & wanted)
		tell(ctx->meta->seq, &sk->__sk_common, &told, c);
	return 0;
}

/* What was ended; it counts until its last close. A socket that is about to connect elsewhere goes
 * on with that. */
static __always_inline void forget(struct hr_connection *c, const struct hr_origin *ended)
{
	if (same_backend(&c->latest, ended))
		c->latest.given_port = 0;
	if (same_backend(&c->before, ended))
		c->before.given_port = 0;
}

static __always_inline struct hr_connection *connection_of(struct sock_common *sk)
{
	__u64 cookie = sk->skc_cookie.counter;
	__u32 at = cookie % HR_PLACES;
	const __u64 *holder = bpf_map_lookup_elem(&holders, &at);

	/* not one with HR_UNCONNECTED: that is no connection */
	if (cookie && holder && (*holder & ~HR_CROWDED) == cookie)
		return bpf_map_lookup_elem(&places, &at);
	return bpf_sk_storage_get(&connections, sk, NULL, 0);
}

/*
 * Told first and ended then: a socket that is told twice, for want of room,
 * would not be found the second time.
 */
static __always_inline int end(struct seq_file *out, struct sock_common *sk, __u16 protocol)
{
	struct hr_connection *c;
	struct hr_socket told = {};

	if (!sk || !has_peer(sk, protocol)) /* the last call of all has no socket */
		return 0;
	c = connection_of(sk);
	if (!c)
		return 0;
	told.protocol = protocol;
	told.flags = look(sk, protocol, c, &told.origin);
	if (!(told.flags & HR_SOCKET_DUE) || !tell(out, sk, &told, c) || !ending)
		return 0;
	if (!bpf_sock_destroy(sk))
		forget(c, &told.origin);
	return 0;
}

SEC("iter/tcp")
int hr_tcp(struct bpf_iter__tcp *ctx)
{
	return end(ctx->meta->seq, ctx->sk_common, IPPROTO_TCP);
}

SEC("iter/udp")
int hr_udp(struct bpf_iter__udp *ctx)
{
	return end(ctx->meta->seq, (struct sock_common *)ctx->udp_sk, IPPROTO_UDP);
}
