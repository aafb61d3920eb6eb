/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether sock_release will tell of a socket's end. */
#ifndef HR_RELEASE_BPF_H
#define HR_RELEASE_BPF_H

/*
 * The byte of the kernel's own struct that says whose socket it is; 0 if it cannot be read. The
 * verifier lets nothing be added to a socket's pointer; what was read from the stack is a number.
 */
SUBPROGRAM int probe_kern_sock(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__u64 address = 0;
	__u8 byte = 0;

	if (bpf_probe_read_kernel(&address, sizeof(address), &sk) || !address)
		return 0;
	if (bpf_probe_read_kernel(&byte, 1, (void *)(address + knobs.kern_sock_offset)))
		return 0;
	return byte;
}

/*
 * A process's socket, as far as that is seen by one load. Of others' ends no program is told: those
 * that the kernel itself connects, for NFS or Ceph, or as a part of an MPTCP socket (inet_release()
 * in net/ipv4/af_inet.c).
 */
static __always_inline bool is_process_socket(struct bpf_sock_addr *ctx)
{
	const void *socket;

	if (!knobs.kern_sock_mask || !knobs.sock_type)
		return false;
	socket = kernel_socket(ctx->sk, knobs.sock_type);
	return socket &&
	       !(*(const volatile __u8 *)(socket + knobs.kern_sock_offset) & knobs.kern_sock_mask);
}

/* Will a program be told of its end? */
static __always_inline bool has_release(struct bpf_sock_addr *ctx)
{
	if (!knobs.kern_sock_mask)
		return true;
	if (knobs.sock_type)
		return is_process_socket(ctx);
	return !(probe_kern_sock(ctx) & knobs.kern_sock_mask);
}

#endif /* HR_RELEASE_BPF_H */
