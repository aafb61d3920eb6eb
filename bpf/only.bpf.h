/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The only service that an unconnected UDP socket has sent to. Most have no other, and many
 * send once and are closed, as the resolver of musl does: so it is kept in the socket's place,
 * if that is free, for to make a socket's storage takes longer than all else that a send does.
 * Who sends to another service, or straight to the backend, or connects to either, takes it to
 * storage.
 *
 * While the place has it, storage has none of this socket's.
 */
#ifndef HR_ONLY_BPF_H
#define HR_ONLY_BPF_H

#ifdef HR_LEGACY

struct seat {
};

static __always_inline void expect_seat(struct bpf_sock_addr *ctx, struct seat *seat)
{
}

static __always_inline bool is_expected(const struct seat *seat)
{
	return true;
}

static __always_inline struct hr_datagrams *datagrams_of(struct bpf_sock_addr *ctx, __u64 flags)
{
	return NULL;
}

static __always_inline struct hr_datagrams *stored_of(struct bpf_sock_addr *ctx)
{
	return NULL;
}

static __always_inline const struct hr_origin *only_of(struct bpf_sock_addr *ctx, struct seat *seat)
{
	return NULL;
}

static __always_inline void expect_only(struct bpf_sock_addr *ctx, struct seat *seat)
{
}

static __always_inline bool keep_only(struct bpf_sock_addr *ctx, struct seat *seat,
				      const struct hr_key *asked, const struct hr_origin *origin)
{
	return false;
}

static __always_inline void silence_only(struct bpf_sock_addr *ctx, struct seat *seat)
{
}

#else

/* To look at the kernel's own pointer takes less than to call its helper, and most have none. */
static __always_inline bool may_have_storage(struct bpf_sock_addr *ctx)
{
	const void *socket;

	if (!knobs.storage_offset)
		return true;
	socket = kernel_socket(ctx->sk, knobs.sock_type);
	return !socket || *(const volatile __u64 *)(socket + knobs.storage_offset);
}

static __always_inline struct hr_datagrams *datagrams_of(struct bpf_sock_addr *ctx, __u64 flags)
{
	return bpf_sk_storage_get(&datagrams, ctx->sk, NULL, flags);
}

/* What there is by now; null if nothing. */
static __always_inline struct hr_datagrams *stored_of(struct bpf_sock_addr *ctx)
{
	return may_have_storage(ctx) ? datagrams_of(ctx, 0) : NULL;
}

static __always_inline bool is_only(const struct seat *seat)
{
	return is_held(seat) && (seat->held & HR_UNCONNECTED);
}

static __always_inline bool are_kept(void)
{
	return knobs.has_places && knobs.keeps_only;
}

/* Null if the place has none of this socket's. */
static __always_inline struct hr_origin *only_of(struct bpf_sock_addr *ctx, struct seat *seat)
{
	struct hr_place *place;

	if (!are_kept() || !find_old_seat(seat, ctx, ctx->sk) || !is_only(seat))
		return NULL;
	place = place_at(seat);
	return place ? &place->connection.latest : NULL;
}

/*
 * To storage, where there is room for more, or to the LRU if there is no memory for that: then
 * null. The place is free: for another one, or for a connection.
 */
SUBPROGRAM struct hr_datagrams *give_up_only(struct bpf_sock_addr *ctx, struct seat *seat)
{
	struct hr_place *place = place_at(seat);
	struct hr_datagrams *d;

	if (!place)
		return NULL;
	d = datagrams_of(ctx, BPF_SK_STORAGE_GET_F_CREATE);
	if (d) {
		d->version = HR_STORAGE_VERSION;
		d->stamp[0] = ++d->clock;
		d->silent &= ~1U;
		d->origin[0] = place->connection.latest;
	} else {
		count_lost_storage();
		spill(ctx, &place->connection.latest, HR_BY_ASKED, HR_BY_GIVEN);
	}
	leave_seat(seat, &place->connection);
	seat->held = *(volatile __u64 *)seat->holder;
	return d;
}

/* It keeps its backend, and names it no more; in the LRU whoever calls this sees to that. */
static __always_inline void silence_only(struct bpf_sock_addr *ctx, struct seat *seat)
{
	struct hr_datagrams *d = give_up_only(ctx, seat);

	if (d)
		d->silent |= 1;
}

/* It is about to have a first one: the choice of a backend takes longer than a place to come. */
static __always_inline void expect_only(struct bpf_sock_addr *ctx, struct seat *seat)
{
	if (are_kept())
		expect_seat(ctx, seat);
}

/*
 * False if it has to be kept in storage: there are others, or the place is taken. `seat` is what
 * expect_only() found, or zero.
 */
static __always_inline bool keep_only(struct bpf_sock_addr *ctx, struct seat *seat,
				      const struct hr_key *asked, const struct hr_origin *origin)
{
	if (!are_kept())
		return false;
	if (!is_expected(seat))
		expect_seat(ctx, seat);
	if (!is_expected(seat))
		return false;
	if (is_only(seat)) {
		if (!was_asked(&seat->place->connection.latest, asked)) {
			give_up_only(ctx, seat);
			return false;
		}
	} else {
		/* crowded: what there is in storage may be a connection of before */
		if (is_held(seat) || (seat->held & HR_CROWDED && may_have_storage(ctx)) ||
		    stored_of(ctx) || !has_release(ctx) || !take_seat(seat, HR_UNCONNECTED))
			return false;
		seat->place->netns = netns_of(ctx);
	}
	copy_origin(&seat->place->connection.latest, origin);
	return true;
}

#endif

#endif /* HR_ONLY_BPF_H */
