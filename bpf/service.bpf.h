/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From an address to a service, and from a service to one of its backends. */
#ifndef HR_SERVICE_BPF_H
#define HR_SERVICE_BPF_H

/*
 * Returns the service's record and its index, or NULL if the address is none.
 *
 * The kernel recycles a deleted hash element at once, so a reader that found
 * key A may read B's index. The record tells: indexes are reused only after a
 * grace period, so a record that this program reached keeps its key.
 */
static __always_inline struct hr_record *find_service(const struct hr_key *key, __u32 *index)
{
	struct hr_record *record;
	const __u32 *found;

	found = bpf_map_lookup_elem(&services, key);
	if (!found)
		return NULL;
	*index = *(const volatile __u32 *)found;
	record = bpf_map_lookup_elem(&records, index);
	if (!record || !same_ip(record->key.ip, key->ip) || record->key.port != key->port ||
	    record->key.protocol != key->protocol)
		return NULL;
	return record;
}

/*
 * Returns a backend of the service, or NULL if it has none that is usable.
 *
 * The publishing word is read once, by one 64-bit load: two 32-bit loads
 * would mix one set's base with another's count.
 */
static __always_inline struct hr_backend *select_backend(struct hr_record *record, __u32 *id)
{
	__u64 set = *(const volatile __u64 *)&record->set;
	__u32 count = (set >> HR_SET_COUNT_SHIFT) & HR_SET_COUNT_MASK;
	const struct hr_line *line;
	__u32 n, at;

	if (!count)
		return NULL;
	/* scaled, not modulo: no division, and no bias worth the name below 2^16 slots */
	n = (__u32)set + (__u32)(((__u64)bpf_get_prandom_u32() * count) >> 32);
	at = n / HR_LINE_WORDS;
	line = bpf_map_lookup_elem(&slots, &at);
	if (!line)
		return NULL;
	*id = line->word[n % HR_LINE_WORDS];
	return bpf_map_lookup_elem(&backends, id);
}

/* May a socket that was sent to this backend go on using it for this service? */
static __always_inline bool still_usable(const struct hr_origin *origin, __u32 service)
{
	const struct hr_backend *backend = bpf_map_lookup_elem(&backends, &origin->backend);

	/* an id may have been given to another backend since: its address tells */
	return backend && *(const volatile __u32 *)&backend->service == service &&
	       backend->state != HR_DOWN && backend->port == origin->given_port &&
	       same_ip(backend->ip, origin->given_ip);
}

static __always_inline void count_translation(__u32 service)
{
	__u64 *count = bpf_map_lookup_elem(&translations, &service);

	/* atomic although per CPU: since 5.13 another program may preempt this one */
	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void count_refusal(__u32 service)
{
	__u64 *count = bpf_map_lookup_elem(&refusals, &service);

	if (count)
		__sync_fetch_and_add(count, 1);
}

#endif /* HR_SERVICE_BPF_H */
