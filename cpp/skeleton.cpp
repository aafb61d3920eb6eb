// SPDX-License-Identifier: Apache-2.0
#include "skeleton.hpp"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <vector>

#include "error.hpp"
#include "fitting.hpp"
#include "hooks.hpp"
#include "hostreach.skel.h"
#include "kernel_types.hpp"
#include "legacy.skel.h"

namespace hr {

namespace {

thread_local LibbpfLog *current_log = nullptr;

int keep(libbpf_print_level level, const char *format, va_list arguments) {
    if (!current_log || level == LIBBPF_DEBUG)
        return 0;
    va_list again;
    va_copy(again, arguments);
    std::vector<char> text(std::vsnprintf(nullptr, 0, format, arguments) + 1);
    std::vsnprintf(text.data(), text.size(), format, again);
    va_end(again);
    current_log->append(text.data());
    return 0;
}

thread_local Fitting fitting; // of the object that this thread is loading

// libbpf calls this for each program when its subprograms are in place.
int fit_to_kernel(bpf_program *program, bpf_prog_load_opts *, long) {
    const bpf_insn *code = bpf_program__insns(program);
    std::vector<bpf_insn> mended(code, code + bpf_program__insn_cnt(program));
    return fit(mended, fitting) ? bpf_program__set_insns(program, mended.data(), mended.size()) : 0;
}

// What a global function's context is, the verifier knows from the kernel's own
// BTF. Without that all have to be static, and are walked at each call.
void make_functions_static(bpf_object *object) {
    const btf *types = bpf_object__btf(object);
    for (__u32 id = 1; id < btf__type_cnt(types); id++) {
        // libbpf itself does this below Linux 5.6, but offers no call for it.
        auto *type = const_cast<btf_type *>(btf__type_by_id(types, id));
        if (btf_is_func(type))
            type->info = BTF_KIND_FUNC << 24 | BTF_FUNC_STATIC;
    }
}

bool has_kernel_btf() {
    return !is_switched_off("btf") && access("/sys/kernel/btf/vmlinux", R_OK) == 0;
}

constexpr char kKnobsMap[] = "knobs_map";

bpf_object *open(const Features &features) {
    size_t size = 0;
    const void *bytes =
        features.full() ? ::hostreach::elf_bytes(&size) : ::legacy::elf_bytes(&size);
    LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "hostreach");
    return bpf_object__open_mem(bytes, size, &opts);
}

// While libbpf finds out what the kernel can do, want of a descriptor looks like want of a
// feature, and what it then loads is refused for another reason. Raises kernel_error.
void need_descriptors(bpf_object *object) {
    std::size_t count = 8; // for types, and what it tries
    bpf_program *program;
    bpf_object__for_each_program(program, object) count += bpf_program__autoload(program);
    std::vector<Fd> taken;
    taken.emplace_back(::open("/", O_PATH | O_CLOEXEC));
    while (taken.back() && taken.size() < count)
        taken.emplace_back(::fcntl(taken.front().get(), F_DUPFD_CLOEXEC, 0));
    if (!taken.back())
        raise_errno("BPF object", "load", errno);
}

} // namespace

LibbpfLog::LibbpfLog() : outer_(current_log) { current_log = this; }
LibbpfLog::~LibbpfLog() { current_log = outer_; }
void LibbpfLog::install() { libbpf_set_print(keep); }

void Skeleton::register_hooks() {
    for (const Hook &hook : all_hooks()) {
        LIBBPF_OPTS(libbpf_prog_handler_opts, opts, .prog_prepare_load_fn = fit_to_kernel);
        const std::string section = std::string("cgroup/") + hook.name;
        libbpf_register_prog_handler(section.c_str(), hook.program_type, hook.type, &opts);
    }
}

Skeleton::Skeleton(const Features &features) : features_(features), object_(open(features)) {
    if (!object_)
        raise_errno("BPF object", "open", errno);
}

Skeleton::~Skeleton() { bpf_object__close(object_); }

bpf_map *Skeleton::map(const char *name) const {
    return bpf_object__find_map_by_name(object_, name);
}

bpf_program *Skeleton::program(const char *name) const {
    return bpf_object__find_program_by_name(object_, name);
}

void Skeleton::without_listeners() {
    bpf_map *listeners = map("listeners");
    if (!listeners)
        return;
    no_buffer_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY, "hr_no_buffer", 4, 8, 1, nullptr));
    if (!no_buffer_)
        raise_errno("BPF object", "make a map", errno);
    if (int err = -bpf_map__set_inner_map_fd(listeners, no_buffer_.get()))
        raise_errno("BPF object", "set the kind of a map's maps", err);
}

void Skeleton::show_sockets() {
    const SocketType type = socket_type();
    knobs.sock_type = type.number;
    knobs.cookie_offset = type.cookie_offset;
    knobs.storage_offset = type.storage_offset;
    cast_ = type.cast;
}

void Skeleton::without_programs() {
    bpf_program *program;
    bpf_object__for_each_program(program, object_) bpf_program__set_autoload(program, false);
    bpf_map *map;
    bpf_object__for_each_map(map, object_) if (holds_knobs(bpf_map__name(map)))
        bpf_map__set_autocreate(map, false);
}

bool Skeleton::holds_knobs(const std::string &map_name) {
    return map_name == kKnobsMap || map_name.find(".rodata") != std::string::npos;
}

void Skeleton::load() {
    bpf_map *map, *of_knobs = nullptr;
    bpf_object__for_each_map(map, object_) {
        if (holds_knobs(bpf_map__name(map)) && !of_knobs)
            of_knobs = map;
        else if (bpf_map__is_internal(map))
            throw Error(Kind::kernel_error, "BPF object", "has more global data than the knobs");
    }
    if (bpf_map__is_internal(of_knobs) &&
        bpf_map__set_initial_value(of_knobs, &knobs, sizeof(knobs)))
        raise_errno("BPF object", "set the knobs", errno); // .rodata holds more than them
    fitting = {.missing_helpers = features_.missing_helpers(),
               .lacks_exchange = !features_.places,
               .cast_number = cast_,
               .knobs = knobs};
    if (!has_kernel_btf())
        make_functions_static(object_);
    need_descriptors(object_);
    int err = -bpf_object__load(object_);
    if (!err) {
        __u32 zero = 0;
        if (!bpf_map__is_internal(of_knobs) && bpf_map__autocreate(of_knobs) &&
            bpf_map_update_elem(bpf_map__fd(of_knobs), &zero, &knobs, BPF_ANY))
            raise_errno("BPF object", "set the knobs", errno);
        return;
    }
    if (err == EPERM || err == EACCES) {
        // the verifier also says EACCES; it alone leaves a log of instructions
        if (log_.text().find("PROG LOAD LOG") == std::string::npos)
            raise_errno("BPF object", "load", err);
    }
    Error error(Kind::program_rejected, "BPF object",
                std::string("the kernel refused it: ") + std::strerror(err), err);
    error.log = log_.text();
    throw error;
}

} // namespace hr
