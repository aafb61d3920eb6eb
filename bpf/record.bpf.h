/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the tables say of a service, read as programs must. */
#ifndef HR_RECORD_BPF_H
#define HR_RECORD_BPF_H

/* A service as it was when it was found: its word is read once, and kept. */
struct service {
	__u32 index;
	__u32 random; /* which slot it will be */
	__u64 set;
	__u32 first; /* hr_record.first of that word, or HR_NO_ID */
	__u32 pad;
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
	service->first = HR_NO_ID;
	if (unlikely(!read_set(record, &service->set)))
		service->set = 0;
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

#endif /* HR_RECORD_BPF_H */
