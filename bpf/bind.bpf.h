/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A server that binds a port which a service has on this node's addresses
 * would never hear from local clients: connect is translated before it gets
 * there. In the host's network namespace such a bind can be refused.
 */
#ifndef HR_BIND_BPF_H
#define HR_BIND_BPF_H

static __always_inline bool has_service(struct hr_key *key, __u32 scope)
{
	struct service service;
	struct hint hint;

	key->scope = scope;
	if (!(scopes_of(key) & (1U << scope)))
		return false;
	find_hint(&hint, key);
	return find_key(key, &hint, &service);
}

/*
 * 0, or -EADDRINUSE. What the kernel chose for a bind to port 0 comes here, too, and looks like
 * any other; what it chooses without a bind, for listen, connect or sendto, does not.
 */
static __always_inline int check_bind(struct bpf_sock *sk, bool v6)
{
	const struct hr_meta *m = get_meta();
	struct hr_key key WHOLE = {};
	struct hr_ip ip;

	key.protocol = sk->protocol;
	if (key.protocol != IPPROTO_TCP && key.protocol != IPPROTO_UDP)
		return 0;
	if (!m || !m->host_netns || m->host_netns != netns_of(sk))
		return 0;
	key.port = bpf_htons(sk->src_port);
	if (has_service(&key, HR_NODE))
		return -EADDRINUSE;
	/* an address of this node that is a service's, too: a load balancer's or an external one */
	if (v6) {
		key.ip[0] = sk->src_ip6[0];
		key.ip[1] = sk->src_ip6[1];
		key.ip[2] = sk->src_ip6[2];
		key.ip[3] = sk->src_ip6[3];
	} else {
		key.ip[2] = V4_MAPPED;
		key.ip[3] = sk->src_ip4;
	}
	copy_ip(ip.ip, key.ip);
	if (bpf_map_lookup_elem(&node_addresses, &ip) && has_service(&key, HR_EXACT))
		return -EADDRINUSE;
	return 0;
}

#endif /* HR_BIND_BPF_H */
