/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From an address and a caller to a service. */
#ifndef HR_SERVICE_BPF_H
#define HR_SERVICE_BPF_H

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

/*
 * By the last one's hint: two places in memory instead of four, for the hash has a bucket
 * and an element in between, and takes the time of a hash function and a call.
 *
 * The kernel recycles a deleted hash element at once, so a reader that found
 * key A may read B's index. The record tells: indexes are reused only after a
 * grace period, so a record that this program reached keeps its key.
 */
static __always_inline bool find_key(const struct hr_key *key, struct hint *hint,
				     struct service *service)
{
	const struct hr_record *record = NULL;
	struct hinted hinted = {.first = HR_NO_ID};
	const __u32 *found;

	if (likely(is_used(hint)) && hint->line) {
		service->random = bpf_get_prandom_u32(); /* while the hint is on its way */
		read_hint(&hinted, hint);
		fetch_hinted(service, &hinted);
		record = record_at(service, hinted_index(hint), key);
	}
	if (unlikely(!record)) {
		found = bpf_map_lookup_elem(&services, key);
		if (!found)
			return false;
		record = record_at(service, *(const volatile __u32 *)found, key);
		if (!record)
			return false;
		service->random = bpf_get_prandom_u32();
		leave_hint(hint, service->index, service->random);
	}
	read_whole_set(record, service);
	if (hint->line)
		take_hinted(hint, &hinted, record, service);
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
	const struct hr_meta *m = get_meta();
	__u32 levels;
	int level;

	if (!m)
		return false;
	levels = m->exempt_levels;
	for (level = 0; level < 32 && levels >> level; level++) {
		__u64 id;

		if (!(levels & (1U << level)))
			continue;
		id = ancestor_of_task(level);
		if (id && (m->exempt_filter & hr_exempt_bit(id)) &&
		    bpf_map_lookup_elem(&exempt, &id))
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
	struct hint hint;
	const __u32 *found;
	struct hr_key key;

	from_numbers(&key, high, low, node.port);
	if (!is_node_address(ctx, &key))
		return 0;
	find_hint(&hint, &node);
	if (is_used(&hint) && record_at(&service, hinted_index(&hint), &node))
		return service.index + 1;
	found = bpf_map_lookup_elem(&services, &node);
	if (!found || !record_at(&service, *(const volatile __u32 *)found, &node))
		return 0;
	leave_hint(&hint, service.index, bpf_get_prandom_u32());
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
 * what find_hint() did.
 */
static __always_inline bool find_service(struct bpf_sock_addr *ctx, __u32 scopes,
					 const struct hr_key *key, struct hint *hint,
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
