/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a service to one of its backends, as the second half of what a socket remembers. */
#ifndef HR_SELECT_BPF_H
#define HR_SELECT_BPF_H

/* Where the socket is to go: the origin's second half. */
LIES_WHOLE(struct hr_backend, ip);

static __always_inline void take(struct hr_origin *origin, const struct hr_backend *backend,
				 __u32 id)
{
	copy_whole(origin->given_ip, backend->ip);
	origin->given_port = backend->port;
	origin->backend = id;
	origin->incarnation = backend->incarnation;
}

/*
 * May a socket or a client go on where it went before? An id may have been given
 * to another backend since, which its incarnation tells. The service is read
 * first: a writer stores it last.
 */
static __always_inline bool is_usable(const struct hr_backend *backend, __u32 service,
				      __u32 incarnation)
{
	return *(const volatile __u32 *)&backend->service == service &&
	       *(const volatile __u32 *)&backend->incarnation == incarnation &&
	       *(const volatile __u8 *)&backend->state != HR_DOWN;
}

static __always_inline const struct hr_backend *take_again(struct hr_origin *origin, __u32 service,
							   __u32 id, __u32 incarnation)
{
	const struct hr_backend *backend = bpf_map_lookup_elem(&backends, &id);

	if (!backend || !is_usable(backend, service, incarnation))
		return NULL;
	take(origin, backend, id);
	return backend;
}

/*
 * The same without a hash look-up: the backend names its service, and that its
 * key. False also for a service that is found in another way.
 */
static __always_inline bool take_known(struct bpf_sock_addr *ctx, const struct hr_key *key,
				       const struct hr_origin *origin, struct service *service)
{
	const struct hr_record *record;
	const struct hr_backend *backend = bpf_map_lookup_elem(&backends, &origin->backend);

	if (!backend)
		return false;
	service->index = *(const volatile __u32 *)&backend->service;
	if (*(const volatile __u32 *)&backend->incarnation != origin->incarnation ||
	    backend->state == HR_DOWN)
		return false;
	record = bpf_map_lookup_elem(&records, &service->index); /* none for HR_NO_SERVICE */
	if (!record || !same_key(&record->key, key))
		return false;
	return read_set(record, &service->set) && may_use(ctx, service->set) &&
	       !is_refused(ctx, service);
}

/*
 * The same number for the same client: a network namespace and a cgroup, as far
 * as the kernel tells them.
 */
static __always_inline __u32 client_hash(struct bpf_sock_addr *ctx)
{
	__u64 h = netns_of(ctx) * 0x9e3779b97f4a7c15ULL;

	h ^= cgroup_of_task();
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ULL;
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ULL;
	return h >> 32;
}

/* Whose affinity: a namespace's or, where the kernel does not tell, a cgroup's. */
static __always_inline __u64 client_of(struct bpf_sock_addr *ctx)
{
	__u64 netns = netns_of(ctx);

	return netns ? netns : cgroup_of_task();
}

/* A count may be one below the truth for a moment, and so below zero. */
static __always_inline __s64 open_connections(__u32 id)
{
	const __u64 *count = bpf_map_lookup_elem(&active, &id);
	__s64 open = count ? *(const volatile __s64 *)count : 0;

	return open > 0 ? open : 0;
}

/* A set's slots for one family: `count` of them, `before` of the other one before these. */
struct slots_of {
	__u32 base;
	__u32 before;
	__u32 count;
	__u32 first; /* as in struct service */
};

static __always_inline __u32 draw_any(__u32 number, const struct slots_of *from)
{
	__u32 drawn = from->before + scale(number, from->count);

	if (likely(from->first & HR_ROW))
		return (from->first & ~HR_ROW) + drawn;
	return slot(from->base + drawn);
}

SUBPROGRAM __u32 draw_hashed(struct bpf_sock_addr *ctx, const struct slots_of *from)
{
	return draw_any(client_hash(ctx), from);
}

SUBPROGRAM __u32 draw_another(__u32 one, const struct slots_of *from)
{
	__u32 other = draw_any(bpf_get_prandom_u32(), from);

	return open_connections(other) < open_connections(one) ? other : one;
}

/* One of these slots, by the service's algorithm. */
static __always_inline __u32 draw(struct bpf_sock_addr *ctx, const struct service *service,
				  const struct slots_of *from)
{
	__u32 algorithm = (service->set >> HR_SET_ALGORITHM_SHIFT) & HR_SET_ALGORITHM_MASK;
	__u32 one;

	if (unlikely(algorithm == HR_MAGLEV))
		return draw_hashed(ctx, from);
	one = draw_any(service->random, from);
	if (unlikely(algorithm == HR_LEAST_CONN) && knobs.has_sock_release)
		return draw_another(one, from);
	return one;
}

static __always_inline const struct hr_backend *
choose_anew(struct bpf_sock_addr *ctx, const struct service *service, struct hr_origin *origin)
{
	const struct hr_backend *backend;
	struct slots_of from = {
	    .base = service->set,
	    .count = count_of(service->set),
	    .first = service->first,
	};
	__u32 id;

	if (!is_v4(origin->asked_ip)) {
		from.before = from.count;
		from.count = count6_of(service->set);
	}
	if (unlikely(!from.count))
		return NULL;
	id = draw(ctx, service, &from);
	backend = bpf_map_lookup_elem(&backends, &id);
	if (!backend)
		return NULL;
	take(origin, backend, id);
	return backend;
}

/*
 * The client's backend for as long as it comes back within the service's
 * affinity time; each new connection renews it, as ipvs and Kubernetes do.
 */
SUBPROGRAM const struct hr_backend *choose_by_affinity(struct bpf_sock_addr *ctx,
						       const struct service *service,
						       struct hr_origin *origin)
{
	__u64 now = bpf_ktime_get_ns();
	struct hr_affinity_key client = {
	    .client = client_of(ctx),
	    .service = service->index,
	    .is_v4 = is_v4(origin->asked_ip),
	};
	struct hr_affinity *known = bpf_map_lookup_elem(&affinity, &client);
	const struct hr_backend *backend;
	struct hr_affinity latest = {};
	__u64 lasts_ns;

	lasts_ns = detail(service->set, offsetof(struct hr_details, affinity_ms)) * 1000000ULL;
	/* signed: another CPU may have renewed it since we read the clock */
	if (known && (__s64)(now - known->used_ns) < (__s64)lasts_ns) {
		backend = take_again(origin, service->index, known->backend, known->incarnation);
		if (backend) {
			known->used_ns = now;
			return backend;
		}
	}
	backend = choose_anew(ctx, service, origin);
	if (!backend)
		return NULL;
	latest.used_ns = now;
	latest.backend = origin->backend;
	latest.incarnation = origin->incarnation;
	bpf_map_update_elem(&affinity, &client, &latest, BPF_ANY);
	return backend;
}

/* Null if the service has no backend that is usable, for this caller at least. `origin` says what
 * was asked for. */
static __always_inline const struct hr_backend *
choose(struct bpf_sock_addr *ctx, const struct service *service, struct hr_origin *origin)
{
	if (unlikely(is_refused(ctx, service)))
		return NULL;
	if (unlikely(service->set & HR_SET_AFFINITY))
		return choose_by_affinity(ctx, service, origin);
	return choose_anew(ctx, service, origin);
}

#endif /* HR_SELECT_BPF_H */
