// SPDX-License-Identifier: Apache-2.0
// The BPF object that suits this kernel, owned, with libbpf's messages kept for errors.
#pragma once

#include <bpf/libbpf.h>

#include <string>

#include "fd.hpp"
#include "features.hpp"
#include "layout.hpp"

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

// bpf/hostreach.bpf.c or, where the kernel has no global data or no socket
// storage, bpf/legacy.bpf.c: the same names, of which the latter lacks some.
class Skeleton {
  public:
    // Opened, nothing loaded; raises kernel_error.
    explicit Skeleton(const Features &features);
    ~Skeleton();
    Skeleton(const Skeleton &) = delete;
    Skeleton &operator=(const Skeleton &) = delete;

    bpf_object *object() const { return object_; }
    // Null if this object has none of that name.
    bpf_map *map(const char *name) const;
    bpf_program *program(const char *name) const;
    // To be set before load().
    hr_knobs knobs = {};
    // Nobody can listen: the programs get a map of other maps, for want of ring buffers.
    void without_listeners();
    // The programs read a socket's cookie where the kernel keeps it: they do not make one.
    void show_sockets();
    // Loads no program, only makes maps.
    void without_programs();

    // Creates what maps are not reused and loads what programs are wanted. A call
    // of what this kernel lacks is taken out first, and gives 0. Raises
    // program_rejected with the verifier log, permission_denied.
    void load();

    // Where a loaded program has its knobs: the name of a map.
    static bool holds_knobs(const std::string &map_name);
    // To be called once in a process, before anything is opened.
    static void register_hooks();

  private:
    const Features features_;
    LibbpfLog log_;
    Fd no_buffer_;
    __s32 cast_ = 0; // number of bpf_rdonly_cast
    bpf_object *object_;
};

} // namespace hr
