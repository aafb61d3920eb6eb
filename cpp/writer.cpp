// SPDX-License-Identifier: Apache-2.0
#include "table.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <unordered_map>
#include <unordered_set>

#include "attachment.hpp"
#include "error.hpp"
#include "host.hpp"
#include "selection.hpp"

namespace hr {

namespace {

constexpr __u32 kNew = ~0U; // a backend that has no id yet

// Which bit of `ports` says that there is such a service.
struct PortBit {
    __u32 line, word, bit;
};

// The same for services that share that bit.
__u32 port_of(const hr_key &key) { return key.scope << 24 | key.protocol << 16 | key.port; }

PortBit port_bit(const hr_key &key) {
    return {static_cast<__u32>(HR_PORT_LINE(key.scope, key.protocol == IPPROTO_UDP, key.port)),
            static_cast<__u32>(HR_PORT_WORD(key.port)), HR_PORT_BIT(key.port)};
}

// A connected UDP socket would never learn that its backend is gone; TCP does.
__u8 resets_sockets(const ServiceSpec &spec) {
    if (spec.on_removal == HR_BY_PROTOCOL)
        return spec.key.protocol == IPPROTO_UDP;
    return spec.on_removal == HR_RESET;
}

bool is_at(const BackendSpec &spec, const hr_backend &backend) {
    return spec.endpoint.port == backend.port &&
           std::equal(std::begin(backend.ip), std::end(backend.ip), spec.endpoint.ip);
}

Endpoint endpoint_of(const hr_backend &backend) {
    Endpoint endpoint;
    std::copy(std::begin(backend.ip), std::end(backend.ip), endpoint.ip);
    endpoint.port = backend.port;
    return endpoint;
}

} // namespace

// What one write took from the heaps; given back unless it was published.
class Table::Claims {
  public:
    Claims(Table &table, std::size_t expected) : table_(table) { taken_.reserve(expected); }
    Claims(const Claims &) = delete;
    Claims &operator=(const Claims &) = delete;
    ~Claims() {
        for (auto &[heap, range] : taken_)
            heap->untake(range);
    }
    void keep() { taken_.clear(); }

    // After a grace period if nothing else will do. The mark rises before the
    // range is used, so that whoever comes after us, even after a SIGKILL,
    // knows that programs may have seen it. Raises table_full.
    __u32 take(Heap &heap, __u32 length, __u32 hr_meta::*mark) {
        std::optional<__u32> start = heap.take(length);
        if (!start) {
            table_.grace_.wait();
            table_.free_services_.flush();
            table_.free_backends_.flush();
            table_.free_words_.flush();
            start = heap.take(length);
        }
        if (!start && &heap == &table_.free_words_ && table_.make_room(length))
            start = heap.take(length);
        if (!start)
            throw Error(Kind::table_full, table_.pin_.path(),
                        "no room in one piece for so large a service", ENOSPC);
        taken_.push_back({&heap, {*start, length}});
        table_.raise_mark(heap, mark);
        return *start;
    }

  private:
    Table &table_;
    std::vector<std::pair<Heap *, Range>> taken_;
};

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
    __u64 services = counts_.services, backends = counts_.backends, slots = counts_.slots;
    __u64 used = words_used_;
    std::unordered_set<hr_key, KeyHash, KeyEqual> gone; // one may be removed and put anew
    auto without = [&](const hr_key &key) {
        auto at = index_.find(key);
        if (at == index_.end() || !gone.insert(key).second)
            return;
        const BlockView old = view(at->second);
        services--;
        backends -= old.details.members;
        slots -= old.selection;
        used -= old.words;
    };
    for (const hr_key &key : to_remove)
        without(key);
    for (const ServiceSpec &spec : to_put) {
        without(spec.key);
        std::size_t selection = selection_size(spec);
        services++;
        backends += spec.backends.size();
        slots += selection;
        used += block_words(spec, selection);
    }
    auto check = [&](const char *what, __u64 needed, __u64 capacity) {
        if (needed > capacity)
            throw Error(Kind::table_full, pin_.path(),
                        "no room: " + std::to_string(needed) + " " + what + " are needed, " +
                            std::to_string(capacity) + " fit; `hostreach attach --max-" + what +
                            " N` makes the tables larger",
                        ENOSPC);
    };
    Capacities room = capacities();
    check("services", services, room.services);
    check("backends", backends, room.backends);
    check("slots", slots, room.slots);
    // names that are longer than what stands aside for them
    check("slots", used, word_count() - kLargestBlock);
}

