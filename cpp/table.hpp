// SPDX-License-Identifier: Apache-2.0
// The table of services: read by any number, written by one at a time.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "clients.hpp"
#include "error.hpp"
#include "grace.hpp"
#include "heap.hpp"
#include "iterators.hpp"
#include "overflow.hpp"
#include "room.hpp"
#include "spec.hpp"
#include "tables.hpp"

namespace hr {

// What affinity knows of a client.
struct Sticky {
    Endpoint backend;
    __u64 used_ns; // CLOCK_MONOTONIC at its last connection
};

struct Traffic {
    __u64 translations = 0;
    __u64 refusals = 0;
};

// Everything is decided by what the maps hold: hash and records say which services
// exist, the records' words what they are, and what neither reaches is
// free. A writer killed at any instruction so leaves each service wholly before
// or wholly after its change. Three things are only hints that may then be
// stale, and the next writer mends them, told by an odd generation:
// hr_backend.service, .state and .reset.
//
// Not thread-safe; one object per thread, or a lock around it.
class Table {
  public:
    // `cgroup_mount` is where cgroup v2 is mounted.
    Table(std::string pin, std::chrono::milliseconds lock_timeout, std::string cgroup_mount)
        : pin_(std::move(pin)), timeout_(lock_timeout), cgroup_mount_(std::move(cgroup_mount)) {}

    const PinDirectory &pin() const { return pin_; }
    const std::string &cgroup_mount() const { return cgroup_mount_; }

    // Makes the tables, and returns true, unless they are there; needs no lock held.
    bool create(const Capacities &asked);
    // Shared lock for readers, exclusive for a writer's batch. Raises not_found
    // where there are no tables, table_busy.
    void lock(Lock mode);
    // The exclusive lock, without opening the tables: for detach and purge.
    void lock_only();
    void unlock();
    // Lets go of the maps; lock() opens them again.
    void close();
    // Removes tables and pins; the lock must be exclusive, and is given back.
    void purge();

    // Makes the tables larger, under traffic; false if they are that large.
    // Needs the exclusive lock.
    bool grow(const Capacities &asked);
    // Brings tables of an older layout to this one, under traffic; false if they
    // are that already. Needs lock_only().
    bool migrate();

    // Whether a write, by whomever, left sockets that may have to be ended, and no
    // end_sockets() has been to its end since. Needs no lock.
    bool ends_due() const;
    // The maps, as they were at the last lock(); null if there was none.
    // Null unless they are open.
    Tables *tables() { return tables_ ? &*tables_ : nullptr; }
    IteratorCache &iterators() { return iterators_; }
    LookedFor &looked_for() { return looked_for_; }

    // The calls below need a lock; write() the exclusive one.
    std::optional<Block> get(const hr_key &key);
    // Calls `visit` for each service, sorted; with an index for read() and view().
    void for_each_sorted(const std::function<void(__u32 index)> &visit);
    Block read(__u32 index) const;
    BlockView view(__u32 index) const;
    const hr_key &key(__u32 index) const { return record(index).key; }
    bool differs(const ServiceSpec &spec);
    // Removes those, adds or replaces these; raises table_full before anything
    // is written. A key that is not there is passed over.
    void write(std::vector<ServiceSpec> put, const std::vector<hr_key> &remove);

    // The host's network namespace, by its cookie, and the networks that the
    // addresses of HR_NODE services are in (empty: all), and what addresses it has.
    void set_host(__u64 netns, const std::vector<hr_network> &networks,
                  const std::vector<std::string> &addresses);
    __u64 host_netns() const { return tables_->meta[0].host_netns; }
    std::vector<hr_network> node_networks() const;
    std::vector<hr_ip> node_addresses() const; // sorted
    // Whether a service with source ranges lets this network namespace in.
    bool is_admitted(const hr_key &key, __u64 netns);
    // Where a client went last, if it might still go there, its time aside.
    std::optional<Sticky> stuck_to(const hr_key &key, __u64 client, bool v4);
    // Reads the addresses anew, if this is the host's network namespace.
    void refresh_node_addresses();
    // Has any service source ranges, or lets in who was found when it had?
    bool admits();
    // Who is a client now, for admit(). It may take long, and needs no lock.
    void look_for_clients();
    // Lets the clients that were found into services with source ranges that they
    // have an address in, and no others; those who come later need another look. How
    // many services have ranges. Raises table_full once those are let in that fit.
    std::size_t admit();
    // Whether any program is pinned.
    bool is_attached() const;
    // Whether the last writer was killed at work, and what it left is not mended.
    bool is_interrupted() const { return tables_->meta[0].generation % 2; }
    // Tasks in this cgroup or below it see no service. False if it was so before.
    bool exempt(__u64 cgroup_id, __u8 level);
    // False if it was not exempt.
    bool unexempt(__u64 cgroup_id);
    std::vector<__u64> exempt() const;

