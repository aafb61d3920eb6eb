/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a key's service was found last, and what that says before the record does. */
#ifndef HR_HINT_BPF_H
#define HR_HINT_BPF_H

/* A key's hint, as it was when it was looked for. */
struct hint {
	struct hr_hints *line; /* null: there are none */
	__u32 tag; /* of the key */
	__u32 way; /* which of the line's */
	__u32 service; /* what it says; 0: there is none of this key */
};

/* 1 or 0, without a branch: the verifier would follow each of them to the end. */
static __always_inline __u32 has_tag(__u32 service, __u32 tag)
{
	return ((__u64)((service & ~HR_ID_MASK) ^ tag) - 1) >> 63;
}

static __always_inline __u32 service_in(const struct hr_hints *line, __u32 way)
{
	return *(const volatile __u32 *)&line->way[way].service;
}

/* Another key's tag may be the same, and so a line's two: the record tells. */
static __always_inline void look_through(struct hint *hint)
{
	__u32 said[HR_HINT_WAYS], is[HR_HINT_WAYS];
	int way;

#pragma unroll
	for (way = 0; way < HR_HINT_WAYS; way++) {
		said[way] = service_in(hint->line, way);
		is[way] = has_tag(said[way], hint->tag);
	}
	hint->way = (is[1] | is[2] << 1 | is[3] | is[3] << 1) % HR_HINT_WAYS;
	hint->service =
	    (said[0] & -is[0]) | (said[1] & -is[1]) | (said[2] & -is[2]) | (said[3] & -is[3]);
}

/* Multiplied and folded: addresses differ in few bits. */
static __always_inline void find_hint(struct hint *hint, const struct hr_key *key)
{
	*hint = (struct hint){};
#ifndef HR_LEGACY
	const struct hr_meta *m = get_meta();
	const half *ip = (const half *)key->ip;
	__u64 h = ip[0] * 0x9e3779b97f4a7c15ULL;
	__u32 at;

	if (!knobs.has_hints || !m)
		return;
	h ^= ip[1] ^ (__u64)port_word(key) << 8;
	h *= 0xd6e8feb86659fd93ULL;
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ULL;
	at = h >> 32 & m->hint_mask;
	hint->tag = (h >> 32 | 1U << HR_ID_BITS) & ~HR_ID_MASK; /* never 0, as of none */
	hint->line = bpf_map_lookup_elem(&hints, &at);
	if (hint->line)
		look_through(hint);
#endif
}

/*
 * Has the key left a hint, or another one of the same tag? That is so seldom that who finds
 * one is a service's nearly always.
 */
static __always_inline bool is_used(const struct hint *hint)
{
	return hint->service;
}

static __always_inline __u32 hinted_index(const struct hint *hint)
{
	return (hint->service & HR_ID_MASK) - 1;
}

static __always_inline struct hr_hint *place_of(const struct hint *hint)
{
	__u32 way = hint->way;

	asm volatile("" : "+r"(way)); /* the compiler knows how large it is, and the verifier not */
	return &hint->line->way[way % HR_HINT_WAYS];
}

/* A free one of four; any if there is none. */
WALKED_ONCE int free_way(__u32 a, __u32 b, __u32 c, __u32 d, __u32 random)
{
	return !a ? 0 : !b ? 1 : !c ? 2 : !d ? 3 : random % HR_HINT_WAYS;
}

/* The key's service was found without it. */
static __always_inline void leave_hint(struct hint *hint, __u32 service, __u32 random)
{
	const struct hr_hints *line = hint->line;

	if (!line)
		return;
	if (!is_used(hint))
		hint->way = free_way(service_in(line, 0), service_in(line, 1), service_in(line, 2),
				     service_in(line, 3), random);
	*(volatile __u32 *)&place_of(hint)->service = (service + 1) | hint->tag;
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

/* What a hint says of its service, before the record has said that it is so. */
struct hinted {
	__u64 set;
	__u32 check;
	__u32 first;
};

static __always_inline void read_hint(struct hinted *hinted, const struct hint *hint)
{
	hinted->set = *(volatile __u64 *)&place_of(hint)->set;
	hinted->check = *(volatile __u32 *)&place_of(hint)->check;
	hinted->first = first_of(hinted->set, hinted->check);
}

/*
 * What the call will need: backend and count, or the slot that tells which one. It stands here,
 * not where a backend is chosen, for what is kept from here to there the verifier follows.
 */
static __always_inline void fetch_hinted(const struct service *service, const struct hinted *hinted)
{
	/* of the two families one has none, but for a service on the node's addresses */
	__u32 drawn = scale(service->random, count_of(hinted->set) + count6_of(hinted->set));
	__u32 at = ((__u32)hinted->set + drawn) / HR_LINE_WORDS;
	__u32 id = hinted->first + drawn;
	const struct hr_backend *backend;
	const struct hr_line *line;

	if (unlikely(hinted->first == NO_ROW)) {
		line = bpf_map_lookup_elem(&slots, &at);
		if (line)
			fetch(line);
		return;
	}
	backend = bpf_map_lookup_elem(&backends, &id);
	if (backend)
		fetch(backend);
	fetch_active(id);
}

/*
 * The same as the record says, but not from the record: what is read by it need not wait for
 * that. The compiler must not know that it is the same.
 */
static __always_inline void take_hinted(const struct hint *hint, const struct hinted *hinted,
					const struct hr_record *record, struct service *service)
{
	__u32 check = *(const volatile __u32 *)&record->check;
	bool is_whole = *(const volatile __u64 *)&record->set == service->set;
	__u32 first = hinted->first;
	__u64 set = hinted->set;

	asm volatile("" : "+r"(set), "+r"(first));
	if (unlikely(hinted->set != service->set || hinted->check != check || !is_whole)) {
		*(volatile __u64 *)&place_of(hint)->set = service->set;
		*(volatile __u32 *)&place_of(hint)->check = check;
		service->first = is_whole ? first_of(service->set, check) : NO_ROW;
		return;
	}
	service->set = set;
	service->first = first;
}

#endif /* HR_HINT_BPF_H */