// What each backend's id is: that which it had or, where the service had no such
// backend, a new one.
void Table::claim_backends(const ServiceSpec &spec, __u32 service, std::vector<__u32> &ids,
                           const std::vector<__u32> &old, Claims &claims) {
    std::unordered_map<Endpoint, __u32, EndpointHash> moved; // made where the order changed
    for (std::size_t i = 0; i < ids.size() && !old.empty(); i++) {
        if (i < old.size() && is_at(spec.backends[i], tables_->backends[old[i]])) {
            ids[i] = old[i];
            continue;
        }
        if (moved.empty())
            for (__u32 id : old)
                moved.emplace(endpoint_of(tables_->backends[id]), id);
        if (auto at = moved.find(spec.backends[i].endpoint); at != moved.end())
            ids[i] = at->second;
    }
    const __u8 resets = resets_sockets(spec);
    for (std::size_t i = 0; i < ids.size(); i++) {
        if (ids[i] != kNew)
            continue;
        ids[i] = claims.take(free_backends_, 1, &hr_meta::backends_mark);
        hr_backend &backend = tables_->backends.draft()[ids[i]];
        const BackendSpec &from = spec.backends[i];
        // the sockets of the one before are told by these, so they come first; whoever
        // is killed on the way and comes again says the same of them
        if (backend.reset)
            publish(backend.reset_before, backend.incarnation);
        publish(backend.reset, __u8{0});
        publish(backend.incarnation, std::max(backend.incarnation + 1, 1U));
        std::copy(std::begin(from.endpoint.ip), std::end(from.endpoint.ip), backend.ip);
        backend.port = from.endpoint.port;
        backend.state = from.state;
        backend.reset = resets;
        tables_->active.store(ids[i], __u64{0});
        // last: a program reads it first
        tables_->backends.store(ids[i], &hr_backend::service, service);
    }
}

void Table::put(const ServiceSpec &spec) {
    auto existing = index_.find(spec.key);
    const bool is_new = existing == index_.end();
    const Selection selection = select(spec);
    const __u32 length = block_words(spec, selection.size());

    // Nothing below is reached by any program before it is published.
    begin_write();
    Claims claims(*this, spec.backends.size() + 2);
    const __u32 base = claims.take(free_words_, length, &hr_meta::slots_mark); // may move blocks
    const __u32 used_before = tables_->meta[0].services_mark;
    const __u32 service =
        is_new ? claims.take(free_services_, 1, &hr_meta::services_mark) : existing->second;
    const Old old = is_new ? Old() : remembered(service);
    std::vector<__u32> ids(spec.backends.size(), kNew);
    claim_backends(spec, service, ids, old.ids, claims);
    const std::vector<__u32> block = encode_block(spec, ids, selection);
    std::copy(block.begin(), block.end(), tables_->slots.draft()->word + base);
    const __u32 first = base / HR_LINE_WORDS;
    tables_->slots.push(first, (base + length - 1) / HR_LINE_WORDS - first + 1);

    const std::vector<hr_network> ranges = parse_ranges(spec.ranges);
    if (!ranges.empty() && !old.has_ranges)
        keep_clients(service, {}); // those of one that had this index before
    for (const Client &client : clients_of(ranges)) {
        hr_allowed_key key = {client.netns, service, 0};
        add_to_set(tables_->allowed.get(), &key, "allowed clients");
    }
    publish_set(service, spec.key, set_word(spec, base, selection));
    if (is_new)
        add_key(spec, service, service >= used_before);
    claims.keep();

    // The service is as asked; the rest is housekeeping, and mend() can do it too.
    for (std::size_t i = 0; i < ids.size(); i++) {
        if (tables_->backends[ids[i]].state != spec.backends[i].state)
            tables_->backends.store(ids[i], &hr_backend::state, spec.backends[i].state);
        if (spec.backends[i].state == HR_DOWN && resets_sockets(spec))
            to_end_.push_back(ids[i]);
    }
    const __u8 resets = resets_sockets(spec);
    for (__u32 id : old.ids) // what goes with this change goes by its rule
        if (tables_->backends[id].reset != resets)
            tables_->backends.store(id, &hr_backend::reset, resets);
    if (!ranges.empty())
        keep_clients(service, clients_of(ranges));
    if (!is_new)
        retire(old, ids);
    counts_.backends += static_cast<__u32>(ids.size());
    counts_.slots += static_cast<__u32>(selection.size());
    words_used_ += length;
}

