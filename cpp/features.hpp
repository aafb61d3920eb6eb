// SPDX-License-Identifier: Apache-2.0
// What this kernel can do, found by doing it.
#pragma once

#include <linux/bpf.h>

#include <string>
#include <string_view>
#include <vector>

namespace hr {

// Named as in HOSTREACH_WITHOUT and in `doctor`, which tells what each costs.
struct Features {
    bool connect;      // cgroup/connect4: without it there is nothing to do here
    bool recvmsg;      // cgroup/recvmsg4 (and sendmsg, which is older)
    bool getpeername;  // cgroup/getpeername4
    bool global_data;  // .rodata
    bool sk_storage;   // in the address hooks, which so show the socket too
    bool cookie;       // bpf_get_socket_cookie there
    bool netns_cookie; // bpf_get_netns_cookie there
    bool cgroup_id;    // the calling task's cgroup and its ancestors
    bool set_retval;   // an errno of our choice for refusals; EPERM without it
    bool sock_release; // cgroup/sock_release with socket storage: counts open connections
    bool places;       // an atomic exchange, and the cookie there: connections in an array
    bool sock_read;    // bpf_rdonly_cast: the kernel's own struct of a socket
    bool post_bind;    // cgroup/post_bind4, with an errno of our choice
    bool mptcp;        // bpf_skc_to_mptcp_sock in cgroup/connect4
    bool probe_read;   // bpf_probe_read_kernel there
    bool mmap;         // arrays that user space writes through memory
    bool batch;        // many elements of a hash in one system call
    bool bpf_link;     // on a cgroup
    bool ring_buffer;  // and whose call it is: what `trace` needs
    bool preorder;     // a link that runs before the other programs

    // Global data, and sockets that remember: what bpf/hostreach.bpf.c is made for.
    bool full() const { return global_data && sk_storage; }
    // Helpers of the programs that this kernel does not have.
    std::vector<int> missing_helpers() const;
};

// Is this name in the environment variable HOSTREACH_WITHOUT (comma-separated)?
// What is named there is found missing, whatever the kernel has.
bool is_switched_off(std::string_view name);

// Loads one tiny program for each; what fails for whatever reason is not there.
// Raises permission_denied if it may load no program at all.
Features probe_features();

} // namespace hr
