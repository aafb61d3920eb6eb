/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a connected socket remembers. */
#ifndef HR_CONNECTION_BPF_H
#define HR_CONNECTION_BPF_H

#ifdef HR_LEGACY

static __always_inline bool find_connection(struct bpf_sock_addr *ctx, struct hr_connection **c)
{
	*c = NULL;
	return true;
}

static __always_inline struct hr_connection *
connection_to_write(struct bpf_sock_addr *ctx, struct seat *seat, bool *is_released)
{
	return NULL;
}

#else

/* False if the socket remembers nothing anywhere: the LRU, too, goes by the cookie. */
static __always_inline bool find_connection(struct bpf_sock_addr *ctx, struct hr_connection **c)
{
	*c = NULL;
	if (knobs.has_places && ctx->protocol != IPPROTO_MPTCP_SOCKET) {
		struct seat seat;

		if (!find_old_seat(&seat, ctx, ctx->sk))
			return false;
		if (is_held(&seat) && !(seat.held & HR_UNCONNECTED)) {
			*c = (struct hr_connection *)place_at(&seat);
			return true;
		}
		if (!(seat.held & HR_CROWDED))
			return true;
	}
	*c = bpf_sk_storage_get(&connections, ctx->sk, NULL, 0);
	return true;
}

/*
 * MPTCP connects a subflow, but getpeername and sock_release see the socket
 * that owns it: that one remembers. `is_released`: will a program be told of its end?
 */
static __always_inline struct hr_connection *
connection_to_write(struct bpf_sock_addr *ctx, struct seat *seat, bool *is_released)
{
	struct hr_connection *c;

	*is_released = true;
	if (ctx->protocol == IPPROTO_TCP && !is_process_socket(ctx)) {
		struct mptcp_sock *msk = bpf_skc_to_mptcp_sock(ctx->sk);

		if (unlikely(msk)) {
			if (seat->holder && !mark_seat(seat)) /* the part's: any tells of storage */
				return NULL;
			return bpf_sk_storage_get(&connections, msk, NULL,
						  BPF_SK_STORAGE_GET_F_CREATE);
		}
	}
	if (knobs.has_places) {
		if (!seat->holder)
			return NULL;
		if (is_held(seat)) {
			if (likely(!(seat->held & HR_UNCONNECTED)))
				return &seat->place->connection;
			give_up_only(ctx, seat);
		}
	}
	*is_released = has_release(ctx);
	if (knobs.has_places) {
		if (unlikely(seat->held & HR_CROWDED)) {
			c = bpf_sk_storage_get(&connections, ctx->sk, NULL, 0);
			if (c)
				return c;
		}
		if (likely(*is_released) && likely(take_seat(seat, 0))) {
			seat->place->netns = netns_of(ctx);
			return &seat->place->connection;
		}
		if (!mark_seat(seat))
			return NULL;
	}
	return bpf_sk_storage_get(&connections, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
}

#endif

/* A kernel that does not show the socket leaves it at what was remembered. */
static __always_inline bool is_true(struct bpf_sock *sk, const struct hr_origin *origin)
{
	return !sk || (is_connected(sk) && peer_is(sk, origin->given_ip, origin->given_port));
}

/* `seat` is what expect_seat() found. */
static __always_inline int remember_connection(struct bpf_sock_addr *ctx, struct seat *seat,
					       const struct hr_origin *origin)
{
	bool is_released;
	struct hr_connection *c = connection_to_write(ctx, seat, &is_released);

	if (likely(c)) {
		/* it counts elsewhere now, and stays where it is if that fails */
		if (unlikely(c->version && is_true(socket_of(ctx), &c->latest))) {
			c->before = c->latest;
			raise_flag(HR_MOVED);
		}
		copy_origin(&c->latest, origin);
		c->version = HR_STORAGE_VERSION;
		if (!knobs.has_sock_release)
			return 0;
		if (likely(is_released))
			count_for(c, origin);
		else
			raise_flag(HR_MOVED); /* no count tells that it is to be looked for */
		return 0;
	}
	count_lost_storage();
	return spill(ctx, origin, HR_BY_CONNECTED, HR_BY_PEER);
}

/*
 * What the socket asked for, if it was sent to this peer. Here and below, `spilt` is where it lies
 * then that was found in the LRU.
 */
static __always_inline const struct hr_origin *
recall_connection(struct bpf_sock_addr *ctx, const struct hr_key *peer, struct hr_origin *spilt)
{
	struct hr_connection *c;

	if (!find_connection(ctx, &c))
		return NULL;
	if (c) {
		if (was_given(&c->latest, peer))
			return &c->latest;
		if (was_given(&c->before, peer))
			return &c->before;
	}
	if (overflow_used() && overflow_get(ctx, peer, HR_BY_PEER, spilt))
		return spilt;
	return NULL;
}

/* The service that the socket was connected to before the latest, if it was sent to this peer. */
static __always_inline const struct hr_origin *recall_former(struct bpf_sock_addr *ctx,
							     const struct hr_key *peer)
{
	struct hr_connection *c;

	if (!find_connection(ctx, &c) || !c || !was_given(&c->before, peer))
		return NULL;
	return &c->before;
}

/*
 * The socket is about to connect straight to this address. What it remembers
 * of other backends is told from the truth by the peer, if it comes to that.
 */
static __always_inline void forget_connection(struct bpf_sock_addr *ctx, const struct hr_key *to)
{
	struct hr_connection *c;

	if (!find_connection(ctx, &c))
		return;
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

/* The socket is not to go there after all. */
static __always_inline void forget_origin(struct bpf_sock_addr *ctx, const struct hr_origin *origin)
{
	struct hr_key backend = {};

	copy_ip(backend.ip, origin->given_ip);
	backend.port = origin->given_port;
	forget_connection(ctx, &backend);
}

/* The backend that the socket is connected to, if it asked for this address to get there. */
static __always_inline const struct hr_origin *connected_origin(struct bpf_sock_addr *ctx,
								struct bpf_sock *sk,
								const struct hr_key *asked,
								struct hr_origin *spilt)
{
	struct hr_connection *c;

	if (!find_connection(ctx, &c))
		return NULL;
	if (c && was_asked(&c->latest, asked) && is_true(sk, &c->latest))
		return &c->latest;
	if (c && was_asked(&c->before, asked) && is_true(sk, &c->before))
		return &c->before;
	if (overflow_used() && overflow_get(ctx, asked, HR_BY_CONNECTED, spilt) &&
	    is_true(sk, spilt))
		return spilt;
	return NULL;
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
	struct hr_connection *c;

	if (!find_connection(ctx, &c))
		return false;
	if (c && c->latest.given_port && was_asked(&c->latest, asked)) {
		*origin = c->latest;
		return true;
	}
	return !c && overflow_used() && overflow_get(ctx, asked, HR_BY_CONNECTED, origin);
}

#endif /* HR_CONNECTION_BPF_H */
