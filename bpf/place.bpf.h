/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Places: where most sockets' connections are kept, for to make a socket's storage
 * takes longer than all else that connect does. A socket's cookie says which place
 * could be its own; whoever finds it taken uses storage, and marks the place, so
 * that nobody has to look at storage who finds it neither his nor marked.
 *
 * Only what is sure to be released may hold one: a process's socket, and none of
 * the kernel's own, which the parts of an MPTCP socket are as well.
 */
#ifndef HR_PLACE_BPF_H
#define HR_PLACE_BPF_H

#define IPPROTO_MPTCP_SOCKET 262
#define HR_MARKS (HR_CROWDED | HR_UNCONNECTED)

/*
 * Compare and swap; what was there before. Written out, for clang knows it only
 * together with 32-bit registers (-mcpu=v3). Where the kernel lacks it (below
 * 5.12), cpp/fitting.cpp takes it out.
 */
static __always_inline __u64 swap_if(__u64 *where, __u64 expected, __u64 wanted)
{
	__u64 found;

	asm volatile("r0 = %[expected]\n"
		     "r1 = %[where]\n"
		     "r2 = %[wanted]\n"
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
		     ".byte 0xdb, 0x21, 0, 0, 0xf1, 0, 0, 0\n"
#else
		     ".byte 0xdb, 0x12, 0, 0, 0, 0, 0, 0xf1\n"
#endif
		     "%[found] = r0\n"
		     : [found] "=r"(found)
		     : [where] "r"(where), [expected] "r"(expected), [wanted] "r"(wanted)
		     : "r0", "r1", "r2", "memory");
	return found;
}

/* A socket's place, as it is seen from outside. */
struct seat {
	__u64 *holder; /* null: none */
	__u64 held; /* what was there */
	__u64 cookie;
	struct hr_place *place; /* only if expect_seat() found it */
	__u32 at;
};

/*
 * Cookies count up from 1, but those that are given out while another one is being made
 * on the same processor count down from 2^64 (gen_cookie_next() in include/linux/cookie.h):
 * where programs can be preempted that is not seldom. Their highest bit is HR_CROWDED's.
 */
static __always_inline bool has_no_place(const struct seat *seat)
{
	return seat->cookie & HR_CROWDED;
}

static __always_inline void find_seat_by(struct seat *seat, __u64 cookie)
{
	seat->cookie = cookie;
	seat->at = cookie % HR_PLACES;
	seat->holder = bpf_map_lookup_elem(&holders, &seat->at);
	seat->held = seat->holder ? *(volatile __u64 *)seat->holder : 0;
	if (has_no_place(seat))
		seat->held |= HR_CROWDED; /* it looks at storage always */
}

/*
 * The kernel's own struct of a socket (bpf_rdonly_cast). Written out, for the programs
 * name no type of the kernel's: cpp/fitting.cpp puts in the function's number, or takes
 * the call out where the kernel lacks it (below 6.2).
 */
static __always_inline const void *kernel_socket(const struct bpf_sock *sk, __u64 type)
{
	const void *found;

	asm volatile("r1 = %[sk]\n"
		     "r2 = %[type]\n"
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
		     ".byte 0x85, 0x20, 0, 0, 0, 0, 0, 0\n"
#else
		     ".byte 0x85, 0x02, 0, 0, 0, 0, 0, 0\n"
#endif
		     "%[found] = r0\n"
		     : [found] "=r"(found)
		     : [sk] "r"(sk), [type] "r"(type)
		     : "r0", "r1", "r2", "r3", "r4", "r5");
	return found;
}

/* The cookie that the socket has by now, where programs may look; 0 if none. */
static __always_inline __u64 cookie_there(const struct bpf_sock *sk)
{
	const void *socket = kernel_socket(sk, knobs.sock_type);

	return socket ? *(const volatile __u64 *)(socket + knobs.cookie_offset) : 0;
}

/* `sk` is the socket that `ctx` stands for. To look is quicker than to call the helper. */
static __always_inline void find_seat(struct seat *seat, void *ctx, const struct bpf_sock *sk)
{
	__u64 cookie = knobs.sock_type ? cookie_there(sk) : 0;

	find_seat_by(seat, cookie ? cookie : bpf_get_socket_cookie(ctx));
}

/*
 * False if the socket cannot hold one, for it has no cookie yet. To ask for it would
 * make one, which takes as long as all else that a connect to no service needs.
 */
static __always_inline bool find_old_seat(struct seat *seat, void *ctx, const struct bpf_sock *sk)
{
	__u64 cookie = knobs.sock_type ? cookie_there(sk) : bpf_get_socket_cookie(ctx);

	if (!cookie && knobs.sock_type)
		return false;
	find_seat_by(seat, cookie);
	return true;
}

static __always_inline bool is_held(const struct seat *seat)
{
	return seat->holder && (seat->held & ~HR_MARKS) == seat->cookie;
}

static __always_inline struct hr_place *place_at(const struct seat *seat)
{
	return bpf_map_lookup_elem(&places, &seat->at);
}

/*
 * Whether or not it gets a place: the choice of a backend takes longer than a place to come.
 * `seat` is zero, or what this found before.
 */
static __always_inline void expect_seat(struct bpf_sock_addr *ctx, struct seat *seat)
{
	if (!knobs.has_places)
		return;
	find_seat(seat, ctx, ctx->sk);
	seat->place = place_at(seat);
	if (!seat->place || !seat->holder) {
		*seat = (struct seat){};
		return;
	}
	fetch(seat->place);
	fetch(&seat->place->netns); /* on its second line */
}

static __always_inline bool is_expected(const struct seat *seat)
{
	return seat->holder;
}

/* How often to try again what another processor was quicker at. */
#define SEAT_TRIES 4

/* Takes it if it is free; `as` is 0 or HR_UNCONNECTED. */
static __always_inline bool take_seat(const struct seat *seat, __u64 as)
{
	if (has_no_place(seat) || (seat->held & ~HR_CROWDED))
		return false;
	return swap_if(seat->holder, seat->held, seat->held | seat->cookie | as) == seat->held;
}

/*
 * Whoever finds it not his own is to look at storage from now on; and while no place
 * is marked, storage is empty.
 */
static __always_inline bool mark_seat(struct seat *seat)
{
	int i;

	if (has_no_place(seat))
		seat->held = *(volatile __u64 *)seat->holder; /* without what was made up */
#pragma unroll
	for (i = 0; i < SEAT_TRIES; i++) {
		if (seat->held & HR_CROWDED)
			return true;
		if (swap_if(seat->holder, seat->held, seat->held | HR_CROWDED) == seat->held)
			return true;
		seat->held = *(volatile __u64 *)seat->holder;
	}
	return false;
}

/* The next one finds it as new. */
static __always_inline void leave_seat(struct seat *seat, struct hr_connection *c)
{
	int i;

	c->latest.given_port = 0;
	c->before.given_port = 0;
	c->version = 0;
#pragma unroll
	for (i = 0; i < SEAT_TRIES; i++) {
		if (swap_if(seat->holder, seat->held, seat->held & HR_CROWDED) == seat->held)
			return;
		seat->held = *(volatile __u64 *)seat->holder;
		/* user space took it for a dead one's: it may be another's now */
		if (!is_held(seat))
			return;
	}
}

#endif /* HR_PLACE_BPF_H */
