/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What `trace` hears. While nobody listens, a call that is translated costs one
 * load more, of a line that connects straight to elsewhere read as well.
 */
#ifndef HR_TRACE_BPF_H
#define HR_TRACE_BPF_H

#ifdef HR_LEGACY

/* No kernel that this is for has a ring buffer (5.8), or tells whose call it is (5.7). */
static __always_inline void trace(struct bpf_sock_addr *ctx, const struct service *service,
				  const struct hr_key *asked, const struct hr_origin *origin,
				  __u32 verdict)
{
}

#else

/* Signed: he may have read since we looked at the clock. */
static __always_inline bool is_gone(__u64 now, __u64 seen_ns)
{
	return !seen_ns || (__s64)(now - seen_ns) > (__s64)HR_LISTENER_GONE_NS;
}

static __always_inline bool is_wanted(const struct hr_listener *listener,
				      const struct hr_traced *traced)
{
	if (listener->silent & (1U << traced->verdict))
		return false;
	if (listener->pid && listener->pid != traced->pid)
		return false;
	if (listener->service.port && !same_key(&listener->service, &traced->service))
		return false;
	return !listener->cgroup || ancestor_of_task(listener->cgroup_level) == listener->cgroup;
}

/* `which` is the service's index and, in its upper half, the backend's id; `what` the verdict and
 * the port. */
WALKED_ONCE int tell_listeners(struct bpf_sock_addr *ctx, __u64 high, __u64 low, __u64 which,
			       __u64 what)
{
	struct service service = {.index = which};
	__u32 backend = which >> 32;
	const struct hr_record *record = bpf_map_lookup_elem(&records, &service.index);
	const struct hr_backend *given = bpf_map_lookup_elem(&backends, &backend);
	struct hr_traced traced = {};
	struct hr_key asked;
	__u64 task;
	__u32 at;
	int i;

	if (!record || !given)
		return 0;
	traced.time_ns = bpf_ktime_get_ns();
	/* who comes back raises it again */
	if (is_gone(traced.time_ns, flag(HR_LISTENED)))
		lower_flag(HR_LISTENED);
	traced.cgroup = cgroup_of_task();
	traced.netns = netns_of(ctx);
	task = bpf_get_current_pid_tgid();
	traced.pid = task >> 32;
	traced.thread = task;
	bpf_get_current_comm(traced.command, sizeof(traced.command));
	from_numbers(&asked, high, low, what >> 32);
	copy_ip(traced.asked_ip, asked.ip);
	traced.asked_port = asked.port;
	copy_ip(traced.given_ip, given->ip);
	traced.given_port = given->port;
	copy_ip(traced.service.ip, record->key.ip);
	traced.service.port = record->key.port;
	traced.service.protocol = record->key.protocol;
	traced.service.scope = record->key.scope;
	if (traced.service.scope == HR_NOBODY) /* it went just now */
		traced.service.scope = record->key.ip[3] ? HR_EXACT : HR_NODE;
	traced.verdict = what % HR_VERDICTS_MAX;
	if (traced.verdict == HR_NO_BACKEND && read_set(record, &service.set) &&
	    is_refused(ctx, &service))
		traced.verdict = HR_NOT_ADMITTED;
	for (i = 0; i < HR_LISTENERS; i++) {
		struct hr_listener *listener;
		void *buffer;

		at = i;
		listener = bpf_map_lookup_elem(&listening, &at);
		if (!listener || is_gone(traced.time_ns, listener->seen_ns) ||
		    !is_wanted(listener, &traced))
			continue;
		buffer = bpf_map_lookup_elem(&listeners, &at);
		if (buffer && bpf_ringbuf_output(buffer, &traced, sizeof(traced), 0))
			__sync_fetch_and_add(&listener->lost, 1);
	}
	return 0;
}

static __always_inline void trace(struct bpf_sock_addr *ctx, const struct service *service,
				  const struct hr_key *asked, const struct hr_origin *origin,
				  __u32 verdict)
{
	if (unlikely(is_flagged(HR_LISTENED)))
		tell_listeners(ctx, high_of(asked), low_of(asked),
			       service->index | (__u64)origin->backend << 32,
			       verdict | (__u64)asked->port << 32);
}

#endif

#endif /* HR_TRACE_BPF_H */
