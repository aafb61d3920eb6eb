/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's own structs, as far as they are read here. Where a field really
 * lies is put in when the programs are loaded, from the kernel's BTF.
 */
#ifndef HR_KERNEL_BPF_H
#define HR_KERNEL_BPF_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct seq_file;
struct udp_sock;

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

struct possible_net {
	struct net *net;
};

typedef struct possible_net possible_net_t;

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

typedef struct {
	__s64 counter;
} atomic64_t;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num; /* the local port, in host byte order */
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
	atomic64_t skc_cookie; /* 0 until somebody asks for it */
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
};

enum sock_flags {
	SOCK_DEAD, /* nobody has it open any more */
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct sock *sk;
	void *value;
};

#pragma clang attribute pop

extern int bpf_sock_destroy(struct sock_common *sk) __ksym __weak;

static __always_inline void v4_mapped(__u32 *ip, __u32 address)
{
	ip[0] = 0;
	ip[1] = 0;
	ip[2] = V4_MAPPED;
	ip[3] = address;
}

static __always_inline void peer_ip(struct sock_common *sk, __u32 *ip)
{
	if (sk->skc_family == AF_INET6 && bpf_core_field_exists(sk->skc_v6_daddr)) {
		ip[0] = sk->skc_v6_daddr.in6_u.u6_addr32[0];
		ip[1] = sk->skc_v6_daddr.in6_u.u6_addr32[1];
		ip[2] = sk->skc_v6_daddr.in6_u.u6_addr32[2];
		ip[3] = sk->skc_v6_daddr.in6_u.u6_addr32[3];
	} else {
		v4_mapped(ip, sk->skc_daddr);
	}
}

static __always_inline void local_ip(struct sock_common *sk, __u32 *ip)
{
	if (sk->skc_family == AF_INET6 && bpf_core_field_exists(sk->skc_v6_rcv_saddr)) {
		ip[0] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[0];
		ip[1] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[1];
		ip[2] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[2];
		ip[3] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[3];
	} else {
		v4_mapped(ip, sk->skc_rcv_saddr);
	}
}

#endif /* HR_KERNEL_BPF_H */
