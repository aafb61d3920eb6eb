// SPDX-License-Identifier: Apache-2.0
// A batch of changes: whether it fits, its order, its begin and end, and what is
// derived from the tables; publishing.cpp has what becomes of one service.
#include "table.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <unordered_set>
#include <utility>

#include "attachment.hpp"
#include "error.hpp"
#include "host.hpp"

namespace hr {

void Table::write(std::vector<ServiceSpec> to_put, const std::vector<hr_key> &to_remove) {
    if (failed_)
        throw Error(Kind::refused, pin_.path(), "a write of this batch failed; begin another");
    refresh();
    const bool any_listed =
        std::ranges::any_of(to_put, [](const auto &spec) { return !spec.ranges.empty(); });
    if (any_listed && !can_list_clients())
        throw Error(Kind::refused, "source ranges",
                    "this kernel does not tell network namespaces apart (Linux 5.14 or later is "
                    "needed)");
    resolve(to_put);
    check_room(to_put, to_remove);
    clients_ = any_listed ? find_clients() : std::vector<Client>();
    check_room_for_clients(to_put);
    try {
        for (const hr_key &key : to_remove)
            remove(key);
        for (const ServiceSpec *spec : in_order(to_put))
            put(*spec);
    } catch (...) {
        failed_ = true; // the next writer mends what we left
        throw;
    }
}

// What gives back comes first, so that the rest finds room.
std::vector<const ServiceSpec *> Table::in_order(const std::vector<ServiceSpec> &specs) const {
    std::vector<std::pair<__s64, const ServiceSpec *>> by_growth;
    by_growth.reserve(specs.size());
    for (const ServiceSpec &spec : specs) {
        auto at = index_.find(spec.key);
        const __s64 had = at == index_.end() ? 0 : view(at->second).details.members;
        by_growth.emplace_back(static_cast<__s64>(spec.backends.size()) - had, &spec);
    }
    std::ranges::stable_sort(by_growth, {}, [](const auto &each) { return each.first; });
    std::vector<const ServiceSpec *> ordered;
    ordered.reserve(specs.size());
    for (const auto &[growth, spec] : by_growth)
        ordered.push_back(spec);
    return ordered;
}

// Found out once: it loads programs, and writers wait meanwhile.
bool Table::can_list_clients() {
    if (!knows_clients_)
        knows_clients_ = knows_clients();
    return *knows_clients_;
}

// A cgroup that is gone, which has no id, keeps that of the same service.
void Table::resolve(std::vector<ServiceSpec> &specs) {
    for (ServiceSpec &spec : specs) {
        if (spec.subtree.path.empty() || spec.subtree.id)
            continue;
        std::optional<Block> old = get(spec.key);
        if (!old || old->spec.subtree.path != spec.subtree.path)
            throw Error(Kind::invalid_input, spec.subtree.path, "no cgroup v2 directory", ENOENT);
        spec.subtree = old->spec.subtree;
    }
}

void Table::check_room(const std::vector<ServiceSpec> &to_put,
                       const std::vector<hr_key> &to_remove) {
    Used needed = used();
    std::unordered_set<hr_key, KeyHash, KeyEqual> gone; // one may be removed and put anew
    auto without = [&](const hr_key &key) {
        const std::optional<__u32> service = find(key);
        if (service && gone.insert(key).second)
            needed.take(view(*service));
    };
    for (const hr_key &key : to_remove)
        without(key);
    for (const ServiceSpec &spec : to_put) {
        without(spec.key);
        needed.add(spec);
    }
    needed.check(capacities(), word_count() - kLargestBlock, pin_.path());
}

void Table::check_room(const Capacities &asked, const std::vector<ServiceSpec> &to_put) const {
    Used needed;
    for (const ServiceSpec &spec : to_put)
        needed.add(spec);
    needed.check(asked.or_defaults(), std::numeric_limits<__u64>::max(), pin_.path());
}

// Most backends that go have no connection open: then nobody has to look for
// sockets. A connect that chose such a backend a moment ago counts itself and then
// looks at the mark, we looked at the count after marking: one of us sees the other
// (has_gone() in bpf/connect.bpf.h).
void Table::note_ends() {
    const bool reused_due = std::exchange(reused_due_, false);
    if (to_end_.empty()) // then an id that was reused went with an earlier batch, which saw to it
        return;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    auto is_pinned = [&](std::string_view name) {
        return std::ranges::any_of(all_hooks(), [&](const Hook &hook) {
            return hook.name == name && has_attachment(pin_, hook);
        });
    };
    // where nobody counts, or not every socket is counted
    bool due = reused_due || (is_pinned("connect4") && !is_pinned("sock_release")) ||
               tables_->flags.load(HR_MOVED) || tables_->flags.load(HR_OVERFLOW_USED);
    for (__u32 id : to_end_)
        due = due || open_at(id) > 0;
    to_end_.clear();
    if (due)
        raise_ends_due(tables_->meta[0].generation); // odd, and each batch has its own
}

// No two causes are alike: whoever looked for sockets lowers it from what it was before.
void Table::raise_ends_due(__u64 cause) { tables_->flags.store(HR_ENDS_DUE, cause); }

__s64 Table::open_at(__u32 id) { return static_cast<__s64>(tables_->active.load(id)); }

void Table::raise_mark(const Heap &heap, __u32 hr_meta::*mark) {
    if (heap.mark() > tables_->meta[0].*mark)
        tables_->meta.store(0, mark, heap.mark());
}

// At once where services came; where they went, not before most did, or some that come and go
// would have all hints left anew each time.
void Table::fit_hints() {
    const __u32 mask = hint_mask(static_cast<__u32>(used_.services));
    const __u32 now = tables_->meta[0].hint_mask;
    if (mask > now || mask < now / 4)
        tables_->meta.store(0, &hr_meta::hint_mask, mask);
}

void Table::begin_write() {
    if (writing_)
        return;
    tables_->meta.store(0, &hr_meta::generation, tables_->meta[0].generation + 1);
    writing_ = true;
}

// Derives what is free from what is used, unless nobody has written since.
void Table::refresh() {
    require_writer();
    const hr_meta &meta = tables_->meta[0];
    if (writing_ || generation_ == meta.generation)
        return;
    generation_.reset();
    index_.clear();
    port_users_.clear();
    used_ = {};
    std::vector<Range> services, backends, used;
    std::vector<hr_key> nobodys; // on its way in or out when a writer was killed
    for_each_service(tables_->services.get(), capacities().services,
                     [&](const hr_key &key, __u32 service) {
                         if (tables_->is_there(key, service))
                             index_.emplace(key, service);
                         else
                             nobodys.push_back(key);
                     });
    for (const hr_key &key : nobodys)
        if (bpf_map_delete_elem(tables_->services.get(), &key) && errno != ENOENT)
            raise_errno(format_key(key), "remove the service", errno);
    for (const auto &[key, service] : index_) {
        const BlockView block = view(service);
        services.push_back({service, 1});
        port_users_[port_of(key)]++;
        for (std::size_t i = 0; i < block.details.members; i++)
            backends.push_back({block.member(i).backend, 1});
        used.push_back({block.base, block.words});
        used_.add(block);
    }
    auto size = [](const auto &array) { return static_cast<__u32>(array.size()); };
    free_services_ = Heap(size(tables_->records), meta.services_mark, std::move(services));
    free_backends_ = Heap(size(tables_->backends), meta.backends_mark, std::move(backends));
    free_words_ = Heap(static_cast<__u32>(word_count()), meta.slots_mark, std::move(used));
    if (meta.generation % 2) {
        mend();
        tables_->meta.store(0, &hr_meta::generation, meta.generation + 1);
    }
    generation_ = meta.generation;
}

// A writer was killed at work: a backend may claim a service that no longer has
// it, or a state that is not the published one, a client may be let in no more. (A bit of `ports`
// that stayed set costs a look-up and is no error; it goes with the next service there.)
void Table::mend() {
    std::vector<__u32> service_of(tables_->backends.size(), HR_NO_SERVICE);
    auto store = [&](__u32 id, auto field, auto value) {
        if (tables_->backends[id].*field != value)
            tables_->backends.store(id, field, value);
    };
    for (const auto &[key, service] : index_) {
        Block block = read(service);
        if (tables_->records.is_mapped()) {
            const __u64 set = tables_->records[service].set;
            tables_->records.store(service, &hr_record::first, first_of(set, words() + block.base));
        }
        for (std::size_t i = 0; i < block.ids.size(); i++) {
            service_of[block.ids[i]] = service;
            store(block.ids[i], &hr_backend::reset, block.spec.resets_sockets());
            store(block.ids[i], &hr_backend::state, block.spec.backends[i].state);
        }
    }
    for (__u32 id = 0; id < tables_->meta[0].backends_mark; id++)
        store(id, &hr_backend::service, service_of[id]);
    // once it can be told whose sockets are to be ended: who looks before lowers the flag
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    raise_ends_due(tables_->meta[0].generation + 1); // the batch's own may be there already
    if (admits()) { // some may be let in that the published ranges leave out
        look_for_clients();
        bool all = true;
        let_in(&all);
    }
}

} // namespace hr
