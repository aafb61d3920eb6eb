// SPDX-License-Identifier: Apache-2.0
#include "skeleton.hpp"

#include <bpf/libbpf.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <vector>

#include "error.hpp"

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

} // namespace

LibbpfLog::LibbpfLog() : outer_(current_log) { current_log = this; }
LibbpfLog::~LibbpfLog() { current_log = outer_; }
void LibbpfLog::install() { libbpf_set_print(keep); }

Skeleton::Skeleton() : skeleton_(::hostreach::open()) {
    if (!skeleton_)
        raise_errno("BPF object", "open", errno);
}

Skeleton::~Skeleton() { ::hostreach::destroy(skeleton_); }

void Skeleton::load() {
    int err = -::hostreach::load(skeleton_);
    if (!err)
        return;
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
