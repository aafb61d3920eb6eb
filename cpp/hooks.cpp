// SPDX-License-Identifier: Apache-2.0
#include "hooks.hpp"

#include <array>

namespace hr {

namespace {

// Only where sockets remember can they be counted.
bool release(const Wanted &, const Features &has) { return has.sock_release && has.full(); }
bool peer(const Wanted &, const Features &has) { return has.getpeername; }
bool udp(const Wanted &wanted, const Features &) { return wanted.udp; }
bool always(const Wanted &, const Features &) { return true; }
bool binds(const Wanted &wanted, const Features &) { return wanted.protect_binds; }

constexpr bpf_prog_type kAddress = BPF_PROG_TYPE_CGROUP_SOCK_ADDR;
constexpr bpf_prog_type kSocket = BPF_PROG_TYPE_CGROUP_SOCK;

const std::array kHooks = {
    Hook{"sock_release", kSocket, BPF_CGROUP_INET_SOCK_RELEASE, release},
    Hook{"getpeername4", kAddress, BPF_CGROUP_INET4_GETPEERNAME, peer},
    Hook{"getpeername6", kAddress, BPF_CGROUP_INET6_GETPEERNAME, peer},
    Hook{"recvmsg4", kAddress, BPF_CGROUP_UDP4_RECVMSG, udp},
    Hook{"recvmsg6", kAddress, BPF_CGROUP_UDP6_RECVMSG, udp},
    Hook{"sendmsg4", kAddress, BPF_CGROUP_UDP4_SENDMSG, udp},
    Hook{"sendmsg6", kAddress, BPF_CGROUP_UDP6_SENDMSG, udp},
    Hook{"connect4", kAddress, BPF_CGROUP_INET4_CONNECT, always},
    Hook{"connect6", kAddress, BPF_CGROUP_INET6_CONNECT, always},
    Hook{"post_bind4", kSocket, BPF_CGROUP_INET4_POST_BIND, binds},
    Hook{"post_bind6", kSocket, BPF_CGROUP_INET6_POST_BIND, binds},
};

} // namespace

std::span<const Hook> all_hooks() { return kHooks; }

} // namespace hr
