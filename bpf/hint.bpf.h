/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a key's service was found last, and what that says before the record does. */
#ifndef HR_HINT_BPF_H
#define HR_HINT_BPF_H

/* The place of a key's hint; null where there are none. Multiplied and folded: addresses differ in
 * few bits. */
static __always_inline struct hr_hint *hint_of(const struct hr_key *key)
{
#ifdef HR_LEGACY
	return NULL;
#else
	const half *ip = (const half *)key->ip;
	__u64 h = ip[0] * 0x9e3779b97f4a7c15ULL;
	__u32 at;

	if (!knobs.has_hints)
		return NULL;
	h ^= ip[1] ^ (__u64)port_word(key) << 8;
	h *= 0xd6e8feb86659fd93ULL;
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ULL;
	at = h >> 48;
	return bpf_map_lookup_elem(&hints, &at);
#endif
}

/*
 * Has the key left a hint there, or another one? Where some thousands of services are called most
 * places are empty, so that who finds one is a service's nearly always.
 */
static __always_inline bool is_used(const struct hr_hint *hint)
{
	return hint && *(const volatile __u32 *)&hint->service;
}

static __always_inline void fetch_active(__u32 backend)
{
	const __u64 *count;

	if (!knobs.has_sock_release)
		return;
	count = bpf_map_lookup_elem(&active, &backend);
	if (count)
		fetch(count);
}

/* Scaled, not modulo: no division, and no bias worth the name below 2^13 slots. */
static __always_inline __u32 scale(__u32 number, __u32 count)
{
	return (__u32)(((__u64)number * count) >> 32);
}

/*
 * What a hint says the call will need, before the record has said that it is so: slot, backend
 * and count. Which backend it will be is a guess that does not wait for the slot. It stands here,
 * not where a backend is chosen, for what is kept from here to there the verifier follows.
 */
static __always_inline void fetch_hinted(const struct service *service, __u64 hinted, __u32 first)
{
	__u32 drawn = scale(service->random, count_of(hinted));
	__u32 at = ((__u32)hinted + drawn) / HR_LINE_WORDS;
	__u32 id = first + drawn;
	const struct hr_line *line = bpf_map_lookup_elem(&slots, &at);
	const struct hr_backend *backend = bpf_map_lookup_elem(&backends, &id);

	if (line)
		fetch(line);
	if (backend)
		fetch(backend);
	fetch_active(id);
}

/*
 * The same word, but not from the record: what is read by it need not wait for that.
 * The compiler must not know that they are the same.
 */
static __always_inline void take_hinted(struct hr_hint *hint, __u64 hinted, struct service *service)
{
	__u64 own = hinted;

	asm volatile("" : "+r"(own));
	if (unlikely(hinted != service->set)) {
		*(volatile __u32 *)&hint->first = slot((__u32)service->set);
		*(volatile __u64 *)&hint->set = service->set;
		return;
	}
	service->set = own;
}

#endif /* HR_HINT_BPF_H */