    Used used();
    // Raises table_full if these cannot be written; for readers, too, to whom it is a forecast.
    void check_room(const std::vector<ServiceSpec> &put, const std::vector<hr_key> &remove);
    // The same of tables that are not made yet; 0 of a capacity is its default.
    void check_room(const Capacities &asked, const std::vector<ServiceSpec> &put) const;
    Capacities capacities() const { return tables_->capacities(); }
    // Sockets that were sent to each backend and are open, in the order of get().
    std::vector<__u64> active(const hr_key &key);
    Traffic traffic(const hr_key &key);
    Traffic traffic();                 // of all services that there are, and that there were
    std::vector<__u64> events() const; // that befell sockets

  private:
    class Claims;

    // What goes when a service is replaced or removed.
    struct Old {
        Range range = {}; // of its block
        __u32 selection = 0;
        bool has_ranges = false;
        std::vector<__u32> ids;
    };

    // The same for services that share a bit of `ports`.
    static __u32 port_of(const hr_key &key) {
        return key.scope << 24 | key.protocol << 16 | key.port;
    }

    std::optional<__u32> find(const hr_key &key);
    const hr_record &record(__u32 index) const;
    Traffic traffic_of(__u32 index);
    bool knows_all() const;

    void require_writer() const;
    void open_tables();
    void forget_tables();
    void refresh();
    void mend();
    void begin_write();
    void end_write();
    void let_go();
    void resolve(std::vector<ServiceSpec> &specs);
    std::vector<const ServiceSpec *> in_order(const std::vector<ServiceSpec> &specs) const;
    Old remembered(__u32 service) const;
    void raise_mark(const Heap &heap, __u32 hr_meta::*mark);
    bool make_room(__u32 words);
    std::vector<std::pair<Range, __u32>> blocks_by_place() const;
    bool move_out(Range window, const std::vector<std::pair<Range, __u32>> &blocks);
    void put(const ServiceSpec &spec);
    void remove(const hr_key &key);
    void draft_record(__u32 service, hr_key key);
    void publish_set(__u32 service, __u64 set);
    void fit_hints();
    void set_scope(__u32 service, __u8 scope);
    void add_key(const ServiceSpec &spec, __u32 service, bool is_fresh);
    void claim_backends(const ServiceSpec &spec, __u32 service, std::vector<__u32> &ids,
                        const std::vector<__u32> &old, Claims &claims);
    void clear_counters(const ServiceSpec &spec, __u32 service);
    void keep_traffic(__u32 service);
    bool can_list_clients();
    void write_exempt_levels();
    void retire(const Old &old, const std::vector<__u32> &kept);
    std::vector<Client> clients_of(const std::vector<hr_network> &ranges) const;
    std::size_t room_for_clients() const;
    std::size_t clients_after(const std::vector<ServiceSpec> &put) const;
    void check_room_for_clients(const std::vector<ServiceSpec> &put);
    std::size_t let_in(bool *all);
    void keep_clients(__u32 service, const std::vector<Client> &clients);
    void note_ends();
    __s64 open_at(__u32 id); // connections; may be below zero for a moment
    void raise_ends_due(__u64 cause);

    const __u32 *words() const { return tables_->slots.data()->word; }
    std::size_t word_count() const { return tables_->slots.size() * HR_LINE_WORDS; }

    // Opened under the lock. Whoever asks for them without is told so.
    struct Opened : std::optional<Tables> {
        using std::optional<Tables>::operator=;
        Tables *operator->() {
            require();
            return &**this;
        }
        const Tables *operator->() const {
            require();
            return &**this;
        }

      private:
        void require() const {
            if (!*this)
                throw Error(Kind::refused, "tables", "they are not open, for nobody locked them");
        }
    };

    PinDirectory pin_;
    std::chrono::milliseconds timeout_;
    std::string cgroup_mount_;
    Opened tables_;
    std::string tables_of_; // the directory's identity when tables_ were opened
    std::optional<unsigned> opened_at_, recovered_at_; // pin_.changes()
    std::optional<Lock> held_;
    GracePeriod grace_;
    IteratorCache iterators_;
    LookedFor looked_for_;

    // Derived from the tables at generation_, and only by a writer.
    std::optional<__u64> generation_;
    bool writing_ = false; // the generation is odd, by us
    bool failed_ = false;  // and stays so, for the next writer to mend
    std::unordered_map<hr_key, __u32, KeyHash, KeyEqual> index_;
    std::unordered_map<__u32, __u32> port_users_; // services by scope, protocol and port
    std::vector<Client> clients_;                 // found for this batch
    std::vector<__u32> to_end_;                   // backends whose sockets this batch wants ended
    bool reused_due_ = false;                     // one's id has been given out again, and had some
    Heap free_services_, free_backends_, free_words_;
    std::optional<bool> knows_clients_;
    Used used_;
};

} // namespace hr
