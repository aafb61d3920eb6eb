/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a call is let through or refused, as far as the kernel lets us say so. */
#ifndef HR_VERDICT_BPF_H
#define HR_VERDICT_BPF_H

#define PASS 1
#define REFUSE 0

/* Without bpf_set_retval the kernel knows one errno for what a program refuses: EPERM. */
static __always_inline int verdict(int err)
{
	if (!err)
		return PASS;
#ifndef HR_LEGACY
	if (knobs.has_set_retval)
		bpf_set_retval(err);
#endif
	return REFUSE;
}

/*
 * Nobody can listen on port 0, so that the kernel itself refuses the connect; a
 * datagram to it would be EINVAL, so it is thrown away at the discard port
 * (RFC 863), and no error comes. Where the kernel lets us, we say so ourselves.
 */
#define DISCARD_PORT bpf_htons(9)

static __always_inline int refuse(struct bpf_sock_addr *ctx, const struct hr_key *key, __u16 port,
				  bool v6)
{
	if (knobs.has_set_retval)
		return -ECONNREFUSED;
	store_loopback(ctx, key, port, v6);
	return 0;
}

#endif /* HR_VERDICT_BPF_H */
