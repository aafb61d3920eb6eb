/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel programs and user space share: the layout of every table, those that
 * remembered.h and traced.h have apart.
 *
 * This header includes nothing. The includer supplies __u8 .. __u64
 * (<linux/types.h>, or a vmlinux.h).
 * Every struct is free of hidden padding; cpp/layout.hpp asserts it.
 *
 * How a service is found:
 *
 *   services[hr_key] -> index -> records[index].set -> slots[base + n] -> backends[id]
 *
 * The hash holds nothing but the index, which is fixed for the service's
 * life; `hints` leads there too, without asking the hash. All that describes a service lies in one
 * immutable block of `slots`, and one aligned 64-bit store of `set` publishes a new block: a reader
 * sees the old service or the new one, never a mixture.
 */
#ifndef HOSTREACH_H
#define HOSTREACH_H

/*
 * Changes with any layout here, in remembered.h or in traced.h. `attach` brings tables of
 * an older version to this one (cpp/replacement.cpp); those of a newer are refused.
 */
#define HR_ABI_VERSION 8

/*
 * What programs are told when they are loaded: the whole of .rodata, or where
 * the kernel has no global data, of the map `knobs`.
 */
struct hr_knobs {
	__u8 with_tcp;
	__u8 with_udp;
	__u8 has_set_retval; /* refuse with an errno of our choice */
	__u8 has_sock_release; /* count open connections */
	__u8 checks_words; /* `records` is written by system calls: see hr_record.check */
	__u8 has_places; /* keep connections in `places` where they fit */
	__u8 has_hints; /* look at `hints` before `services`: where loads stay in order */
	__u8 kern_sock_mask; /* the bit sock.sk_kern_sock; 0: unknown, or not to be read */
	__u32 sock_type; /* number of the kernel's struct sock; 0: it is not to be read */
	__u32 cookie_offset; /* of its sk_cookie */
	__u32 storage_offset; /* of its sk_bpf_storage; 0: unknown, or not to be read */
	__u16 kern_sock_offset; /* of the byte that it is in */
	__u8 keeps_only; /* an unconnected socket's only service, in its place */
	__u8 pad;
};

/* hr_key.scope */
enum hr_scope {
	HR_EXACT = 0, /* this address */
	HR_NODE = 1, /* every address of this node, and loopback in the host's namespace; ip is 0 */
	HR_NOBODY = 2, /* in a record: no service's, or not yet */
};

/*
 * A service's frontend. IPv4 is written as IPv6-mapped (::ffff:a.b.c.d), so
 * that both families and IPv4 reached through an IPv6 socket share one form.
 */
struct hr_key {
	__u32 ip[4]; /* network byte order */
	__u16 port; /* network byte order */
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 scope; /* enum hr_scope */
};

struct hr_ip {
	__u32 ip[4]; /* network byte order, IPv4 as IPv6-mapped */
};

/*
 * One of the networks that a node's addresses are to be in, for those who read
 * them anew. No program looks at these.
 */
struct hr_network {
	__u32 ip[4]; /* as in hr_ip */
	__u32 bits; /* of the prefix, 96 for all of IPv4 */
};

/*
 * hr_record.set: where the service's block lies, and what a program has to
 * know before it reads on.
 *
 *   bits  0..31  base: index in `slots` of the first selection slot
 *   bits 32..44  count: selection slots, 0 = refuse
 *   bits 45..57  count6: those for IPv6 clients of an HR_NODE service
 *   bits 58..59  enum hr_algorithm
 *   bits 60..63  HR_SET_*
 */
#define HR_SET_COUNT_SHIFT 32
#define HR_SET_COUNT6_SHIFT 45
#define HR_SET_COUNT_MASK 0x1fffU
#define HR_SET_ALGORITHM_SHIFT 58
#define HR_SET_ALGORITHM_MASK 3U
#define HR_SET_AFFINITY (1ULL << 60) /* hr_details.affinity_ms is not 0 */
#define HR_SET_HOST_ONLY (1ULL << 61) /* for the host's network namespace alone */
#define HR_SET_SUBTREE (1ULL << 62) /* for tasks below hr_details.subtree alone */
#define HR_SET_LISTED (1ULL << 63) /* refuses all but the clients in `allowed` */

