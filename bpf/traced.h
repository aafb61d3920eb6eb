/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What `trace` shows of calls, and who listens: the layout of `listening` and of each
 * listener's ring buffer. Includes nothing; "hostreach.h" comes before it.
 */
#ifndef HR_TRACED_H
#define HR_TRACED_H

/* What became of a call. */
enum hr_verdict {
	HR_TRANSLATED = 0,
	HR_NO_BACKEND = 1, /* refused: the service has none that is usable */
	HR_NOT_ADMITTED = 2, /* refused: no address in the service's source ranges */
	HR_UNANSWERABLE = 3, /* refused: what came back would show the backend's address */
};

#define HR_VERDICTS_MAX 8 /* room for more of them */

#define HR_COMMAND_BYTES 16

/* What a listener's ring buffer holds: one call that was translated or refused. */
struct hr_traced {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u64 cgroup; /* id of the calling task's */
	__u64 netns; /* cookie of the socket's network namespace */
	__u32 pid; /* as the first pid namespace counts */
	__u32 thread; /* the same */
	char command[HR_COMMAND_BYTES]; /* the thread's name, ended by 0 */
	struct hr_key service; /* the frontend, whose scope may be HR_NODE */
	__u32 asked_ip[4]; /* network byte order, IPv4 as IPv6-mapped */
	__u32 given_ip[4]; /* the same; a backend's, which says nothing if there was none */
	__u16 asked_port; /* network byte order */
	__u16 given_port; /* network byte order; as given_ip */
	__u8 verdict; /* enum hr_verdict */
	__u8 pad[7];
};

/* How many may listen at once. */
#define HR_LISTENERS 8
/* Who has not read for so long gets no more: he may have been killed. */
#define HR_LISTENER_GONE_NS 10000000000ULL

/* One who listens, and to what: all zero is everything. */
struct hr_listener {
	__u64 seen_ns; /* CLOCK_MONOTONIC when he last read; 0 = nobody */
	__u64 lost; /* by programs: what his ring buffer had no room for */
	__u64 cgroup; /* id: of tasks in it or below alone */
	__u32 cgroup_level;
	__u32 pid; /* of this process alone */
	struct hr_key service; /* of this frontend alone, if its port is not 0 */
	__u32 silent; /* bit n: not the verdict n */
};

#endif /* HR_TRACED_H */