// A new record's key comes first; where it is not mapped, all goes in one system
// call, of which a program may see a part.
void Table::publish_set(__u32 service, const hr_key &key, __u64 set) {
    hr_record &record = tables_->records.draft()[service];
    if (!KeyEqual()(record.key, key))
        record.key = key;
    record.check = HR_CHECK(set); // nobody looks at it in mapped memory
    tables_->records.store(service, &hr_record::set, set);
}

// A new service becomes reachable by its key, with counters at zero; those of an index
// that was never used are.
void Table::add_key(const ServiceSpec &spec, __u32 service, bool is_fresh) {
    if (!is_fresh)
        clear_counters(spec, service);
    open_port(spec.key); // first: programs look here before they look further
    if (bpf_map_update_elem(tables_->services.get(), &spec.key, &service, BPF_NOEXIST))
        raise_errno(format_key(spec.key), "add the service", errno);
    index_.emplace(spec.key, service);
    port_users_[port_of(spec.key)]++;
    counts_.services++;
}

void Table::clear_counters(const ServiceSpec &spec, __u32 service) {
    const std::vector<__u64> zeros(libbpf_num_possible_cpus());
    if (bpf_map_update_elem(tables_->translations.get(), &service, zeros.data(), BPF_ANY))
        raise_errno(format_key(spec.key), "clear the counters", errno);
    tables_->refusals.store(service, __u64{0});
}

void Table::open_port(const hr_key &key) {
    PortBit at = port_bit(key);
    __u32 &word = tables_->ports.draft()[at.line].word[at.word];
    publish(word, word | at.bit);
    tables_->ports.push(at.line, 1);
}

// Once no service of its scope and protocol has this port.
void Table::close_port(const hr_key &key) {
    PortBit at = port_bit(key);
    __u32 &word = tables_->ports.draft()[at.line].word[at.word];
    publish(word, word & ~at.bit);
    tables_->ports.push(at.line, 1);
}

Table::Old Table::remembered(__u32 service) const {
    const BlockView block = view(service);
    Old old = {{block.base, block.words}, block.selection, block.details.ranges_length != 0, {}};
    old.ids.reserve(block.details.members);
    for (std::size_t i = 0; i < block.details.members; i++)
        old.ids.push_back(block.member(i).backend);
    return old;
}

// The old block and those of its backends that are not kept.
void Table::retire(const Old &old, const std::vector<__u32> &kept) {
    std::vector<__u32> sorted = kept;
    std::sort(sorted.begin(), sorted.end());
    for (__u32 id : old.ids) {
        if (std::binary_search(sorted.begin(), sorted.end(), id))
            continue;
        tables_->backends.store(id, &hr_backend::service, __u32{HR_NO_SERVICE});
        if (tables_->backends[id].reset)
            to_end_.push_back(id);
        free_backends_.retire({id, 1});
    }
    free_words_.retire(old.range);
    counts_.backends -= static_cast<__u32>(old.ids.size());
    counts_.slots -= old.selection;
    words_used_ -= old.range.length;
}