/*
 * One service. `key` tells a reader whose hash element was recycled under it, or whose
 * hint is an old one: its scope is stored first when a service goes (HR_NOBODY), and
 * last, after all else of the record, when another one comes.
 *
 * A store through mapped memory is whole or not there. Where the kernel maps no
 * arrays (below 5.5), the record is written by a system call, which copies it
 * with memcpy: a program may then read half of a word, so it also reads `check`
 * and, unless that is HR_CHECK(set), reads again.
 */
struct hr_record {
	__u64 set;
	struct hr_key key;
	union {
		__u32 first; /* in mapped memory: id in the set's first slot, with HR_ROW */
		__u32 check; /* else HR_CHECK(set) */
	};
};

/* The upper half of a product: it depends on every bit of the word. */
#define HR_CHECK(set) ((__u32)(((set)*0x9e3779b97f4a7c15ULL) >> 32))

/*
 * Each slot of the set has the id after that of the slot before, as those of a service have
 * that was made at once: none need be read. It counts for a set that is the same before
 * and after, for a writer stores HR_NO_ID between one set and the next.
 */
#define HR_ROW (1U << 31)
#define HR_NO_ID 0x7fffffffU

/*
 * A block of `slots`, in 32-bit words, host byte order:
 *
 *   [base, base + count)   selection: backend ids, each as often as it weighs
 *   then                   count6 of them for IPv6 clients
 *   then                   struct hr_details
 *   then                   struct hr_member[details.members]
 *   then                   name, owner, path of the subtree and source ranges, bytes
 *                          without terminators
 */
struct hr_details {
	__u32 members;
	__u32 affinity_ms; /* 0 = none */
	__u32 subtree_low; /* cgroup id, its lower half */
	__u32 subtree_high;
	__u8 subtree_level; /* depth of that cgroup; the root's is 0 */
	__u8 on_removal; /* enum hr_on_removal */
	__u16 path_length; /* bytes */
	__u8 name_length; /* bytes */
	__u8 owner_length; /* bytes */
	__u16 ranges_length; /* bytes */
};

struct hr_member {
	__u32 backend; /* id */
	__u16 weight;
	__u8 state; /* enum hr_state */
	__u8 pad;
};

enum hr_algorithm {
	HR_RANDOM = 0,
	HR_MAGLEV = 1, /* by the client's network namespace and cgroup */
	HR_LEAST_CONN = 2, /* of two random ones, that with fewer open connections */
};

enum hr_state {
	HR_ACTIVE = 0,
	HR_DRAINING = 1, /* no new connections; established and sticky ones go on */
	HR_DOWN = 2,
};

/* What becomes of the sockets of a backend that is removed or down. */
enum hr_on_removal {
	HR_BY_PROTOCOL = 0, /* reset for UDP, keep for TCP */
	HR_RESET = 1,
	HR_KEEP = 2,
};

/*
 * Where services were found in the hash, from program to program: the record says whose a
 * hint is, and whether its word is still this one. So a program can ask for record and
 * backend at once.
 *
 * The hints that a key may have are the four of one line of the cache. `hr_meta.hint_mask`
 * keeps them on as few lines as the services need: a program that connects finds nearly all
 * lines far away, and those of few pages less so.
 */
#define HR_HINT_WAYS 4
#define HR_HINT_LINES 16384

#define HR_HINT_TAG_SHIFT 25
#define HR_HINT_INDEX ((1U << HR_HINT_TAG_SHIFT) - 1)

struct hr_hint {
	__u64 set; /* hr_record.set, as it was */
	__u32 service; /* index and one, below some bits of the key's hash; 0 = none */
	__u32 first; /* hr_record.first, as it was */
};

struct hr_hints {
	struct hr_hint way[HR_HINT_WAYS];
};

/*
 * An array's elements are padded to 8 bytes, so `slots` is an array of lines:
 * word n lies in line n / HR_LINE_WORDS, and the mapped memory has no gaps.
 */
#define HR_LINE_WORDS 16

struct hr_line {
	__u32 word[HR_LINE_WORDS];
};

/* At most this many selection slots, and so backends, in one service. */
#define HR_SLOTS_PER_SERVICE 4096

