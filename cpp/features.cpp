// SPDX-License-Identifier: Apache-2.0
#include "features.hpp"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory>
#include <sstream>

#include "error.hpp"
#include "fd.hpp"
#include "kernel_types.hpp"
#include "preorder.hpp"

namespace hr {

bool is_switched_off(std::string_view name) {
    const char *value = std::getenv("HOSTREACH_WITHOUT");
    std::istringstream names(value ? value : "");
    for (std::string each; std::getline(names, each, ',');)
        if (each == name)
            return true;
    return false;
}

std::vector<int> Features::missing_helpers() const {
    std::vector<int> missing;
    auto unless = [&](bool has, std::initializer_list<int> helpers) {
        if (!has)
            missing.insert(missing.end(), helpers);
    };
    unless(cookie, {BPF_FUNC_get_socket_cookie});
    unless(netns_cookie, {BPF_FUNC_get_netns_cookie});
    unless(cgroup_id, {BPF_FUNC_get_current_cgroup_id, BPF_FUNC_get_current_ancestor_cgroup_id});
    unless(set_retval, {BPF_FUNC_set_retval});
    unless(mptcp, {BPF_FUNC_skc_to_mptcp_sock});
    unless(probe_read, {BPF_FUNC_probe_read_kernel});
    unless(ring_buffer,
           {BPF_FUNC_ringbuf_output, BPF_FUNC_get_current_pid_tgid, BPF_FUNC_get_current_comm});
    return missing;
}

namespace {

constexpr bpf_prog_type kAddress = BPF_PROG_TYPE_CGROUP_SOCK_ADDR;
constexpr bpf_prog_type kSocket = BPF_PROG_TYPE_CGROUP_SOCK;

using Code = std::vector<bpf_insn>;

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
bpf_insn copy(__u8 to, __u8 from) {
    return instruction(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0);
}
bpf_insn call(__s32 helper) { return instruction(BPF_JMP | BPF_CALL, 0, 0, 0, helper); }
bpf_insn load_pointer(__u8 to, __s16 offset) { // of the context
    return instruction(BPF_LDX | BPF_MEM | BPF_DW, to, BPF_REG_1, offset, 0);
}
Code map(__u8 to, int fd) { // an instruction of two
    return {instruction(BPF_LD | BPF_DW | BPF_IMM, to, BPF_PSEUDO_MAP_FD, 0, fd),
            instruction(0, 0, 0, 0, 0)};
}

Code operator+(Code a, const Code &b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

// These instructions and "r0 = 1; exit" behind them.
Fd load(bpf_prog_type type, bpf_attach_type hook, Code program = {}) {
    program.push_back(set(BPF_REG_0, 1));
    program.push_back(instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
    LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = hook);
    return Fd(bpf_prog_load(type, "hr_probe", "GPL", program.data(), program.size(), &opts));
}

bool runs(bpf_prog_type type, bpf_attach_type hook, Code program = {}) {
    return bool(load(type, hook, std::move(program)));
}

Fd make_map(bpf_map_type type, __u32 key, __u32 value, __u32 entries, __u32 flags) {
    LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = flags);
    return Fd(bpf_map_create(type, "hr_probe", key, value, entries, &opts));
}

// Socket storage wants to know the types of its keys and values.
Fd make_storage() {
    std::unique_ptr<btf, void (*)(btf *)> types(btf__new_empty(), btf__free);
    if (!types)
        return Fd();
    int number = btf__add_int(types.get(), "int", 4, BTF_INT_SIGNED);
    if (number < 0 || btf__load_into_kernel(types.get()))
        return Fd();
    LIBBPF_OPTS(bpf_map_create_opts, opts, .btf_fd = static_cast<__u32>(btf__fd(types.get())),
                .btf_key_type_id = static_cast<__u32>(number),
                .btf_value_type_id = static_cast<__u32>(number), .map_flags = BPF_F_NO_PREALLOC);
    return Fd(bpf_map_create(BPF_MAP_TYPE_SK_STORAGE, "hr_probe", 4, 4, 0, &opts));
}

// storage_get(map, r2, NULL, 0)
Code read_storage(int fd) {
    return map(BPF_REG_1, fd) +
           Code{set(BPF_REG_3, 0), set(BPF_REG_4, 0), call(BPF_FUNC_sk_storage_get)};
}

bool has_global_data() { return bool(make_map(BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_RDONLY_PROG)); }

bool has_batch() {
    Fd hash = make_map(BPF_MAP_TYPE_HASH, 4, 4, 1, 0);
    __u32 key = 0, value = 0, cursor = 0, count = 1;
    return hash &&
           (!bpf_map_lookup_batch(hash.get(), nullptr, &cursor, &key, &value, &count, nullptr) ||
            errno == ENOENT);
}

// Eight bytes into a ring buffer.
Code write_to(int buffer) {
    return Code{instruction(BPF_ST | BPF_MEM | BPF_DW, BPF_REG_10, 0, -8, 0),
                copy(BPF_REG_2, BPF_REG_10),
                instruction(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, -8)} +
           map(BPF_REG_1, buffer) +
           Code{set(BPF_REG_3, 8), set(BPF_REG_4, 0), call(BPF_FUNC_ringbuf_output)};
}

// The socket's cookie, and something on the stack exchanged for it.
Code exchange() {
    return {call(BPF_FUNC_get_socket_cookie), copy(BPF_REG_2, BPF_REG_0),
            instruction(BPF_ST | BPF_MEM | BPF_DW, BPF_REG_10, 0, -8, 0), set(BPF_REG_0, 0),
            instruction(BPF_STX | BPF_ATOMIC | BPF_DW, BPF_REG_10, BPF_REG_2, -8, BPF_CMPXCHG)};
}

// Out of the kernel's own struct of the socket.
Code read_cookie(const SocketType &type) {
    const auto offset = static_cast<__s16>(type.cookie_offset);
    return {load_pointer(BPF_REG_1, offsetof(bpf_sock_addr, sk)),
            set(BPF_REG_2, static_cast<__s32>(type.number)),
            instruction(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, type.cast),
            instruction(BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_1, BPF_REG_0, offset, 0)};
}

// Nothing is attached: the target is no cgroup, which the kernel says only once
// it has found the rest right.
bool has_link(__u32 flags) {
    Fd program = load(kAddress, BPF_CGROUP_INET4_CONNECT);
    LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = flags);
    return program && !Fd(bpf_link_create(program.get(), -1, BPF_CGROUP_INET4_CONNECT, &opts)) &&
           errno == EBADF;
}

// What came of a probe says nothing of the kernel, only of this moment: whoever
// believed it would attach programs that can do less.
void refuse_for_now(int err) {
    if (is_momentary(err))
        raise_errno("kernel", "find out what it can do", err);
}

} // namespace

