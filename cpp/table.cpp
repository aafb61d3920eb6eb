// SPDX-License-Identifier: Apache-2.0
// The table's life, its lock and its readers; writer.cpp has what changes it.
#include <bpf/bpf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "attachment.hpp"
#include "error.hpp"
#include "host.hpp"
#include "replacement.hpp"
#include "table.hpp"

namespace hr {

bool Table::create(const Capacities &asked) {
    bool made = false;
    pin_.create();
    pin_.lock(Lock::exclusive, timeout_);
    try {
        Tables::open_or_create(pin_, asked, &made);
    } catch (...) {
        ::rmdir(pin_.path().c_str()); // if it is empty, we made it
        pin_.unlock();
        throw;
    }
    pin_.unlock();
    return made;
}

void Table::lock(Lock mode) {
    pin_.lock(mode, timeout_);
    try {
        const unsigned changes = pin_.changes();
        if (mode == Lock::exclusive && recovered_at_ != changes) {
            if (recover_replacement(pin_, cgroup_mount_))
                forget_tables(); // a reader of ours may have opened them, and others are there now
            recovered_at_ = changes;
        }
        if (!tables_ || tables_of_.empty() || opened_at_ != changes)
            open_tables();
        else
            tables_->refresh();
        opened_at_ = changes;
        held_ = mode;
        if (mode == Lock::exclusive && is_interrupted())
            refresh(); // mends what a killed writer left
    } catch (...) {
        held_.reset();
        pin_.unlock();
        throw;
    }
}

// Unless they are those that are open.
void Table::open_tables() {
    std::string identity = pin_.identity();
    if (tables_ && identity == tables_of_) {
        tables_->refresh();
        return;
    }
    generation_.reset();
    tables_ = Tables::open(pin_);
    tables_of_ = identity;
}

bool Table::grow(const Capacities &asked) {
    require_writer();
    if (writing_)
        throw Error(Kind::refused, pin_.path(), "a batch is open");
    // If something fails the old ones can be read on, until the lock is given back.
    forget_tables();
    bool grown = hr::grow(pin_, asked, cgroup_mount_);
    tables_ = Tables::open(pin_);
    tables_of_ = pin_.identity();
    return grown;
}

// They are to be opened anew; until then they can be read on.
void Table::forget_tables() {
    tables_of_.clear();
    generation_.reset();
    index_.clear();
    to_end_.clear();
    reused_due_ = false;
    iterators_.drop();
}

bool Table::migrate() {
    require_writer();
    close();
    return hr::migrate(pin_, cgroup_mount_);
}

// Within a batch a process may fork: the batch and its lock stay the parent's.
void Table::require_writer() const {
    if (held_ != Lock::exclusive || !pin_.is_open())
        throw Error(Kind::refused, pin_.path(), "the table is not locked for writing");
}

void Table::lock_only() {
    pin_.lock(Lock::exclusive, timeout_);
    held_ = Lock::exclusive;
}

void Table::close() {
    if (writing_)
        throw Error(Kind::refused, pin_.path(), "a batch is open");
    forget_tables();
    tables_.reset();
    if (!held_)
        pin_.close();
}

void Table::unlock() {
    try {
        if (writing_ && pin_.is_open())
            end_write();
    } catch (...) { // the lock goes in any case; the next writer mends
        let_go();
        throw;
    }
    let_go();
}

void Table::end_write() {
    note_ends();
    if (failed_) {
        generation_.reset();
        tables_.reset(); // drafts of it that no program ever saw
        return;
    }
    fit_hints();
    tables_->meta.store(0, &hr_meta::generation, tables_->meta[0].generation + 1);
    tables_->note_own();
    generation_ = tables_->meta[0].generation;
}

void Table::let_go() {
    writing_ = failed_ = false;
    held_.reset();
    pin_.unlock();
}

void Table::purge() {
    require_writer();
    check_pins(pin_);
    discard_replacement(pin_);
    pin_.remove(table_names());
    writing_ = false;
    close();
    unlock();
}

bool Table::ends_due() const { return tables_ && tables_->flags.load(HR_ENDS_DUE); }

// Does index_ say which services exist? Whoever holds the lock knows that it stays so.
bool Table::knows_all() const {
    return !failed_ && (writing_ || generation_ == tables_->meta[0].generation);
}

std::optional<__u32> Table::find(const hr_key &key) {
    if (knows_all()) {
        auto at = index_.find(key);
        return at == index_.end() ? std::nullopt : std::optional(at->second);
    }
    __u32 service;
    if (bpf_map_lookup_elem(tables_->services.get(), &key, &service) == 0)
        return tables_->is_there(key, service) ? std::optional(service) : std::nullopt;
    if (errno != ENOENT)
        raise_errno(format_key(key), "look up the service", errno);
    return std::nullopt;
}

const hr_record &Table::record(__u32 service) const {
    if (service >= tables_->records.size())
        throw Error(Kind::kernel_error, pin_.path(),
                    "the table is damaged: something else wrote into it", EUCLEAN);
    return tables_->records[service];
}

Block Table::read(__u32 service) const {
    return decode_block(record(service), words(), word_count(), tables_->backends.data(),
                        tables_->backends.size());
}

BlockView Table::view(__u32 service) const {
    return view_block(record(service), words(), word_count(), tables_->backends.size());
}

std::optional<Block> Table::get(const hr_key &key) {
    std::optional<__u32> service = find(key);
    if (!service)
        return std::nullopt;
    return read(*service);
}

bool Table::differs(const ServiceSpec &spec) {
    std::optional<__u32> service = find(spec.key);
    return !service || !says_the_same(spec, view(*service), tables_->backends.data());
}

void Table::for_each_sorted(const std::function<void(__u32)> &visit) {
    std::vector<std::pair<hr_key, __u32>> found;
    tables_->for_each_service(
        [&](const hr_key &key, __u32 service) { found.emplace_back(key, service); });
    std::sort(found.begin(), found.end(),
              [](const auto &a, const auto &b) { return key_less(a.first, b.first); });
    for (const auto &[key, service] : found)
        visit(service);
}

void Table::set_host(__u64 netns, const std::vector<hr_network> &networks,
                     const std::vector<std::string> &addresses) {
    write_networks(tables_->node_networks.get(), networks);
    write_addresses(tables_->node_addresses.get(), tables_->node_networks.get(), addresses);
    tables_->meta.store(0, &hr_meta::host_netns, netns);
}

std::vector<hr_network> Table::node_networks() const {
    return read_networks(tables_->node_networks.get());
}

void Table::refresh_node_addresses() {
    const __u64 host = tables_->meta[0].host_netns;
    if (host && host == netns_cookie(std::nullopt))
        write_addresses(tables_->node_addresses.get(), tables_->node_networks.get(),
                        local_addresses());
}

bool Table::is_attached() const { return has_attachments(pin_); }

Used Table::used() {
    if (knows_all())
        return used_;
    Used used;
    tables_->for_each_service([&](const hr_key &, __u32 service) { used.add(view(service)); });
    return used;
}

} // namespace hr
