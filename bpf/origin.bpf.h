/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a socket remembers: which service it asked for, which backend it got.
 *
 * `connections` serves connected sockets (getpeername, recvmsg, a send to the
 * connected service); `datagrams` serves unconnected UDP (recvmsg, and the
 * same backend for each further send). Where a socket's storage has no room or
 * cannot be had, or the kernel has none, the LRU `overflow` holds both.
 */
#ifndef HR_ORIGIN_BPF_H
#define HR_ORIGIN_BPF_H

static __always_inline bool was_asked(const struct hr_origin *origin, const struct hr_key *key)
{
	return origin->asked_port == key->port && same_ip(origin->asked_ip, key->ip);
}

static __always_inline bool was_given(const struct hr_origin *origin, const struct hr_key *key)
{
	return origin->given_port == key->port && same_ip(origin->given_ip, key->ip);
}

/* ---- the LRU ---- */

static __always_inline bool overflow_used(void)
{
	return !HAS_STORAGE || is_flagged(HR_OVERFLOW_USED);
}

static __always_inline void overflow_key(struct hr_overflow_key *key, void *ctx, const __u32 *ip,
					 __u16 port, __u16 kind)
{
	key->cookie = bpf_get_socket_cookie(ctx);
	copy_ip(key->ip, ip);
	key->port = port;
	key->kind = kind;
	key->pad = 0;
}

static __always_inline struct hr_origin *overflow_get(void *ctx, const struct hr_key *at,
						      __u16 kind)
{
	struct hr_overflow_key key;

	overflow_key(&key, ctx, at->ip, at->port, kind);
	return bpf_map_lookup_elem(&overflow, &key);
}

static __always_inline int overflow_put(void *ctx, const struct hr_origin *origin, __u16 kind)
{
	struct hr_overflow_key key;

	raise_flag(HR_OVERFLOW_USED);
	if (kind == HR_BY_ASKED || kind == HR_BY_CONNECTED)
		overflow_key(&key, ctx, origin->asked_ip, origin->asked_port, kind);
	else
		overflow_key(&key, ctx, origin->given_ip, origin->given_port, kind);
	if (!key.cookie) /* below 4.19 there is none, and no hook that would ask what is kept */
		return 0;
	return bpf_map_update_elem(&overflow, &key, origin, BPF_ANY);
}

/* Both ways: to go on to the same backend, and to know it again. */
static __always_inline int spill(void *ctx, const struct hr_origin *origin, __u16 forth, __u16 back)
{
	return overflow_put(ctx, origin, forth) || overflow_put(ctx, origin, back) ? -1 : 0;
}

static __always_inline void overflow_drop(void *ctx, const struct hr_key *at, __u16 kind)
{
	struct hr_overflow_key key;

	overflow_key(&key, ctx, at->ip, at->port, kind);
	bpf_map_delete_elem(&overflow, &key);
}

/* ---- socket storage ---- */

#ifdef HR_LEGACY

static __always_inline struct hr_connection *connection_of(struct bpf_sock_addr *ctx)
{
	return NULL;
}

static __always_inline struct hr_connection *connection_to_write(struct bpf_sock_addr *ctx)
{
	return NULL;
}

static __always_inline struct hr_datagrams *datagrams_of(struct bpf_sock_addr *ctx, __u64 flags)
{
	return NULL;
}

#else

static __always_inline struct hr_connection *connection_of(struct bpf_sock_addr *ctx)
{
	return bpf_sk_storage_get(&connections, ctx->sk, NULL, 0);
}

/*
 * MPTCP connects a subflow, but getpeername and sock_release see the socket
 * that owns it: that one remembers.
 */