void Table::remove(const hr_key &key) {
    auto at = index_.find(key);
    if (at == index_.end())
        return;
    const __u32 service = at->second;
    const Old old = remembered(service);
    begin_write();
    // before the key goes: a socket that remembers a backend asks it for its
    // service, and not the hash
    for (__u32 id : old.ids)
        tables_->backends.store(id, &hr_backend::service, __u32{HR_NO_SERVICE});
    if (bpf_map_delete_elem(tables_->services.get(), &key) && errno != ENOENT)
        raise_errno(format_key(key), "remove the service", errno);
    if (--port_users_[port_of(key)] == 0)
        close_port(key);
    index_.erase(at);
    retire(old, {});
    free_services_.retire({service, 1});
    counts_.services--;
}

// Most backends that go have no connection open: then nobody has to look for
// sockets. A connect that chose such a backend a moment ago counts itself and then
// looks at the mark, we looked at the count after marking: one of us sees the other
// (has_gone() in bpf/hostreach.bpf.c).
void Table::note_ends() {
    if (to_end_.empty())
        return;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    auto is_pinned = [&](std::string_view name) {
        return std::ranges::any_of(all_hooks(), [&](const Hook &hook) {
            return hook.name == name && has_attachment(pin_, hook);
        });
    };
    // where nobody counts, or not every socket is counted
    bool due = (is_pinned("connect4") && !is_pinned("sock_release")) ||
               tables_->flags.load(HR_MOVED) || tables_->flags.load(HR_OVERFLOW_USED);
    for (__u32 id : to_end_)
        due = due || static_cast<__s64>(tables_->active.load(id)) > 0;
    to_end_.clear();
    if (due)
        raise_ends_due();
}

void Table::raise_ends_due() {
    tables_->flags.store(HR_ENDS_DUE, tables_->flags.load(HR_ENDS_DUE) + 1);
}

void Table::raise_mark(const Heap &heap, __u32 hr_meta::*mark) {
    if (heap.mark() > tables_->meta[0].*mark)
        tables_->meta.store(0, mark, heap.mark());
}

void Table::begin_write() {
    if (writing_)
        return;
    tables_->meta.store(0, &hr_meta::generation, tables_->meta[0].generation + 1);
    writing_ = true;
}

// Derives what is free from what is used, unless nobody has written since.
void Table::refresh() {
    if (held_ != Lock::exclusive)
        throw Error(Kind::refused, pin_.path(), "the table is not locked for writing");
    const hr_meta &meta = tables_->meta[0];
    if (writing_ || generation_ == meta.generation)
        return;
    generation_.reset();
    index_.clear();
    port_users_.clear();
    counts_ = {};
    words_used_ = 0;
    std::vector<Range> services, backends, used;
    for_each_service(tables_->services.get(), capacities().services,
                     [&](const hr_key &key, __u32 service) { index_.emplace(key, service); });
    for (const auto &[key, service] : index_) {
        const BlockView block = view(service);
        services.push_back({service, 1});
        port_users_[port_of(key)]++;
        for (std::size_t i = 0; i < block.details.members; i++)
            backends.push_back({block.member(i).backend, 1});
        used.push_back({block.base, block.words});
        counts_.services++;
        counts_.backends += block.details.members;
        counts_.slots += block.selection;
        words_used_ += block.words;
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
    raise_ends_due();
    std::vector<__u32> service_of(tables_->backends.size(), HR_NO_SERVICE);
    auto store = [&](__u32 id, auto field, auto value) {
        if (tables_->backends[id].*field != value)
            tables_->backends.store(id, field, value);
    };
    for (const auto &[key, service] : index_) {
        Block block = read(service);
        for (std::size_t i = 0; i < block.ids.size(); i++) {
            service_of[block.ids[i]] = service;
            store(block.ids[i], &hr_backend::reset, resets_sockets(block.spec));
            store(block.ids[i], &hr_backend::state, block.spec.backends[i].state);
        }
    }
    for (__u32 id = 0; id < tables_->meta[0].backends_mark; id++)
        store(id, &hr_backend::service, service_of[id]);
    if (admits()) { // some may be let in that the published ranges leave out
        look_for_clients();
        admit();
    }
}

} // namespace hr
