/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What differs between the two objects that are made of these sources.
 *
 * hostreach.bpf.c is for Linux 5.3 and later: its knobs are global data, which
 * the verifier knows, so that what is switched off costs nothing; a helper that
 * the kernel lacks is taken out before loading and gives 0 (cpp/fitting.cpp).
 *
 * legacy.bpf.c defines HR_LEGACY: no global data (5.2), no ctx->sk and no socket
 * storage in these hooks (5.3), no loop (5.3), no helper newer than the hook that
 * calls it. What sockets remember is in `overflow` alone.
 */
#ifndef HR_KNOBS_BPF_H
#define HR_KNOBS_BPF_H

#ifdef HR_LEGACY

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hr_knobs);
} knobs_map SEC(".maps");

/* All but the protocols is known when it is compiled. */
static const struct hr_knobs knobs = {.checks_words = 1};

static __always_inline bool is_balanced(__u8 protocol)
{
	__u32 zero = 0;
	const struct hr_knobs *k = bpf_map_lookup_elem(&knobs_map, &zero);

	return k && ((k->with_tcp && protocol == IPPROTO_TCP) ||
		     (k->with_udp && protocol == IPPROTO_UDP));
}

#define HAS_STORAGE 0
#define SUBPROGRAM static __always_inline
#define WALKED_ONCE static __always_inline

#else

const volatile struct hr_knobs knobs = {.with_tcp = 1,
					.with_udp = 1,
					.has_set_retval = 1,
					.has_sock_release = 1,
					.has_places = 1,
					.keeps_only = 1};

static __always_inline bool is_balanced(__u8 protocol)
{
	return (knobs.with_tcp && protocol == IPPROTO_TCP) ||
	       (knobs.with_udp && protocol == IPPROTO_UDP);
}

#define HAS_STORAGE 1
/* A function of its own: inlined at each use, it is most of what the verifier walks. */
#define SUBPROGRAM static __noinline
/*
 * A global function: the verifier walks it by itself and once, whoever calls it. It takes no
 * pointer but the context, and what it returns is any number. Below Linux 5.6 libbpf makes it
 * static.
 */
#define WALKED_ONCE __noinline

#endif

/* Null where hooks do not show the socket. */
static __always_inline struct bpf_sock *socket_of(struct bpf_sock_addr *ctx)
{
#ifdef HR_LEGACY
	return NULL;
#else
	return ctx->sk;
#endif
}

/* Of the network namespace; 0 where the kernel does not tell (below 5.7). */
static __always_inline __u64 netns_of(void *ctx)
{
#ifdef HR_LEGACY
	return 0;
#else
	return bpf_get_netns_cookie(ctx);
#endif
}

/* Of the calling task's cgroup; 0 where the kernel does not tell (below 5.7). */
static __always_inline __u64 cgroup_of_task(void)
{
#ifdef HR_LEGACY
	return 0;
#else
	return bpf_get_current_cgroup_id();
#endif
}

/* The same of that cgroup's ancestor at a depth; 0 if there is none. */
static __always_inline __u64 ancestor_of_task(int level)
{
#ifdef HR_LEGACY
	return 0;
#else
	return bpf_get_current_ancestor_cgroup_id(level);
#endif
}

#endif /* HR_KNOBS_BPF_H */
