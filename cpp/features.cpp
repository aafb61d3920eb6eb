// SPDX-License-Identifier: Apache-2.0
#include "features.hpp"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <cerrno>
#include <cstdlib>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"
#include "fd.hpp"

namespace hr {

namespace {

bool switched_off(std::string_view name) {
    const char *value = std::getenv("HOSTREACH_WITHOUT");
    std::istringstream names(value ? value : "");
    for (std::string each; std::getline(names, each, ',');)
        if (each == name)
            return true;
    return false;
}

bpf_insn instruction(__u8 code, __u8 to, __s32 immediate) {
    bpf_insn i = {};
    i.code = code;
    i.dst_reg = to & 0xf;
    i.imm = immediate;
    return i;
}

// Loads "r0 = 1; exit", after a call of bpf_set_retval(-ECONNREFUSED) if asked.
int try_load(bpf_attach_type type, bool with_set_retval) {
    std::vector<bpf_insn> program;
    if (with_set_retval) {
        program.push_back(instruction(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_1, -ECONNREFUSED));
        program.push_back(instruction(BPF_JMP | BPF_CALL, 0, BPF_FUNC_set_retval));
    }
    program.push_back(instruction(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 1));
    program.push_back(instruction(BPF_JMP | BPF_EXIT, 0, 0));
    LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = type);
    Fd fd(bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "hr_probe", "GPL", program.data(),
                        program.size(), &opts));
    return fd ? 0 : errno;
}

} // namespace

Features probe_features() {
    int err = try_load(BPF_CGROUP_INET4_CONNECT, false);
    if (err == EPERM || err == EACCES)
        raise_errno("BPF program", "load", err);
    auto has = [](const char *name, bpf_attach_type type, bool set_retval = false) {
        return !switched_off(name) && !try_load(type, set_retval);
    };
    return {
        .connect = !err && !switched_off("connect"),
        .recvmsg = has("recvmsg", BPF_CGROUP_UDP4_RECVMSG),
        .getpeername = has("getpeername", BPF_CGROUP_INET4_GETPEERNAME),
        .set_retval = has("set_retval", BPF_CGROUP_INET4_CONNECT, true),
    };
}

} // namespace hr
