// SPDX-License-Identifier: Apache-2.0
#include "grace.hpp"

#include <bpf/bpf.h>

#include <cerrno>

#include "error.hpp"
#include "layout.hpp"

namespace hr {

void GracePeriod::wait() {
    if (!outer_) {
        inner_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY, "hr_grace_inner", 4, 8, 1, nullptr));
        if (!inner_)
            raise_errno("grace period", "create a map", errno);
        LIBBPF_OPTS(bpf_map_create_opts, opts, .inner_map_fd = static_cast<__u32>(inner_.get()));
        outer_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "hr_grace", 4, 4, 1, &opts));
        if (!outer_)
            raise_errno("grace period", "create a map of maps", errno);
    }
    __u32 key = 0, fd = static_cast<__u32>(inner_.get());
    if (bpf_map_update_elem(outer_.get(), &key, &fd, BPF_ANY))
        raise_errno("grace period", "wait", errno);
}

} // namespace hr
