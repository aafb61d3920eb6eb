// SPDX-License-Identifier: Apache-2.0
// One service: how a change of it is written and published, and what then goes.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <unordered_map>

#include "error.hpp"
#include "ports.hpp"
#include "selection.hpp"
#include "table.hpp"

namespace hr {

namespace {

constexpr __u32 kNew = ~0U; // a backend that has no id yet

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
    const __u8 resets = spec.resets_sockets();
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
        // an id that this very batch took away: its sockets count no more, but are there
        reused_due_ |= backend.reset_before == backend.incarnation - 1 && open_at(ids[i]) > 0;
        if (open_at(ids[i])) // one that closes just now takes itself off the new one's count
            tables_->flags.store(HR_MOVED, __u64{1});
        tables_->active.store(ids[i], __u64{0});
        // last: a program reads it first
        tables_->backends.store(ids[i], &hr_backend::service, service);
    }
}

void Table::put(const ServiceSpec &spec) {
    auto existing = index_.find(spec.key);
    const bool is_new = existing == index_.end();
    Selection selection = select(spec);
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
    if (spec.algorithm != HR_MAGLEV) // whose order says who gets which; else ids may be in a row so
        for (std::vector<__u32> *slots : {&selection.v4, &selection.v6})
            std::ranges::sort(*slots, {}, [&](__u32 backend) { return ids[backend]; });
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
    if (is_new)
        draft_record(service, spec.key);
    const __u8 resets = spec.resets_sockets();
    for (__u32 id : old.ids) // what goes with this change goes by its rule
        if (tables_->backends[id].reset != resets)
            tables_->backends.store(id, &hr_backend::reset, resets);
    publish_set(service, set_word(spec, base, selection));
    if (is_new)
        add_key(spec, service, service >= used_before);
    claims.keep();

    // The service is as asked; the rest is housekeeping, and mend() can do it too.
    for (std::size_t i = 0; i < ids.size(); i++) {
        if (tables_->backends[ids[i]].state != spec.backends[i].state)
            tables_->backends.store(ids[i], &hr_backend::state, spec.backends[i].state);
        if (spec.backends[i].state == HR_DOWN && spec.resets_sockets())
            to_end_.push_back(ids[i]);
    }
    if (!ranges.empty())
        keep_clients(service, clients_of(ranges));
    if (!is_new)
        retire(old, ids);
    used_.backends += ids.size();
    used_.slots += selection.size();
    used_.words += length;
}

// A new service's. If there was one before, its hints may lead programs here, and it
// went as nobody's; so it stays until set_scope() says whose it is.
void Table::draft_record(__u32 service, hr_key key) {
    key.scope = HR_NOBODY;
    tables_->records.draft()[service].key = key;
}

// Where it is not mapped, all of the record goes in one system call, of which a
// program may see a part. Where it is, one may read at any time: it takes `first` for
// a set that it finds before and after.
void Table::publish_set(__u32 service, __u64 set) {
    hr_record &record = tables_->records.draft()[service];
    if (!tables_->records.is_mapped()) {
        record.check = HR_CHECK(set);
        tables_->records.store(service, &hr_record::set, set);
        return;
    }
    publish(record.first, __u32{HR_NO_ID});
    publish(record.set, set);
    publish(record.first, first_of(set, words() + static_cast<__u32>(set)));
}

// A new service becomes reachable by its key, with counters at zero; those of an index
// that was never used are.
void Table::add_key(const ServiceSpec &spec, __u32 service, bool is_fresh) {
    if (!is_fresh)
        clear_counters(spec, service);
    set_port(tables_->ports, spec.key, true); // first: programs look here before they look further
    if (bpf_map_update_elem(tables_->services.get(), &spec.key, &service, BPF_NOEXIST))
        raise_errno(format_key(spec.key), "add the service", errno);
    set_scope(service, spec.key.scope);
    index_.emplace(spec.key, service);
    port_users_[port_of(spec.key)]++;
    used_.services++;
}

void Table::set_scope(__u32 service, __u8 scope) {
    publish(tables_->records.draft()[service].key.scope, scope);
    tables_->records.push(service, 1);
}

void Table::clear_counters(const ServiceSpec &spec, __u32 service) {
    const std::vector<__u64> zeros(libbpf_num_possible_cpus());
    if (bpf_map_update_elem(tables_->translations.get(), &service, zeros.data(), BPF_ANY))
        raise_errno(format_key(spec.key), "clear the counters", errno);
    tables_->refusals.store(service, __u64{0});
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
    used_.backends -= old.ids.size();
    used_.slots -= old.selection;
    used_.words -= old.range.length;
}

void Table::remove(const hr_key &key) {
    auto at = index_.find(key);
    if (at == index_.end())
        return;
    const __u32 service = at->second;
    const Old old = remembered(service);
    begin_write();
    keep_traffic(service); // first: who is killed has it counted twice, for no total may fall
    // before the key goes: a socket that remembers a backend asks it for its
    // service, and not the hash; nor does a program that follows a hint
    for (__u32 id : old.ids)
        tables_->backends.store(id, &hr_backend::service, __u32{HR_NO_SERVICE});
    set_scope(service, HR_NOBODY);
    if (bpf_map_delete_elem(tables_->services.get(), &key) && errno != ENOENT)
        raise_errno(format_key(key), "remove the service", errno);
    if (--port_users_[port_of(key)] == 0)
        set_port(tables_->ports, key, false);
    index_.erase(at);
    retire(old, {});
    free_services_.retire({service, 1});
    used_.services--;
}

} // namespace hr
