// SPDX-License-Identifier: Apache-2.0
// The BPF object's skeleton, owned, with libbpf's messages kept for errors.
#pragma once

#include <string>

#include "hostreach.skel.h"

namespace hr {

// What libbpf says while this lives, the verifier log included, on this
// thread. libbpf knows one callback for the whole process: module.cpp sets it.
class LibbpfLog {
  public:
    LibbpfLog();
    ~LibbpfLog();
    LibbpfLog(const LibbpfLog &) = delete;
    LibbpfLog &operator=(const LibbpfLog &) = delete;

    const std::string &text() const { return text_; }
    void append(const char *text) { text_ += text; }
    static void install();

  private:
    std::string text_;
    LibbpfLog *outer_;
};

class Skeleton {
  public:
    // Opened, nothing loaded; raises kernel_error.
    Skeleton();
    ~Skeleton();
    Skeleton(const Skeleton &) = delete;
    Skeleton &operator=(const Skeleton &) = delete;

    // Creates what maps are not reused and loads what programs are wanted;
    // raises program_rejected with the verifier log, permission_denied.
    void load();

    ::hostreach *operator->() const { return skeleton_; }

  private:
    LibbpfLog log_;
    ::hostreach *skeleton_;
};

} // namespace hr
