/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which backend a socket is counted for. */
#ifndef HR_ACTIVE_BPF_H
#define HR_ACTIVE_BPF_H

/*
 * A socket counts once, for the backend that it was last sent to, until its
 * last close. The id may be another backend's by then: its incarnation tells.
 */
static __always_inline void uncount(struct hr_connection *c)
{
	const struct hr_backend *backend;
	__u64 *count;

	if (!c->incarnation)
		return;
	backend = bpf_map_lookup_elem(&backends, &c->counted);
	count = bpf_map_lookup_elem(&active, &c->counted);
	if (backend && count && backend->incarnation == c->incarnation)
		__sync_fetch_and_add(count, -1);
	c->incarnation = 0;
}

static __always_inline void count_for(struct hr_connection *c, const struct hr_origin *origin)
{
	__u64 *count;

	if (unlikely(c->incarnation == origin->incarnation && c->counted == origin->backend))
		return;
	uncount(c);
	count = bpf_map_lookup_elem(&active, &origin->backend);
	if (unlikely(!count))
		return;
	__sync_fetch_and_add(count, 1);
	c->counted = origin->backend;
	c->incarnation = origin->incarnation;
}

#endif /* HR_ACTIVE_BPF_H */
