/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What connect(2) does, for TCP and UDP, to a service or past all of them. */
#ifndef HR_CONNECT_BPF_H
#define HR_CONNECT_BPF_H

static __always_inline void ask_for(struct hr_origin *origin, const struct hr_key *key)
{
	copy_whole(origin->asked_ip, key->ip);
	origin->asked_port = key->port;
}

/*
 * Has the backend gone since it was chosen? A writer that takes it away marks it
 * and then looks at its count: it sees this socket there, or we see the mark.
 */
static __always_inline bool has_gone(const struct hr_backend *backend,
				     const struct service *service, const struct hr_origin *origin)
{
	return knobs.has_sock_release && !is_usable(backend, service->index, origin->incarnation);
}

#define GONE 1 /* the backend has: no error */

/* A backend for this socket, which remembers it; GONE if it is none any more. */
static __always_inline int assign(struct bpf_sock_addr *ctx, struct seat *seat,
				  const struct service *service, struct hr_origin *origin)
{
	const struct hr_backend *backend;

	backend = choose(ctx, service, origin);
	if (unlikely(!backend)) {
		count_refusal(service->index);
		return -ECONNREFUSED;
	}
	fetch_active(origin->backend);
	if (unlikely(remember_connection(ctx, seat, origin))) {
		count_event(HR_UNREMEMBERED);
		/* a TCP stream is right without; a datagram's answer would show another address */
		if (ctx->protocol == IPPROTO_UDP)
			return -ECONNREFUSED;
	}
	return has_gone(backend, service, origin) ? GONE : 0;
}

/* The same, where calls seldom come. */
SUBPROGRAM int assign_again(struct bpf_sock_addr *ctx, struct seat *seat,
			    const struct service *service, struct hr_origin *origin)
{
	return assign(ctx, seat, service, origin);
}

/*
 * Its address may be another service's by now; or none's, and then the socket is not
 * to go there after all.
 */
SUBPROGRAM bool find_anew(struct bpf_sock_addr *ctx, const struct hr_key *key,
			  struct service *service, const struct hr_origin *origin)
{
	struct hint hint;

	find_hint(&hint, key);
	if (find_service(ctx, scopes_of(key), key, &hint, service))
		return true;
	forget_origin(ctx, origin);
	return false;
}

/* Why a socket gets no backend: there is none, or it could not be remembered. */
static __always_inline __u32 why_not(const struct hr_origin *origin)
{
	return origin->given_port ? HR_UNANSWERABLE : HR_NO_BACKEND;
}

/* The socket is about to connect straight to this address. */
static __always_inline void pass_by(struct bpf_sock_addr *ctx, const struct hr_key *to)
{
	forget_connection(ctx, to);
	if (to->protocol == IPPROTO_UDP)
		forget_datagram(ctx, to);
}

/* The same, though its port is a service's: out of the way of those that are neither. */
SUBPROGRAM int pass_by_after_all(struct bpf_sock_addr *ctx, const struct hr_key *to)
{
	pass_by(ctx, to);
	return 0;
}

static __always_inline int connect(struct bpf_sock_addr *ctx, bool v6)
{
	struct hr_origin origin WHOLE = {};
	struct seat seat = {};
	struct service service;
	struct hr_key key WHOLE;
	__u64 *translations;
	struct hint hint;
	__u32 scopes;
	int err;

	load_destination(&key, ctx, v6);
	if (key.protocol != IPPROTO_TCP && key.protocol != IPPROTO_UDP)
		return 0;
	scopes = is_balanced(key.protocol) ? scopes_of(&key) : 0;
	if (likely(!scopes)) {
		pass_by(ctx, &key);
		return 0;
	}
	/* a new cookie takes a locked instruction: before the loads that would wait for it */
	find_hint(&hint, &key);
	if (likely((scopes & (1U << HR_EXACT)) && is_used(&hint)))
		expect_seat(ctx, &seat);
	if (unlikely(!find_service(ctx, scopes, &key, &hint, &service))) {
		pass_by_after_all(ctx, &key);
		return 0;
	}
	if (unlikely(!is_expected(&seat)))
		expect_seat(ctx, &seat);
	translations = translations_of(service.index);
	if (!translations) /* never: there are as many as services */
		return refuse(ctx, &key, 0, v6);
	fetch(translations);
	ask_for(&origin, &key);
	err = assign(ctx, &seat, &service, &origin);
	if (unlikely(err)) {
		if (err == GONE) {
			if (!find_anew(ctx, &key, &service, &origin))
				return 0;
			expect_seat(ctx, &seat);
			err = assign_again(ctx, &seat, &service, &origin);
			/* not a third time: whose backends go that fast goes where he is sent */
			if (err == GONE)
				err = 0;
			translations = translations_of(service.index);
		}
		if (err || !translations) {
			trace(ctx, &service, &key, &origin, why_not(&origin));
			return refuse(ctx, &key, 0, v6);
		}
	}
	trace(ctx, &service, &key, &origin, HR_TRANSLATED);
	store_address(ctx, origin.given_ip, origin.given_port, v6);
	count_translation(translations);
	return 0;
}

#endif /* HR_CONNECT_BPF_H */
