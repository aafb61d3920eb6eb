// SPDX-License-Identifier: Apache-2.0
#include "features.hpp"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"
#include "fd.hpp"

namespace hr {

bool is_switched_off(std::string_view name) {
    const char *value = std::getenv("HOSTREACH_WITHOUT");
    std::istringstream names(value ? value : "");
    for (std::string each; std::getline(names, each, ',');)
        if (each == name)
            return true;
    return false;
}

namespace {

bpf_insn instruction(__u8 code, __u8 to, __u8 from, __s16 offset, __s32 immediate) {
    bpf_insn i = {};
    i.code = code;
    i.dst_reg = to & 0xf;
    i.src_reg = from & 0xf;
    i.off = offset;
    i.imm = immediate;
    return i;
}

bpf_insn set(__u8 to, __s32 value) {
    return instruction(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value);
}
bpf_insn call(__s32 helper) { return instruction(BPF_JMP | BPF_CALL, 0, 0, 0, helper); }
bpf_insn load_pointer(__u8 to, __s16 offset) { // of the context
    return instruction(BPF_LDX | BPF_MEM | BPF_DW, to, BPF_REG_1, offset, 0);
}

// Loads these instructions and "r0 = 1; exit" behind them.
int try_load(bpf_prog_type type, bpf_attach_type hook, std::vector<bpf_insn> program = {}) {
    program.push_back(set(BPF_REG_0, 1));
    program.push_back(instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
    LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = hook);
    Fd fd(bpf_prog_load(type, "hr_probe", "GPL", program.data(), program.size(), &opts));
    return fd ? 0 : errno;
}

const std::vector<bpf_insn> kSetRetval = {set(BPF_REG_1, -ECONNREFUSED), call(BPF_FUNC_set_retval)};
const std::vector<bpf_insn> kToMptcp = {load_pointer(BPF_REG_1, offsetof(bpf_sock_addr, sk)),
                                        call(BPF_FUNC_skc_to_mptcp_sock)};

} // namespace

Features probe_features() {
    constexpr bpf_prog_type kAddress = BPF_PROG_TYPE_CGROUP_SOCK_ADDR;
    constexpr bpf_prog_type kSocket = BPF_PROG_TYPE_CGROUP_SOCK;
    int err = try_load(kAddress, BPF_CGROUP_INET4_CONNECT);
    if (err == EPERM || err == EACCES)
        raise_errno("BPF program", "load", err);
    auto has = [](const char *name, auto... what) {
        return !is_switched_off(name) && !try_load(what...);
    };
    return {
        .connect = !err && !is_switched_off("connect"),
        .recvmsg = has("recvmsg", kAddress, BPF_CGROUP_UDP4_RECVMSG),
        .getpeername = has("getpeername", kAddress, BPF_CGROUP_INET4_GETPEERNAME),
        .set_retval = has("set_retval", kAddress, BPF_CGROUP_INET4_CONNECT, kSetRetval),
        .sock_release = has("sock_release", kSocket, BPF_CGROUP_INET_SOCK_RELEASE),
        .post_bind = has("post_bind", kSocket, BPF_CGROUP_INET4_POST_BIND, kSetRetval),
        .mptcp = has("mptcp", kAddress, BPF_CGROUP_INET4_CONNECT, kToMptcp),
    };
}

} // namespace hr
