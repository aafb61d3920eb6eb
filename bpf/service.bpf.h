/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From an address and a caller to a service. */
#ifndef HR_SERVICE_BPF_H
#define HR_SERVICE_BPF_H

/* A service as it was when it was found: its word is read once, and kept. */
struct service {
	__u32 index;
	__u32 random; /* which slot it will be */
	__u64 set;
};

static __always_inline struct hr_meta *get_meta(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&meta, &zero);
}

/* Word n of `slots`; 0 beyond its end, where no writer ever points. */
static __always_inline __u32 slot(__u32 n)
{
	__u32 at = n / HR_LINE_WORDS;
	const struct hr_line *line = bpf_map_lookup_elem(&slots, &at);

	return line ? line->word[n % HR_LINE_WORDS] : 0;
}

static __always_inline __u32 count_of(__u64 set)
{
	return (set >> HR_SET_COUNT_SHIFT) & HR_SET_COUNT_MASK;
}

static __always_inline __u32 count6_of(__u64 set)
{
	return (set >> HR_SET_COUNT6_SHIFT) & HR_SET_COUNT_MASK;
}

/* Word n of the service's struct hr_details. */
static __always_inline __u32 detail(__u64 set, __u32 offset)
{
	return slot((__u32)set + count_of(set) + count6_of(set) + offset / sizeof(__u32));
}

/*
 * Bit n: there is a service of scope n with the key's protocol and port. Most calls are to no
 * service: what only services need is laid out of their way.
 */
static __always_inline __u32 scopes_of(const struct hr_key *key)
{
	__u32 at = HR_PORT_LINE(key->protocol == IPPROTO_UDP, key->port);
	const struct hr_line *line = bpf_map_lookup_elem(&ports, &at);
	__u32 exact, node;

	if (!line)
		return 0;
	exact = line->word[HR_PORT_WORD(HR_EXACT, key->port)] >> key->port % 32;
	node = line->word[HR_PORT_WORD(HR_NODE, key->port)] >> key->port % 32;
	return (exact & 1) << HR_EXACT | (node & 1) << HR_NODE;
}

static __always_inline bool in_host_netns(struct bpf_sock_addr *ctx)
{
	const struct hr_meta *m = get_meta();

	return m && m->host_netns && m->host_netns == netns_of(ctx);
}

/* A pod's own loopback is its own. */
static __always_inline bool is_node_address(struct bpf_sock_addr *ctx, const struct hr_key *key)
{
	struct hr_ip ip;

	if (is_loopback(key->ip))
		return in_host_netns(ctx);
	copy_ip(ip.ip, key->ip);
	return bpf_map_lookup_elem(&node_addresses, &ip);
}

typedef __u32 __attribute__((may_alias)) word;

/* All but the address, in one load. */
static __always_inline __u32 port_word(const struct hr_key *key)
{
	return *(const volatile word *)&key->port;
}

/* Both lie at a multiple of 8 bytes. */
LIES_WHOLE(struct hr_record, key);
LIES_WHOLE(struct hr_traced, service);
LIES_WHOLE(struct hr_listener, service);

static __always_inline bool same_key(const struct hr_key *a, const struct hr_key *b)
{
	return port_word(a) == port_word(b) && same_whole(a->ip, b->ip);
}

/* How often a word is read again that a writer is about to replace. */
#define WORD_TRIES 16

/*
 * The publishing word is read once, by one 64-bit load: two 32-bit loads
 * would mix one set's base with another's count. Where it is not stored at
 * once, the check tells what is not whole; false if it stays so.
 */
static __always_inline bool read_set(const struct hr_record *record, __u64 *set)
{
	int i;

	*set = *(const volatile __u64 *)&record->set;
	if (!knobs.checks_words)
		return true;
#pragma unroll
	for (i = 0; i < WORD_TRIES; i++) {
		if (*(const volatile __u32 *)&record->check == HR_CHECK(*set))
			return true;
		*set = *(const volatile __u64 *)&record->set;
	}
	return false;
}

/* Torn for so long: the service is there, so to refuse is right, and to pass is not. */
static __always_inline void read_whole_set(const struct hr_record *record, struct service *service)
{
	if (unlikely(!read_set(record, &service->set)))
		service->set = 0;
}

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

/*
 * The record, if it is this key's. Programs come here by hints too, at any time, so the
 * word with the scope is read before all else. Found valid, either it was so when the program
 * began, and the record is not used again before it ends; or a writer has stored it since, and all
 * else before it.
 */
