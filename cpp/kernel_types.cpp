// SPDX-License-Identifier: Apache-2.0
#include "kernel_types.hpp"

#include <bpf/btf.h>

#include <bit>
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

const btf_member *find_field(const Types &types, const btf_type *type, const char *field) {
    const btf_member *members = btf_members(type);
    for (unsigned i = 0; i < btf_vlen(type); i++)
        if (!std::strcmp(btf__name_by_offset(types.get(), members[i].name_off), field))
            return members + i;
    return nullptr;
}

struct Field {
    unsigned bit;  // counted from the begin of the struct
    unsigned bits; // of a bit field; 0: it is none
};

std::optional<Field> field_in(const Types &types, const char *name, const char *field) {
    const __s32 number = number_of(types, name, BTF_KIND_STRUCT);
    if (!number)
        return std::nullopt;
    const btf_type *type = btf__type_by_id(types.get(), number);
    const btf_member *found = find_field(types, type, field);
    if (!found)
        return std::nullopt;
    const auto at = static_cast<unsigned>(found - btf_members(type));
    return Field{btf_member_bit_offset(type, at), btf_member_bitfield_size(type, at)};
}

// In bytes; 0 if the kernel has no BTF, no such field, or one of some bits.
unsigned offset_in(const Types &types, const char *type, const char *name) {
    const std::optional<Field> field = field_in(types, type, name);
    return field && !field->bits ? field->bit / 8 : 0;
}

// Of a field of one bit, in its byte; 0 if it is not known. Bits are counted as they lie in memory.
__u8 mask_of(const Field &field) {
    if (field.bits != 1)
        return 0;
    constexpr bool little = std::endian::native == std::endian::little;
    return static_cast<__u8>(little ? 1U << field.bit % 8 : 0x80U >> field.bit % 8);
}

} // namespace

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
    const Field kern_sock = field_in(types, "sock", "sk_kern_sock").value_or(Field{});
    known = SocketType{
        .number = static_cast<__u32>(number_of(types, "sock", BTF_KIND_STRUCT)),
        .cookie_offset = offset_in(types, "sock_common", "skc_cookie"), // which it begins with
        .cast = number_of(types, "bpf_rdonly_cast", BTF_KIND_FUNC),
        .storage_offset = offset_in(types, "sock", "sk_bpf_storage"),
        .kern_sock_offset = kern_sock.bit / 8,
        .kern_sock_mask = mask_of(kern_sock),
    };
    return *known;
}

} // namespace hr
