// SPDX-License-Identifier: Apache-2.0
#include "iterators.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "error.hpp"
#include "features.hpp"
#include "maps.hpp"
#include "skeleton.hpp"
#include "sockets.skel.h"

namespace hr {

namespace {

// Of the tables only these are read or written there.
constexpr const char *kTables[] = {"connections", "holders", "places", "backends", "active"};

// Without a pin directory the programs get tables of their own.
void lend(const PinDirectory *pin, ::sockets *skeleton) {
    bpf_map *map;
    bpf_object__for_each_map(map, skeleton->obj) {
        const std::string name = bpf_map__name(map);
        bool used = bpf_map__is_internal(map);
        for (const char *table : kTables) {
            if (name != table)
                continue;
            used = true;
            if (!pin)
                continue;
            Fd fd = open_pinned(pin->file(name));
            if (!fd)
                throw Error(Kind::not_found, pin->path(), "the table '" + name + "' is missing",
                            ENOENT);
            if (int err = -bpf_map__reuse_fd(map, fd.get()))
                raise_errno(pin->file(name), "use the pinned table", err);
        }
        bpf_map__set_autocreate(map, used);
    }
}

using Owned = std::unique_ptr<::sockets, void (*)(::sockets *)>;

// 0 or an errno; `with_end`: also the programs that end sockets.
int load(const PinDirectory *pin, bool with_end, bool with_cookie, Owned *loaded,
         std::string *log_text) {
    LibbpfLog log;
    Owned skeleton(::sockets::open(), ::sockets::destroy);
    if (!skeleton)
        raise_errno("BPF object", "open", errno);
    lend(pin, skeleton.get());
    bpf_program__set_autoload(skeleton->progs.hr_tcp, with_end);
    bpf_program__set_autoload(skeleton->progs.hr_udp, with_end);
    skeleton->rodata->has_cookie = with_cookie;
    int err = -::sockets::load(skeleton.get());
    *log_text = log.text();
    if (!err && !skeleton->bss) // libbpf found no global data, if only for want of memory
        err = EOPNOTSUPP;
    if (!err)
        *loaded = std::move(skeleton);
    return err;
}

// Who has it and is told EPERM lacks nothing: a policy of the machine's is against such
// programs, whoever loads them.
bool has_sys_admin() {
    __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
    return !::syscall(SYS_capget, &header, data) &&
           data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN);
}

std::vector<hr_socket> read_all(const bpf_link *link) {
    Fd iterator(bpf_iter_create(bpf_link__fd(link)));
    if (!iterator)
        raise_errno("sockets", "iterate", errno);
    std::vector<hr_socket> found;
    std::vector<char> bytes;
    char buffer[1 << 15];
    for (;;) {
        ssize_t size = ::read(iterator.get(), buffer, sizeof(buffer));
        if (size < 0 && (errno == EAGAIN || errno == EINTR))
            continue; // a million sockets that were not worth a word
        if (size < 0)
            raise_errno("sockets", "iterate", errno);
        if (size == 0)
            break;
        bytes.insert(bytes.end(), buffer, buffer + size);
    }
    found.resize(bytes.size() / sizeof(hr_socket));
    if (!found.empty())
        std::memcpy(found.data(), bytes.data(), found.size() * sizeof(hr_socket));
    return found;
}

// A link of an iterator is no more than the program and what it goes over.
class IteratorLink {
  public:
    explicit IteratorLink(bpf_program *program, const bpf_iter_attach_opts *opts = nullptr)
        : link_(bpf_program__attach_iter(program, opts)) {
        if (!link_)
            raise_errno("sockets", "iterate", errno);
    }
    ~IteratorLink() { bpf_link__destroy(link_); }
    IteratorLink(const IteratorLink &) = delete;
    IteratorLink &operator=(const IteratorLink &) = delete;

    const bpf_link *get() const { return link_; }

  private:
    bpf_link *link_;
};

} // namespace

bool Iterators::try_load(const PinDirectory &pin, bool with_end, bool with_cookie) {
    Owned loaded(nullptr, ::sockets::destroy);
    load_error_ = load(&pin, with_end, with_cookie, &loaded, &log_);
    if (is_momentary(load_error_)) // it may well be able to, and is asked but once
        raise_errno("BPF object", "load", load_error_);
    if (load_error_)
        return false;
    skeleton_ = loaded.release();
    can_end_ = with_end;
    return true;
}

Iterators::Iterators(const PinDirectory &pin, bool may_end) {
    if (is_switched_off("btf"))
        throw Error(Kind::program_rejected, "kernel", "it has no BTF", ENOENT);
    if (may_end && !is_switched_off("sock_destroy") && try_load(pin, true, true))
        return;
    if (try_load(pin, false, true) || try_load(pin, false, false))
        return;
    if (load_error_ == EPERM && !has_sys_admin())
        raise_errno("BPF object", "load", load_error_);
    Error error(Kind::program_rejected, "kernel",
                std::string("it has no socket iterators: ") + std::strerror(load_error_),
                load_error_);
    error.log = log_;
    throw error;
}

Iterators::~Iterators() { ::sockets::destroy(skeleton_); }

std::vector<hr_socket> Iterators::records(__u32 wanted) {
    skeleton_->bss->wanted = wanted;
    bpf_iter_link_info over = {};
    over.map.map_fd = bpf_map__fd(skeleton_->maps.connections);
    LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &over, .link_info_len = sizeof(over));
    IteratorLink link(skeleton_->progs.hr_records, &opts);
    return read_all(link.get());
}

std::vector<hr_socket> Iterators::walk(__u16 protocol, bool end) {
    skeleton_->bss->ending = end;
    IteratorLink link(protocol == IPPROTO_TCP ? skeleton_->progs.hr_tcp : skeleton_->progs.hr_udp);
    return read_all(link.get());
}

IteratorFeatures probe_iterators() {
    if (is_switched_off("btf"))
        return {};
    auto loads = [](bool with_end, bool with_cookie) {
        Owned loaded(nullptr, ::sockets::destroy);
        std::string log;
        return !load(nullptr, with_end, with_cookie, &loaded, &log);
    };
    if (!is_switched_off("sock_destroy") && loads(true, true))
        return {.records = true, .walk = true};
    return {.records = loads(false, true) || loads(false, false), .walk = false};
}

Iterators *IteratorCache::get(const PinDirectory &pin) {
    if (!open_pinned(pin.file("connections")))
        return nullptr;
    Fd backends = open_pinned(pin.file("backends"));
    __u32 id = backends ? map_info(backends.get(), "backends").id : 0;
    if (id && id == backends_)
        return iterators_.get();
    drop();
    try {
        iterators_ = std::make_unique<Iterators>(pin, may_end_);
    } catch (const Error &error) {
        if (error.kind != Kind::program_rejected)
            throw;
    }
    backends_ = id;
    return iterators_.get();
}

void IteratorCache::drop() {
    iterators_.reset();
    backends_ = 0;
}

} // namespace hr