static __always_inline struct hr_connection *connection_to_write(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == IPPROTO_TCP) {
		struct mptcp_sock *msk = bpf_skc_to_mptcp_sock(ctx->sk);

		if (msk)
			return bpf_sk_storage_get(&connections, msk, NULL,
						  BPF_SK_STORAGE_GET_F_CREATE);
	}
	return bpf_sk_storage_get(&connections, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline struct hr_datagrams *datagrams_of(struct bpf_sock_addr *ctx, __u64 flags)
{
	return bpf_sk_storage_get(&datagrams, ctx->sk, NULL, flags);
}

#endif

static __always_inline void count_lost_storage(void)
{
	if (HAS_STORAGE)
		count_event(HR_STORAGE_FAILED);
}

/* ---- connected sockets ---- */

/* A kernel that does not show the socket leaves it at what was remembered. */
static __always_inline bool is_true(struct bpf_sock *sk, const struct hr_origin *origin)
{
	return !sk || (is_connected(sk) && peer_is(sk, origin->given_ip, origin->given_port));
}

static __always_inline int remember_connection(struct bpf_sock_addr *ctx,
					       const struct hr_origin *origin)
{
	struct hr_connection *c = connection_to_write(ctx);

	if (c) {
		/* it counts elsewhere now, and stays where it is if that fails */
		if (c->version && is_true(socket_of(ctx), &c->latest)) {
			c->before = c->latest;
			raise_flag(HR_MOVED);
		}
		c->latest = *origin;
		c->version = HR_STORAGE_VERSION;
		if (knobs.has_sock_release)
			count_for(c, origin);
		return 0;
	}
	count_lost_storage();
	return spill(ctx, origin, HR_BY_CONNECTED, HR_BY_PEER);
}

/* What the socket asked for, if it was sent to this peer. */
static __always_inline const struct hr_origin *recall_connection(struct bpf_sock_addr *ctx,
								 const struct hr_key *peer)
{
	struct hr_connection *c = connection_of(ctx);

	if (c) {
		if (was_given(&c->latest, peer))
			return &c->latest;
		if (was_given(&c->before, peer))
			return &c->before;
	}
	if (overflow_used())
		return overflow_get(ctx, peer, HR_BY_PEER);
	return NULL;
}

/*
 * The socket is about to connect straight to this address. What it remembers
 * of other backends is told from the truth by the peer, if it comes to that.
 */
static __always_inline void forget_connection(struct bpf_sock_addr *ctx, const struct hr_key *to)
{
	struct hr_connection *c = connection_of(ctx);

	if (c) {
		if (was_given(&c->latest, to))
			c->latest.given_port = 0;
		if (was_given(&c->before, to))
			c->before.given_port = 0;
		if (knobs.has_sock_release && c->incarnation) {
			if (is_true(socket_of(ctx), &c->latest))
				raise_flag(HR_MOVED);
			uncount(c);
		}
	}
	if (overflow_used())
		overflow_drop(ctx, to, HR_BY_PEER);
}

/* The backend that the socket is connected to, if it asked for this address to get there. */
static __always_inline const struct hr_origin *
connected_origin(struct bpf_sock_addr *ctx, struct bpf_sock *sk, const struct hr_key *asked)
{
	struct hr_connection *c = connection_of(ctx);
	const struct hr_origin *spilt;

	if (c && was_asked(&c->latest, asked) && is_true(sk, &c->latest))
		return &c->latest;
	if (c && was_asked(&c->before, asked) && is_true(sk, &c->before))
		return &c->before;
	if (!overflow_used())
		return NULL;
	spilt = overflow_get(ctx, asked, HR_BY_CONNECTED);
	return spilt && is_true(sk, spilt) ? spilt : NULL;
}

/*
 * Where the socket was connected to for this service, before connect(AF_UNSPEC);
 * or still is, for all that can be told where the socket is not shown. To go on
 * there is more than kind: the kernel leaves a disconnected IPv6 UDP socket deaf
 * to all but its former peer.
 */
static __always_inline bool
recall_disconnected(struct bpf_sock_addr *ctx, const struct hr_key *asked, struct hr_origin *origin)
{
	struct hr_connection *c = connection_of(ctx);
	const struct hr_origin *spilt;

	if (c && c->latest.given_port && was_asked(&c->latest, asked)) {
		*origin = c->latest;
		return true;
	}
	if (c || !overflow_used())
		return false;
	spilt = overflow_get(ctx, asked, HR_BY_CONNECTED);
	if (!spilt)
		return false;
	*origin = *spilt;
	return true;
}

/* ---- unconnected UDP ---- */

/*
 * Finds where an earlier send to this service went, and makes that backend
 * name this service from now on (two services may share a backend: the last
 * one sent to wins).
 */
static __always_inline bool recall_datagram(struct bpf_sock_addr *ctx, const struct hr_key *asked,
					    struct hr_origin *origin)
{
	struct hr_datagrams *d = datagrams_of(ctx, 0);
	const struct hr_origin *spilt;
	bool overflowed = true;
	bool found = false;
	int i;

	if (d) {
		for (i = 0; i < HR_DATAGRAM_ORIGINS; i++) {
			if (!d->stamp[i])
				break;
			if (!was_asked(&d->origin[i], asked))
				continue;
			d->stamp[i] = ++d->clock;
			d->silent &= ~(1U << i);
			*origin = d->origin[i];
			found = true;
			break;
		}
		overflowed = d->overflowed;
	}
	if (found)
		return true;
	if (!overflowed || !overflow_used())
		return false;
	spilt = overflow_get(ctx, asked, HR_BY_ASKED);
	if (!spilt)
		return false;
	*origin = *spilt;
	overflow_put(ctx, origin, HR_BY_GIVEN);
	return true;
}

static __always_inline int remember_datagram(struct bpf_sock_addr *ctx, const struct hr_key *asked,
					     const struct hr_origin *origin)
{
	struct hr_datagrams *d;
	bool kept = false;
	int i;

	d = datagrams_of(ctx, BPF_SK_STORAGE_GET_F_CREATE);
	if (!d) {
		count_lost_storage();
		return spill(ctx, origin, HR_BY_ASKED, HR_BY_GIVEN);
	}
	for (i = 0; i < HR_DATAGRAM_ORIGINS; i++) {
		if (d->stamp[i] && !was_asked(&d->origin[i], asked))
			continue;
		d->version = HR_STORAGE_VERSION;
		d->stamp[i] = ++d->clock;
		d->silent &= ~(1U << i);
		d->origin[i] = *origin;
		kept = true;
		break;
	}
	if (!kept)
		d->overflowed = 1;
	if (kept)
		return 0;
	count_event(HR_OVERFLOWED);
	return spill(ctx, origin, HR_BY_ASKED, HR_BY_GIVEN);
}

/*
 * The socket is about to send straight to this address: what comes back from
 * it is no service's answer, until the service is sent to again.
 */
static __always_inline void forget_datagram(struct bpf_sock_addr *ctx, const struct hr_key *to)
{
	struct hr_datagrams *d = datagrams_of(ctx, 0);
	bool overflowed = true;
	int i;

	if (d) {
		for (i = 0; i < HR_DATAGRAM_ORIGINS; i++) {
			if (!d->stamp[i])
				break;
			if (was_given(&d->origin[i], to))
				d->silent |= 1U << i;
		}
		overflowed = d->overflowed;
	}
	if (overflowed && overflow_used())
		overflow_drop(ctx, to, HR_BY_GIVEN);
}

/* Which service was this source last addressed as? Stored to `asked`. */
static __always_inline bool recall_source(struct bpf_sock_addr *ctx, struct hr_key *source)
{
	struct hr_datagrams *d = datagrams_of(ctx, 0);
	const struct hr_origin *spilt;
	struct hr_key asked = {};
	bool overflowed = true;
	__u64 latest = 0;
	int i;

	if (d) {
		for (i = 0; i < HR_DATAGRAM_ORIGINS; i++) {
			if (!d->stamp[i])
				break;
			if (d->stamp[i] <= latest || (d->silent & (1U << i)) ||
			    !was_given(&d->origin[i], source))
				continue;
			latest = d->stamp[i];
			copy_ip(asked.ip, d->origin[i].asked_ip);
			asked.port = d->origin[i].asked_port;
		}
		overflowed = d->overflowed;
	}
	if (!latest) {
		if (!overflowed || !overflow_used())
			return false;
		spilt = overflow_get(ctx, source, HR_BY_GIVEN);
		if (!spilt)
			return false;
		copy_ip(asked.ip, spilt->asked_ip);
		asked.port = spilt->asked_port;
	}
	copy_ip(source->ip, asked.ip);
	source->port = asked.port;
	return true;
}

#endif /* HR_ORIGIN_BPF_H */
