// SPDX-License-Identifier: Apache-2.0
#include "hooks.hpp"

#include <array>

namespace hr {

namespace {

bool release(const Wanted &, const Features &has) { return has.sock_release; }
bool peer(const Wanted &, const Features &has) { return has.getpeername; }
bool udp(const Wanted &wanted, const Features &) { return wanted.udp; }
bool always(const Wanted &, const Features &) { return true; }
bool binds(const Wanted &wanted, const Features &) { return wanted.protect_binds; }

// clang-format off
#define HOOK(name, type, is_wanted) \
    Hook{#name, type, is_wanted, [](const Skeleton &s) { return s->progs.hr_##name; }}
// clang-format on
const std::array kHooks = {
    HOOK(sock_release, BPF_CGROUP_INET_SOCK_RELEASE, release),
    HOOK(getpeername4, BPF_CGROUP_INET4_GETPEERNAME, peer),
    HOOK(getpeername6, BPF_CGROUP_INET6_GETPEERNAME, peer),
    HOOK(recvmsg4, BPF_CGROUP_UDP4_RECVMSG, udp),
    HOOK(recvmsg6, BPF_CGROUP_UDP6_RECVMSG, udp),
    HOOK(sendmsg4, BPF_CGROUP_UDP4_SENDMSG, udp),
    HOOK(sendmsg6, BPF_CGROUP_UDP6_SENDMSG, udp),
    HOOK(connect4, BPF_CGROUP_INET4_CONNECT, always),
    HOOK(connect6, BPF_CGROUP_INET6_CONNECT, always),
    HOOK(post_bind4, BPF_CGROUP_INET4_POST_BIND, binds),
    HOOK(post_bind6, BPF_CGROUP_INET6_POST_BIND, binds),
};
#undef HOOK

} // namespace

std::span<const Hook> all_hooks() { return kHooks; }

std::string link_path(const PinDirectory &pin, const Hook &hook) {
    return pin.file("links") + "/" + hook.name;
}

Fd open_link(const PinDirectory &pin, const Hook &hook) {
    return open_pinned(link_path(pin, hook));
}

} // namespace hr