Features probe_features() {
    constexpr bpf_attach_type kConnect = BPF_CGROUP_INET4_CONNECT;
    Fd any = load(kAddress, kConnect);
    if (!any && (errno == EPERM || errno == EACCES))
        raise_errno("BPF program", "load", errno);
    if (!any)
        refuse_for_now(errno);
    auto has = [](const char *name, const std::function<bool()> &probe) {
        if (is_switched_off(name))
            return false;
        errno = 0;
        const bool found = probe();
        if (!found)
            refuse_for_now(errno);
        return found;
    };
    errno = 0;
    const Fd storage = make_storage();
    if (!storage)
        refuse_for_now(errno);
    const Code socket = {load_pointer(BPF_REG_2, offsetof(bpf_sock_addr, sk))};
    const Code refuse = {set(BPF_REG_1, -ECONNREFUSED), call(BPF_FUNC_set_retval)};
    const Code to_mptcp = {load_pointer(BPF_REG_1, offsetof(bpf_sock_addr, sk)),
                           call(BPF_FUNC_skc_to_mptcp_sock)};
    const Code probe_read = {copy(BPF_REG_3, BPF_REG_10), copy(BPF_REG_1, BPF_REG_10),
                             instruction(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_1, 0, 0, -8),
                             set(BPF_REG_2, 8), call(BPF_FUNC_probe_read_kernel)};
    const Code cgroups = {call(BPF_FUNC_get_current_cgroup_id), set(BPF_REG_1, 0),
                          call(BPF_FUNC_get_current_ancestor_cgroup_id)};
    auto connects = [&](Code code) { return runs(kAddress, kConnect, std::move(code)); };
    return {
        .connect = has("connect", [&] { return bool(any); }),
        .recvmsg = has("recvmsg", [&] { return runs(kAddress, BPF_CGROUP_UDP4_RECVMSG); }),
        .getpeername =
            has("getpeername", [&] { return runs(kAddress, BPF_CGROUP_INET4_GETPEERNAME); }),
        .global_data = has("global_data", has_global_data),
        .sk_storage = has("sk_storage",
                          [&] {
                              return storage && runs(kAddress, BPF_CGROUP_UDP4_SENDMSG,
                                                     socket + read_storage(storage.get()));
                          }),
        .cookie = has("cookie", [&] { return connects({call(BPF_FUNC_get_socket_cookie)}); }),
        .netns_cookie =
            has("netns_cookie", [&] { return connects({call(BPF_FUNC_get_netns_cookie)}); }),
        .cgroup_id = has("cgroup_id", [&] { return connects(cgroups); }),
        .set_retval = has("set_retval", [&] { return connects(refuse); }),
        .sock_release = has("sock_release",
                            [&] {
                                return storage && runs(kSocket, BPF_CGROUP_INET_SOCK_RELEASE,
                                                       Code{copy(BPF_REG_2, BPF_REG_1)} +
                                                           read_storage(storage.get()));
                            }),
        .places =
            has("places", [&] { return runs(kSocket, BPF_CGROUP_INET_SOCK_RELEASE, exchange()); }),
        .sock_read = has("sock_read",
                         [&] {
                             const SocketType type = socket_type();
                             return type && connects(read_cookie(type));
                         }),
        .post_bind =
            has("post_bind", [&] { return runs(kSocket, BPF_CGROUP_INET4_POST_BIND, refuse); }),
        .mptcp = has("mptcp", [&] { return connects(to_mptcp); }),
        .probe_read = has("probe_read", [&] { return connects(probe_read); }),
        .mmap =
            has("mmap", [] { return bool(make_map(BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_MMAPABLE)); }),
        .batch = has("batch", has_batch),
        .bpf_link = has("bpf_link", [] { return has_link(0); }),
        .ring_buffer = has("ring_buffer",
                           [&] {
                               const Fd buffer =
                                   make_map(BPF_MAP_TYPE_RINGBUF, 0, 0,
                                            static_cast<__u32>(::sysconf(_SC_PAGESIZE)), 0);
                               return buffer && connects(write_to(buffer.get())) &&
                                      connects({call(BPF_FUNC_get_current_pid_tgid)});
                           }),
        .preorder = has("preorder", [] { return has_link(kPreorder); }),
    };
}

} // namespace hr