/* hr_backend.service of an id that no service holds. */
#define HR_NO_SERVICE 0xffffffffU

/*
 * One backend of one service. Address, port and incarnation never change while a
 * program that chose it may still read them; who closes a socket may see the incarnation
 * change. The others are single stores.
 */
struct hr_backend {
	__u32 ip[4]; /* network byte order, IPv4 as IPv6-mapped */
	__u16 port; /* network byte order */
	__u8 state; /* enum hr_state */
	__u8 reset; /* 1: its sockets are ended when it is removed or down */
	__u32 service; /* index of the service that holds it, or HR_NO_SERVICE */
	__u32 incarnation; /* from 1, one more each time that the id is given out */
	__u32 reset_before; /* the last one before, if its sockets are to be ended; else 0 */
};

/*
 * A bit for each protocol, port and scope with a service, in lines of 256 ports, both
 * scopes side by side, so that nearly all other traffic is told apart by one load. Ports
 * are taken as they stand in memory, in network byte order.
 */
#define HR_PORT_LINES 512
#define HR_PORT_LINE(udp, port) ((udp)*256 + (port) / 256)
#define HR_PORT_WORD(scope, port) ((scope)*8 + (port) / 32 % 8)
#define HR_PORT_BIT(port) (1U << ((port) % 32))

/* Who may use an HR_SET_LISTED service: one whose address is in its source ranges. */
struct hr_allowed_key {
	__u64 netns; /* network namespace cookie */
	__u32 service; /* index */
	__u32 pad;
};

/* Whose affinity, and to which service. */
struct hr_affinity_key {
	__u64 client; /* network namespace cookie */
	__u32 service; /* index */
	__u32 is_v4; /* a client of both families has a backend of each */
};

struct hr_affinity {
	__u64 used_ns; /* CLOCK_MONOTONIC at the last connection */
	__u32 backend; /* id */
	__u32 incarnation;
};

/* Indexes of `events`: things that happen seldom, counted for the whole node. */
enum hr_event {
	HR_OVERFLOWED = 0, /* datagram origins kept in `overflow` */
	HR_STORAGE_FAILED = 1, /* socket storage could not be created */
	HR_UNREMEMBERED = 2, /* nor could `overflow` hold it */
	/* by user space: what services had counted that went */
	HR_FORMER_TRANSLATIONS = 3,
	HR_FORMER_REFUSALS = 4,
	HR_EVENTS,
};

/* Indexes of `flags`. */
enum hr_flag {
	HR_OVERFLOW_USED = 0, /* by programs: `overflow` is worth a look */
	HR_MOVED = 1, /* by programs: a socket may be connected to a backend uncounted */
	HR_ENDS_DUE = 2, /* not 0: sockets may be waiting to be ended; rises with each cause */
	HR_LISTENED = 3, /* the latest hr_listener.seen_ns; lowered by programs when that is old */
	HR_FLAGS,
};

/*
 * The instance; written by user space alone. Marks only rise: an index below its
 * mark may have been used, so that it is reused only after a grace period.
 */
struct hr_meta {
	__u32 abi; /* HR_ABI_VERSION; first in every version */
	__u32 max_services;
	__u32 max_backends; /* the array has room for one service's replacement beyond */
	__u32 max_slots; /* selection slots that all services may use together */
	__u64 generation; /* odd while a writer is at work or after one was killed */
	__u64 host_netns; /* cookie of the host's network namespace; 0 = not known yet */
	__u32 services_mark;
	__u32 backends_mark;
	__u32 slots_mark;
	__u32 exempt_levels; /* bit n: `exempt` has a cgroup at depth n */
	__u64 exempt_filter; /* hr_exempt_bit() of each cgroup in `exempt`, and maybe more */
	__u32 hint_mask; /* of the number of a key's line of `hints`; as large as services need */
	__u32 pad;
};

/* Most cgroups have another one than the few that are exempt, and are looked for no further. */
static inline __u64 hr_exempt_bit(__u64 cgroup)
{
	return 1ULL << (cgroup * 0x9e3779b97f4a7c15ULL >> 58);
}

#endif /* HOSTREACH_H */