static __always_inline const struct hr_record *record_at(struct service *service, __u32 index,
							 const struct hr_key *key)
{
	const struct hr_record *record;

	service->index = index;
	record = bpf_map_lookup_elem(&records, &service->index);
	if (unlikely(!record || port_word(&record->key) != port_word(key)))
		return NULL;
	asm volatile("" ::: "memory");
	return likely(same_whole(record->key.ip, key->ip)) ? record : NULL;
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

/*
 * By the last one's hint: two places in memory instead of four, for the hash has a bucket
 * and an element in between, and takes the time of a hash function and a call.
 *
 * The kernel recycles a deleted hash element at once, so a reader that found
 * key A may read B's index. The record tells: indexes are reused only after a
 * grace period, so a record that this program reached keeps its key.
 */
static __always_inline bool find_key(const struct hr_key *key, struct hr_hint *hint,
				     struct service *service)
{
	const struct hr_record *record = NULL;
	__u64 hinted = 0;
	const __u32 *found;

	if (likely(is_used(hint))) {
		service->random = bpf_get_prandom_u32(); /* while the hint is on its way */
		hinted = *(volatile __u64 *)&hint->set;
		fetch_hinted(service, hinted, *(volatile __u32 *)&hint->first);
		record = record_at(service, *(volatile __u32 *)&hint->service - 1, key);
	}
	if (unlikely(!record)) {
		found = bpf_map_lookup_elem(&services, key);
		if (!found)
			return false;
		record = record_at(service, *(const volatile __u32 *)found, key);
		if (!record)
			return false;
		service->random = bpf_get_prandom_u32();
		if (hint)
			*(volatile __u32 *)&hint->service = service->index + 1;
	}
	read_whole_set(record, service);
	if (hint)
		take_hinted(hint, hinted, service);
	return true;
}

#ifdef HR_LEGACY
/* No kernel that this is for tells a task's cgroup. */
static __always_inline __u32 exempt_levels(void)
{
	return 0;
}

static __always_inline bool is_exempt(void)
{
	return false;
}
#else
/* Bit n: a cgroup of depth n is exempt. */
static __always_inline __u32 exempt_levels(void)
{
	const struct hr_meta *m = get_meta();

	return m ? m->exempt_levels : 0;
}

/* Is the calling task in a cgroup that is exempt, or below one? */
WALKED_ONCE int is_exempt(void)
{
	__u32 levels = exempt_levels();
	int level;

	for (level = 0; level < 32; level++) {
		__u64 id;

		if (!(levels & (1U << level)))
			continue;
		id = ancestor_of_task(level);
		if (id && bpf_map_lookup_elem(&exempt, &id))
			return true;
	}
	return false;
}
#endif

static __always_inline bool in_subtree(__u64 set)
{
	__u64 id = detail(set, offsetof(struct hr_details, subtree_low)) |
		   (__u64)detail(set, offsetof(struct hr_details, subtree_high)) << 32;
	__u32 word = detail(set, offsetof(struct hr_details, subtree_level));

	return id && ancestor_of_task(*(const __u8 *)&word) == id; /* its first byte in memory */
}

/* The calling task decides, not who made the socket. */
static __always_inline bool may_use(struct bpf_sock_addr *ctx, __u64 set)
{
	if (unlikely(set & HR_SET_HOST_ONLY) && !in_host_netns(ctx))
		return false;
	if (unlikely(set & HR_SET_SUBTREE) && !in_subtree(set))
		return false;
	return likely(!exempt_levels()) || !is_exempt();
}

/*
 * A connect does not know its source address yet; its namespace's addresses, user
 * space knows. Who is not in the list is refused, whether that is why or not.
 */
static __always_inline bool is_refused(struct bpf_sock_addr *ctx, const struct service *service)
{
	struct hr_allowed_key client = {.service = service->index};

	if (likely(!(service->set & HR_SET_LISTED)))
		return false;
	client.netns = netns_of(ctx);
	return !client.netns || !bpf_map_lookup_elem(&allowed, &client);
}

/*
 * One more than the index of the service that this address has as one of the node's; 0 if it has
 * none. `what` is the port and, above it, the protocol.
 */
WALKED_ONCE int find_node_index(struct bpf_sock_addr *ctx, __u64 high, __u64 low, __u32 what)
{
	struct hr_key node WHOLE = {.port = what, .protocol = what >> 16, .scope = HR_NODE};
	struct service service;
	struct hr_hint *hint;
	const __u32 *found;
	struct hr_key key;

	from_numbers(&key, high, low, node.port);
	if (!is_node_address(ctx, &key))
		return 0;
	hint = hint_of(&node);
	if (is_used(hint) && record_at(&service, *(volatile __u32 *)&hint->service - 1, &node))
		return service.index + 1;
	found = bpf_map_lookup_elem(&services, &node);
	if (!found || !record_at(&service, *(const volatile __u32 *)found, &node))
		return 0;
	if (hint)
		*(volatile __u32 *)&hint->service = service.index + 1;
	return service.index + 1;
}

static __always_inline bool find_node_service(struct bpf_sock_addr *ctx, const struct hr_key *key,
					      struct service *service)
{
	__u32 what = key->port | (__u32)key->protocol << 16;
	const struct hr_record *record;

	service->index = find_node_index(ctx, high_of(key), low_of(key), what) - 1;
	record = bpf_map_lookup_elem(&records, &service->index);
	if (!record)
		return false;
	service->random = bpf_get_prandom_u32();
	read_whole_set(record, service);
	return may_use(ctx, service->set);
}

/*
 * False if the address is no service for this caller. `scopes` is what scopes_of() said, `hint`
 * what hint_of() did.
 */
static __always_inline bool find_service(struct bpf_sock_addr *ctx, __u32 scopes,
					 const struct hr_key *key, struct hr_hint *hint,
					 struct service *service)
{
	if (likely(scopes & (1U << HR_EXACT)) && find_key(key, hint, service) &&
	    may_use(ctx, service->set))
		return true;
	/* once more: what is kept from here to there the verifier follows */
	return (scopes_of(key) & (1U << HR_NODE)) && find_node_service(ctx, key, service);
}

static __always_inline __u64 *translations_of(__u32 service)
{
	return bpf_map_lookup_elem(&translations, &service);
}

/* Atomic although per CPU: since 5.13 another program may preempt this one. */
static __always_inline void count_translation(__u64 *translations)
{
	__sync_fetch_and_add(translations, 1);
}

static __always_inline void count_refusal(__u32 service)
{
	__u64 *count = bpf_map_lookup_elem(&refusals, &service);

	if (count)
		__sync_fetch_and_add(count, 1);
}

#endif /* HR_SERVICE_BPF_H */
