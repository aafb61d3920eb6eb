/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tables. User space sets every max_entries that stands as 1 before it
 * creates them, and pins them all: they outlive programs and processes.
 */
#ifndef HR_MAPS_BPF_H
#define HR_MAPS_BPF_H

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hr_meta);
} meta SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HR_PORT_LINES);
	__type(key, __u32);
	__type(value, struct hr_line);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct hr_key);
	__type(value, __u32);
} services SEC(".maps");

/* This node's own addresses: ip and nothing else. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct hr_ip);
	__type(value, __u32);
} node_addresses SEC(".maps");

/* Which of them count: those in one of these; empty: all. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 256);
	__type(key, struct hr_network);
	__type(value, __u32);
} node_networks SEC(".maps");

/* cgroup ids whose tasks hostreach leaves alone, with all below; value: depth. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u32);
} exempt SEC(".maps");

/* Value: 1. User space alone knows a client's addresses, and so who this is. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct hr_allowed_key);
	__type(value, __u32);
} allowed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hr_record);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hr_line);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hr_backend);
} backends SEC(".maps");

/* Open connections by backend: sockets of this node, from selection to last close. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} active SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct hr_affinity_key);
	__type(value, struct hr_affinity);
} affinity SEC(".maps");

/* Translations by service: per CPU, for every connect adds one. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} translations SEC(".maps");

/* Refusals by service: shared, for they are rare, and 8 bytes a CPU are not. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} refusals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HR_EVENTS);
	__type(key, __u32);
	__type(value, __u64);
} events SEC(".maps");

/* A word each, for several writers: programs and, under no lock, user space. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HR_FLAGS);
	__type(key, __u32);
	__type(value, __u64);
} flags SEC(".maps");

#ifndef HR_LEGACY
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HR_HINT_LINES);
	__type(key, __u32);
	__type(value, struct hr_hints);
} hints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HR_LISTENERS);
	__type(key, __u32);
	__type(value, struct hr_listener);
} listening SEC(".maps");

/* Each one's ring buffer; the one here only shows the kind. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, HR_LISTENERS);
	__type(key, __u32);
	__array(
	    values, struct {
		    __uint(type, BPF_MAP_TYPE_RINGBUF);
		    __uint(max_entries, 65536);
	    });
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HR_PLACES);
	__type(key, __u32);
	__type(value, __u64);
} holders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HR_PLACES);
	__type(key, __u32);
	__type(value, struct hr_place);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct hr_connection);
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct hr_datagrams);
} datagrams SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct hr_more_datagrams);
} more_datagrams SEC(".maps");
#endif

/* Two entries for each origin that its socket had no room for. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct hr_overflow_key);
	__type(value, struct hr_origin);
} overflow SEC(".maps");

/*
 * A load that nobody waits for: the line is on its way while the program waits for another.
 * Between two connects so much happens in the kernel that most lines come from far.
 */
static __always_inline void fetch(const void *line)
{
	(void)*(const volatile __u64 *)line;
}

static __always_inline void count_event(__u32 event)
{
	__u64 *count = bpf_map_lookup_elem(&events, &event);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline __u64 flag(__u32 which)
{
	const volatile __u64 *value = bpf_map_lookup_elem(&flags, &which);

	return value ? *value : 0;
}

static __always_inline bool is_flagged(__u32 which)
{
	return flag(which);
}

static __always_inline void lower_flag(__u32 flag)
{
	volatile __u64 *value = bpf_map_lookup_elem(&flags, &flag);

	if (value)
		*value = 0;
}

/*
 * A store only where it changes something: the line is shared by all CPUs. Atomic, so that on x86
 * it is seen before what is loaded afterwards: a writer that marks a backend looks here then.
 */
static __always_inline void raise_flag(__u32 flag)
{
	__u64 *value = bpf_map_lookup_elem(&flags, &flag);

	if (value && !*(volatile __u64 *)value)
		__sync_fetch_and_add(value, 1);
}

#endif /* HR_MAPS_BPF_H */
