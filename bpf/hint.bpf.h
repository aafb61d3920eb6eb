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
	return ((__u64)((service & ~HR_HINT_INDEX) ^ tag) - 1) >> 63;
}

static __always_inline __u32 service_in(const struct hr_hints *line, __u32 way)
{
	return *(const volatile __u32 *)&line->way[way].service;
}

/*
 * The first with the key's tag. Another key's may be the same, or two programs may each have
 * left a hint of this one: the record tells whether it is right, and who finds it wrong writes
 * it anew.
 */
static __always_inline void look_through(struct hint *hint)
{
	__u32 a = service_in(hint->line, 0), b = service_in(hint->line, 1);
	__u32 c = service_in(hint->line, 2), d = service_in(hint->line, 3);
	__u32 is_a = has_tag(a, hint->tag);
	__u32 is_b = has_tag(b, hint->tag) & ~is_a;
	__u32 is_c = has_tag(c, hint->tag) & ~(is_a | is_b);
	__u32 is_d = has_tag(d, hint->tag) & ~(is_a | is_b | is_c);

	hint->way = is_b | is_c << 1 | is_d | is_d << 1;
	hint->service = (a & -is_a) | (b & -is_b) | (c & -is_c) | (d & -is_d);
}

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
	/* multiplied and folded: addresses differ in few bits */
	h ^= ip[1] ^ (__u64)port_word(key) << 8;
	h *= 0xd6e8feb86659fd93ULL;
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ULL;
	at = h >> 32 & m->hint_mask;
	hint->tag = (h >> 32 | 1U << HR_HINT_TAG_SHIFT) & ~HR_HINT_INDEX; /* never 0, as of none */
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
	return (hint->service & HR_HINT_INDEX) - 1;
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
	__u32 first;
	__u32 pad;
};

static __always_inline void read_hint(struct hinted *hinted, const struct hint *hint)
{
	hinted->set = *(volatile __u64 *)&place_of(hint)->set;
	hinted->first = *(volatile __u32 *)&place_of(hint)->first;
}

/*
 * What the call will need: backend and count. Where ids are in no row, which backend it will be is
 * a guess, mostly right if they nearly are, that does not wait for the slot. It stands here, not
 * where a backend is chosen, for what is kept from here to there the verifier follows.
 */
static __always_inline void fetch_hinted(const struct service *service, const struct hinted *hinted)
{
	/* of the two families one has none, but for a service on the node's addresses */
	__u32 drawn = scale(service->random, count_of(hinted->set) + count6_of(hinted->set));
	__u32 at = ((__u32)hinted->set + drawn) / HR_LINE_WORDS;
	__u32 id = (hinted->first & ~HR_ROW) + drawn;
	const struct hr_backend *backend = bpf_map_lookup_elem(&backends, &id);
	const struct hr_line *line;

	if (unlikely(!(hinted->first & HR_ROW))) {
		line = bpf_map_lookup_elem(&slots, &at);
		if (line)
			fetch(line);
	}
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
	__u32 first = *(const volatile __u32 *)&record->first;
	bool is_its_own = *(const volatile __u64 *)&record->set == service->set;
	struct hinted own = *hinted;

	asm volatile("" : "+r"(own.set), "+r"(own.first));
	if (unlikely(hinted->set != service->set || hinted->first != first || !is_its_own)) {
		*(volatile __u64 *)&place_of(hint)->set = service->set;
		*(volatile __u32 *)&place_of(hint)->first = first;
		service->first = is_its_own ? first : HR_NO_ID;
		return;
	}
	service->set = own.set;
	service->first = own.first;
}

#endif /* HR_HINT_BPF_H */
