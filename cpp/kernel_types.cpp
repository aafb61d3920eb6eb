// SPDX-License-Identifier: Apache-2.0
#include "kernel_types.hpp"

#include <bpf/btf.h>

#include <cstring>
#include <memory>

#include "features.hpp"

namespace hr {

unsigned kernel_offset(const char *type, const char *field) {
    if (is_switched_off("btf"))
        return 0;
    std::unique_ptr<btf, void (*)(btf *)> types(btf__load_vmlinux_btf(), btf__free);
    __s32 number = types ? btf__find_by_name_kind(types.get(), type, BTF_KIND_STRUCT) : -1;
    const btf_type *found = number > 0 ? btf__type_by_id(types.get(), number) : nullptr;
    for (unsigned i = 0; found && i < btf_vlen(found); i++) {
        const char *name = btf__name_by_offset(types.get(), btf_members(found)[i].name_off);
        unsigned bits = btf_member_bit_offset(found, i);
        if (!std::strcmp(name, field))
            return btf_member_bitfield_size(found, i) || bits % 8 ? 0 : bits / 8;
    }
    return 0;
}

} // namespace hr
