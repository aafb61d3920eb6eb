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

/* Both lie at a multiple of 8 bytes. */
LIES_WHOLE(struct hr_connection, latest);
LIES_WHOLE(struct hr_origin, given_ip);
LIES_WHOLE(struct hr_origin, asked_port);

static __always_inline void copy_origin(struct hr_origin *to, const struct hr_origin *from)
{
	const half *ports = (const half *)&from->asked_port; /* and the backend */

	copy_whole(to->asked_ip, from->asked_ip);
	copy_whole(to->given_ip, from->given_ip);
	*(half *)&to->asked_port = *ports;
	to->incarnation = from->incarnation;
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

/*
 * True if there is one, and `found` is a copy. The kernel gives an LRU's elements to others at
 * once, also while they are read: what is found again where it was is whole.
 */
SUBPROGRAM bool overflow_get(void *ctx, const struct hr_key *at, __u16 kind,
			     struct hr_origin *found)
{
	struct hr_overflow_key key;
	const struct hr_origin *kept;

	overflow_key(&key, ctx, at->ip, at->port, kind);
	kept = bpf_map_lookup_elem(&overflow, &key);
	if (!kept)
		return false;
	*found = *kept;
	return bpf_map_lookup_elem(&overflow, &key) == kept;
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
SUBPROGRAM int spill(void *ctx, const struct hr_origin *origin, __u16 forth, __u16 back)
{
	return overflow_put(ctx, origin, forth) || overflow_put(ctx, origin, back) ? -1 : 0;
}

static __always_inline void overflow_drop(void *ctx, const struct hr_key *at, __u16 kind)
{
	struct hr_overflow_key key;

	overflow_key(&key, ctx, at->ip, at->port, kind);
	bpf_map_delete_elem(&overflow, &key);
}

static __always_inline void count_lost_storage(void)
{
	if (HAS_STORAGE)
		count_event(HR_STORAGE_FAILED);
}

#endif /* HR_ORIGIN_BPF_H */
