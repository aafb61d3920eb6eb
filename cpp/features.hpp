// SPDX-License-Identifier: Apache-2.0
// What this kernel can do, found by doing it.
#pragma once

#include <string_view>

namespace hr {

struct Features {
    bool connect;      // cgroup/connect4: without it there is nothing to do here
    bool recvmsg;      // cgroup/recvmsg4: without it a UDP client sees the backend's address
    bool getpeername;  // cgroup/getpeername4
    bool set_retval;   // an errno of our choice for refusals; EPERM without it
    bool sock_release; // cgroup/sock_release with socket storage: counts open connections
    bool post_bind;    // cgroup/post_bind4, with an errno of our choice
    bool mptcp;        // bpf_skc_to_mptcp_sock in cgroup/connect4
};

// Is this name in the environment variable HOSTREACH_WITHOUT (comma-separated)?
// What is named there is found missing, whatever the kernel has.
bool is_switched_off(std::string_view name);

// Loads one tiny program for each. Raises permission_denied if it may load no program at all.
Features probe_features();

} // namespace hr
