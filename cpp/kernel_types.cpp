// SPDX-License-Identifier: Apache-2.0
#include "kernel_types.hpp"

#include <bpf/btf.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <optional>

#include "features.hpp"

namespace hr {

namespace {

using Types = std::unique_ptr<btf, void (*)(btf *)>;

Types load_types() {
    return Types(is_switched_off("btf") ? nullptr : btf__load_vmlinux_btf(), btf__free);
}

__s32 number_of(const Types &types, const char *name, __u32 kind) {
    const __s32 number = types ? btf__find_by_name_kind(types.get(), name, kind) : 0;
    return number > 0 ? number : 0;
}

unsigned offset_in(const Types &types, const char *type, const char *field) {
    const __s32 number = number_of(types, type, BTF_KIND_STRUCT);
    const btf_type *found = number ? btf__type_by_id(types.get(), number) : nullptr;
    for (unsigned i = 0; found && i < btf_vlen(found); i++) {
        const char *name = btf__name_by_offset(types.get(), btf_members(found)[i].name_off);
        unsigned bits = btf_member_bit_offset(found, i);
        if (!std::strcmp(name, field))
            return btf_member_bitfield_size(found, i) || bits % 8 ? 0 : bits / 8;
    }
    return 0;
}

} // namespace

unsigned kernel_offset(const char *type, const char *field) {
    return offset_in(load_types(), type, field);
}

SocketType socket_type() {
    // To read all types takes milliseconds, and writers ask often what the kernel can do.
    static std::mutex mutex;
    static std::optional<SocketType> known;
    if (is_switched_off("btf"))
        return {};
    const std::lock_guard guard(mutex);
    if (known)
        return *known;
    const Types types = load_types();
    if (!types)
        return {};
    known = SocketType{
        .number = static_cast<__u32>(number_of(types, "sock", BTF_KIND_STRUCT)),
        .cookie_offset = offset_in(types, "sock_common", "skc_cookie"), // which it begins with
        .cast = number_of(types, "bpf_rdonly_cast", BTF_KIND_FUNC),
        .storage_offset = offset_in(types, "sock", "sk_bpf_storage"),
    };
    return *known;
}

} // namespace hr
