/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reading and writing addresses of a socket call and of a socket.
 *
 * `v6` is a constant at every call: it says which hook runs, so which fields
 * of the context may be touched. The hook, not the socket, decides: an IPv6
 * socket that sends to a v4-mapped address runs the IPv4 hook.
 */
#ifndef HR_ADDRESS_BPF_H
#define HR_ADDRESS_BPF_H

#define AF_INET 2
#define AF_INET6 10

#define V4_MAPPED bpf_htonl(0xffff)

static __always_inline bool same_ip(const __u32 *a, const __u32 *b)
{
	return a[3] == b[3] && a[2] == b[2] && a[1] == b[1] && a[0] == b[0];
}

/*
 * The same by halves, where both lie at a multiple of 8 bytes: a local variable by
 * WHOLE, a map's by its struct.
 */
#define WHOLE __attribute__((aligned(8)))
#define LIES_WHOLE(type, member) _Static_assert(__builtin_offsetof(type, member) % 8 == 0, #member)

typedef __u64 __attribute__((may_alias)) half;

static __always_inline bool same_whole(const __u32 *a, const __u32 *b)
{
	const half *x = (const half *)a, *y = (const half *)b;

	return x[1] == y[1] && x[0] == y[0];
}

static __always_inline void copy_whole(__u32 *to, const __u32 *from)
{
	((half *)to)[0] = ((const half *)from)[0];
	((half *)to)[1] = ((const half *)from)[1];
}

static __always_inline void copy_ip(__u32 *to, const __u32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

/* An address as numbers, for functions that take nothing else. */
static __always_inline __u64 high_of(const struct hr_key *key)
{
	return key->ip[0] | (__u64)key->ip[1] << 32;
}

static __always_inline __u64 low_of(const struct hr_key *key)
{
	return key->ip[2] | (__u64)key->ip[3] << 32;
}

static __always_inline void from_numbers(struct hr_key *key, __u64 high, __u64 low, __u32 port)
{
	key->ip[0] = high;
	key->ip[1] = high >> 32;
	key->ip[2] = low;
	key->ip[3] = low >> 32;
	key->port = port;
}

static __always_inline bool is_v4(const __u32 *ip)
{
	return ip[2] == V4_MAPPED && !ip[1] && !ip[0];
}

/* 127.0.0.0/8, or ::1 */
static __always_inline bool is_loopback(const __u32 *ip)
{
	if (ip[1] || ip[0])
		return false;
	if (ip[2] == V4_MAPPED)
		return (ip[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !ip[2] && ip[3] == bpf_htonl(1);
}

/* UDP-Lite has no connect hook and no service of its own: its datagrams are UDP's. */
static __always_inline __u8 service_protocol(__u32 protocol)
{
	return protocol == IPPROTO_UDPLITE ? IPPROTO_UDP : protocol;
}

/*
 * The address that the call names: the destination, the source or the peer.
 * Volatile: before Linux 5.3 the context takes no access of 8 bytes, to which
 * the compiler would join two of 4.
 */
static __always_inline void load_address(struct hr_key *key, volatile struct bpf_sock_addr *ctx,
					 bool v6)
{
	if (v6) {
		key->ip[0] = ctx->user_ip6[0];
		key->ip[1] = ctx->user_ip6[1];
		key->ip[2] = ctx->user_ip6[2];
		key->ip[3] = ctx->user_ip6[3];
	} else {
		key->ip[0] = 0;
		key->ip[1] = 0;
		key->ip[2] = V4_MAPPED;
		key->ip[3] = ctx->user_ip4;
	}
	key->port = ctx->user_port;
	key->protocol = service_protocol(ctx->protocol);
	key->scope = 0;
}

/* Where a call wants to go. The kernel takes 0.0.0.0 and :: for loopback. */
static __always_inline void load_destination(struct hr_key *key, struct bpf_sock_addr *ctx, bool v6)
{
	load_address(key, ctx, v6);
	if (key->ip[3] || key->ip[1] || key->ip[0])
		return;
	if (key->ip[2] == V4_MAPPED)
		key->ip[3] = bpf_htonl(0x7f000001);
	else if (!key->ip[2])
		key->ip[3] = bpf_htonl(1);
}

static __always_inline void store_address(volatile struct bpf_sock_addr *ctx, const __u32 *ip,
					  __u16 port, bool v6)
{
	if (v6) {
		ctx->user_ip6[0] = ip[0];
		ctx->user_ip6[1] = ip[1];
		ctx->user_ip6[2] = ip[2];
		ctx->user_ip6[3] = ip[3];
	} else {
		ctx->user_ip4 = ip[3];
	}
	ctx->user_port = port;
}

/* Loopback of the family that the address is of. */
static __always_inline void store_loopback(struct bpf_sock_addr *ctx, const struct hr_key *key,
					   __u16 port, bool v6)
{
	__u32 ip[4] = {};

	if (is_v4(key->ip)) {
		ip[2] = V4_MAPPED;
		ip[3] = bpf_htonl(0x7f000001);
	} else {
		ip[3] = bpf_htonl(1);
	}
	store_address(ctx, ip, port, v6);
}

/* A UDP socket's state is "established" while it is connected, and closed otherwise. */
static __always_inline bool is_connected(struct bpf_sock *sk)
{
	return sk->state == BPF_TCP_ESTABLISHED;
}

/* Is the socket connected to this peer? No hook runs on connect(AF_UNSPEC): ask the socket. */
static __always_inline bool peer_is(struct bpf_sock *sk, const __u32 *ip, __u16 port)
{
	if (sk->dst_port != port)
		return false;
	if (sk->family == AF_INET)
		return ip[3] == sk->dst_ip4 && is_v4(ip);
	return ip[3] == sk->dst_ip6[3] && ip[2] == sk->dst_ip6[2] && ip[1] == sk->dst_ip6[1] &&
	       ip[0] == sk->dst_ip6[0];
}

#endif /* HR_ADDRESS_BPF_H */
