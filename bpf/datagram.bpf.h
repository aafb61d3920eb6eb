/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What an unconnected UDP socket remembers: one origin for each service that it has sent to; the
 * only one in its place (bpf/only.bpf.h), several in storage.
 */
#ifndef HR_DATAGRAM_BPF_H
#define HR_DATAGRAM_BPF_H

/* What storage has of this backend names it no more, until its service is sent to again. */
WALKED_ONCE int silence_by(struct bpf_sock_addr *ctx, __u64 high, __u64 low, __u32 port)
{
	struct hr_datagrams *d = datagrams_of(ctx, 0);
	struct hr_key backend;
	int i;

	if (!d)
		return 0;
	from_numbers(&backend, high, low, port);
	for (i = 0; i < HR_DATAGRAM_ORIGINS; i++) {
		if (!d->stamp[i])
			break;
		if (was_given(&d->origin[i], &backend))
			d->silent |= 1U << i;
	}
	if (d->overflowed)
		silence_more(ctx, &backend);
	return 0;
}

static __always_inline void silence(struct bpf_sock_addr *ctx, const struct hr_key *backend)
{
	struct seat seat;
	const struct hr_origin *only = only_of(ctx, &seat);

	if (only && was_given(only, backend))
		silence_only(ctx, &seat);
	else if (!only)
		silence_by(ctx, high_of(backend), low_of(backend), backend->port);
}

/* The LRU's origin names its backend from now on. */
static __always_inline int name_by_overflow(struct bpf_sock_addr *ctx,
					    const struct hr_origin *origin)
{
	struct hr_key backend = {};

	copy_ip(backend.ip, origin->given_ip);
	backend.port = origin->given_port;
	silence(ctx, &backend);
	return overflow_put(ctx, origin, HR_BY_GIVEN);
}

/* The same of what is not in the place; `only`: it has another service, and storage has none. */
SUBPROGRAM bool recall_stored(struct bpf_sock_addr *ctx, bool only, const struct hr_key *asked,
			      struct hr_origin *origin)
{
	struct hr_datagrams *d = only ? NULL : stored_of(ctx);
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
	if (!overflowed)
		return false;
	if (d && recall_more(ctx, asked, origin, ++d->clock))
		return true;
	if (!overflow_used())
		return false;
	if (!overflow_get(ctx, asked, HR_BY_ASKED, origin))
		return false;
	name_by_overflow(ctx, origin);
	return true;
}

/*
 * Finds where an earlier send to this service went, and makes that backend
 * name this service from now on (two services may share a backend: the last
 * one sent to wins).
 */
static __always_inline bool recall_datagram(struct bpf_sock_addr *ctx, const struct hr_key *asked,
					    struct hr_origin *origin)
{
	struct seat seat;
	const struct hr_origin *only = only_of(ctx, &seat);

	if (likely(only && was_asked(only, asked))) {
		copy_origin(origin, only);
		return true;
	}
	return recall_stored(ctx, only, asked, origin);
}

/* `anew`: it was not remembered already. `seat` is what expect_only() found, or zero. */
SUBPROGRAM int remember_datagram(struct bpf_sock_addr *ctx, struct seat *seat,
				 const struct hr_key *asked, const struct hr_origin *origin,
				 bool anew)
{
	struct hr_datagrams *d;
	bool kept = false;
	int i;

	if (keep_only(ctx, seat, asked, origin))
		return 0;
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
	if (kept)
		return 0;
	d->overflowed = 1;
	if (!remember_more(ctx, origin, ++d->clock))
		return 0;
	if (anew)
		count_event(HR_OVERFLOWED);
	return overflow_put(ctx, origin, HR_BY_ASKED) || name_by_overflow(ctx, origin) ? -1 : 0;
}

/*
 * The socket is about to send straight to this address: what comes back from
 * it is no service's answer, until the service is sent to again.
 */
static __always_inline void forget_datagram(struct bpf_sock_addr *ctx, const struct hr_key *to)
{
	struct seat seat;
	const struct hr_origin *only = only_of(ctx, &seat);
	const struct hr_datagrams *d = only ? NULL : stored_of(ctx);

	if (only && was_given(only, to))
		silence_only(ctx, &seat);
	if (d)
		silence_by(ctx, high_of(to), low_of(to), to->port);
	if ((!d || d->overflowed) && overflow_used())
		overflow_drop(ctx, to, HR_BY_GIVEN);
}

/* Which service was this source last addressed as? Stored to `asked`. */
static __always_inline bool recall_source(struct bpf_sock_addr *ctx, struct hr_key *source)
{
	struct seat seat;
	const struct hr_origin *only = only_of(ctx, &seat);
	const struct hr_datagrams *d;
	struct hr_origin spilt;
	struct hr_key asked = {};
	bool overflowed = true;
	__u64 latest = 0;
	int i;

	if (only && was_given(only, source)) {
		copy_ip(source->ip, only->asked_ip);
		source->port = only->asked_port;
		return true;
	}
	d = only ? NULL : stored_of(ctx);
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
		if (overflowed)
			latest = latest_more(ctx, source, &asked, latest);
	}
	if (!latest) {
		if (!overflowed || !overflow_used())
			return false;
		if (!overflow_get(ctx, source, HR_BY_GIVEN, &spilt))
			return false;
		copy_ip(asked.ip, spilt.asked_ip);
		asked.port = spilt.asked_port;
	}
	copy_ip(source->ip, asked.ip);
	source->port = asked.port;
	return true;
}

#endif /* HR_DATAGRAM_BPF_H */
