/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What an unconnected UDP socket remembers of more services than `datagrams` has room for. */
#ifndef HR_MORE_BPF_H
#define HR_MORE_BPF_H

#ifdef HR_LEGACY

static __always_inline bool recall_more(struct bpf_sock_addr *ctx, const struct hr_key *asked,
					struct hr_origin *origin, __u64 clock)
{
	return false;
}

static __always_inline int remember_more(struct bpf_sock_addr *ctx, const struct hr_origin *origin,
					 __u64 clock)
{
	return -1;
}

static __always_inline int silence_more(struct bpf_sock_addr *ctx, const struct hr_key *to)
{
	return 0;
}

static __always_inline __u64 latest_more(struct bpf_sock_addr *ctx, const struct hr_key *source,
					 struct hr_key *asked, __u64 latest)
{
	return latest;
}

#else

static __always_inline struct hr_more_datagrams *more_of(struct bpf_sock_addr *ctx, __u64 flags)
{
	return bpf_sk_storage_get(&more_datagrams, ctx->sk, NULL, flags);
}

/*
 * Few sockets send to so many services, so what these cost does not matter much.
 * Where a loop stopped is kept in memory, where the verifier does not follow it:
 * otherwise it would walk all that comes after once for each place.
 */
#define NO_PLACE HR_MORE_ORIGINS

/* Its place, the first free one, or NO_PLACE. */
WALKED_ONCE int find_more_by(struct bpf_sock_addr *ctx, __u64 high, __u64 low, __u32 port)
{
	struct hr_more_datagrams *m = more_of(ctx, 0);
	struct hr_key asked;
	int i;

	if (!m)
		return NO_PLACE;
	from_numbers(&asked, high, low, port);
	m->place = NO_PLACE;
	for (i = 0; i < HR_MORE_ORIGINS; i++) {
		if (!m->stamp[i] || was_asked(&m->origin[i], &asked)) {
			m->place = i;
			break;
		}
	}
	return *(volatile __u32 *)&m->place;
}

static __always_inline __u32 find_more(struct bpf_sock_addr *ctx, const struct hr_key *asked)
{
	return find_more_by(ctx, high_of(asked), low_of(asked), asked->port);
}

SUBPROGRAM bool recall_more(struct bpf_sock_addr *ctx, const struct hr_key *asked,
			    struct hr_origin *origin, __u64 clock)
{
	struct hr_more_datagrams *m = more_of(ctx, 0);
	__u32 at;

	if (!m)
		return false;
	at = find_more(ctx, asked);
	if (at >= NO_PLACE || !m->stamp[at])
		return false;
	m->stamp[at] = clock << 1;
	*origin = m->origin[at];
	return true;
}

/* 0, or -1 if it has no room either. */
SUBPROGRAM int remember_more(struct bpf_sock_addr *ctx, const struct hr_origin *origin, __u64 clock)
{
	struct hr_more_datagrams *m = more_of(ctx, BPF_SK_STORAGE_GET_F_CREATE);
	struct hr_key asked = {};
	__u32 at;

	if (!m) {
		count_lost_storage();
		return -1;
	}
	copy_ip(asked.ip, origin->asked_ip);
	asked.port = origin->asked_port;
	at = find_more(ctx, &asked);
	if (at >= NO_PLACE)
		return -1;
	m->version = HR_STORAGE_VERSION;
	m->stamp[at] = clock << 1;
	m->origin[at] = *origin;
	return 0;
}

/* Bit 0 of a stamp: keeps its backend, but names it no more. */
SUBPROGRAM int silence_more(struct bpf_sock_addr *ctx, const struct hr_key *to)
{
	struct hr_more_datagrams *m = more_of(ctx, 0);
	int i;

	if (!m)
		return 0;
	for (i = 0; i < HR_MORE_ORIGINS; i++) {
		if (!m->stamp[i])
			break;
		if (was_given(&m->origin[i], to))
			m->stamp[i] |= 1;
	}
	return 0;
}

/* The place of the last one sent to of those that name this source, if that was after `latest`. */
WALKED_ONCE int latest_more_by(struct bpf_sock_addr *ctx, __u64 high, __u64 low, __u32 port,
			       __u64 latest)
{
	struct hr_more_datagrams *m = more_of(ctx, 0);
	struct hr_key source;
	int i;

	if (!m)
		return NO_PLACE;
	from_numbers(&source, high, low, port);
	m->place = NO_PLACE;
	m->latest = latest;
	for (i = 0; i < HR_MORE_ORIGINS; i++) {
		__u64 stamp = m->stamp[i];

		if (!stamp)
			break;
		if ((stamp & 1) || (stamp >> 1) <= *(volatile __u64 *)&m->latest ||
		    !was_given(&m->origin[i], &source))
			continue;
		m->latest = stamp >> 1;
		m->place = i;
	}
	return *(volatile __u32 *)&m->place;
}

static __always_inline __u64 latest_more(struct bpf_sock_addr *ctx, const struct hr_key *source,
					 struct hr_key *asked, __u64 latest)
{
	__u32 at = latest_more_by(ctx, high_of(source), low_of(source), source->port, latest);
	const struct hr_more_datagrams *m = more_of(ctx, 0);

	if (!m || at >= NO_PLACE)
		return latest;
	copy_ip(asked->ip, m->origin[at].asked_ip);
	asked->port = m->origin[at].asked_port;
	return m->stamp[at] >> 1;
}

#endif

#endif /* HR_MORE_BPF_H */
