// SPDX-License-Identifier: Apache-2.0
#include "program.hpp"

#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "error.hpp"
#include "skeleton.hpp"

namespace hr {

namespace {

bpf_prog_info describe(int fd) {
    bpf_prog_info info = {};
    __u32 size = sizeof(info);
    if (bpf_prog_get_info_by_fd(fd, &info, &size))
        raise_errno("program", "read its description", errno);
    return info;
}

} // namespace

Fd program_by_id(__u32 id) { return Fd(bpf_prog_get_fd_by_id(id)); }

__u32 program_id(const Fd &program) { return describe(program.get()).id; }

std::string program_name(__u32 id) {
    Fd fd = program_by_id(id);
    bpf_prog_info info = {};
    __u32 size = sizeof(info);
    if (!fd || bpf_prog_get_info_by_fd(fd.get(), &info, &size))
        return "";
    return info.name;
}

Fingerprint fingerprint(int program_fd) {
    Fingerprint print = {};
    print.maps.resize(64);
    bpf_prog_info info = {};
    info.map_ids = reinterpret_cast<__u64>(print.maps.data());
    info.nr_map_ids = static_cast<__u32>(print.maps.size());
    __u32 size = sizeof(info);
    if (bpf_prog_get_info_by_fd(program_fd, &info, &size))
        raise_errno("program", "read its description", errno);
    std::memcpy(print.tag, info.tag, sizeof(print.tag));
    print.maps.resize(info.nr_map_ids);
    for (auto id = print.maps.begin(); id != print.maps.end(); ++id) {
        Fd map(bpf_map_get_fd_by_id(*id));
        bpf_map_info map_info = {};
        size = sizeof(map_info);
        if (!map || bpf_map_get_info_by_fd(map.get(), &map_info, &size))
            raise_errno("program", "read its maps", errno);
        if (!Skeleton::holds_knobs(map_info.name))
            continue;
        print.knobs.resize(map_info.value_size);
        __u32 zero = 0;
        if (bpf_map_lookup_elem(map.get(), &zero, print.knobs.data()))
            raise_errno("program", "read its knobs", errno);
        print.maps.erase(id);
        break;
    }
    std::sort(print.maps.begin(), print.maps.end());
    return print;
}

} // namespace hr
