// SPDX-License-Identifier: Apache-2.0
// The pinned maps of one instance, made or opened.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pin.hpp"
#include "shared_array.hpp"
#include "skeleton.hpp"

namespace hr {

struct Capacities {
    __u32 services;
    __u32 backends;
    __u32 slots; // selection slots of all services together

    Capacities or_defaults() const; // of what is 0
};

constexpr Capacities kDefaults = {65'536, 262'144, 1'048'576};

inline Capacities Capacities::or_defaults() const {
    return {services ? services : kDefaults.services, backends ? backends : kDefaults.backends,
            slots ? slots : kDefaults.slots};
}

class Tables {
  public:
    // The directory must be locked, shared at least. Raises not_found where nothing
    // was made, refused where something is missing, abi_mismatch, kernel_error.
    static Tables open(const PinDirectory &pin);
    // Opens the tables, or makes them (all or none, whatever kills us); the
    // lock must be exclusive. A capacity of 0 was not asked for; one that was
    // must be that of the tables that are there: refused otherwise.
    // `*made` tells which it was.
    static Tables open_or_create(const PinDirectory &pin, const Capacities &asked, bool *made);

    Capacities capacities() const;

    // What a program finds; the hash may have more, if a writer was killed on the way.
    bool is_there(const hr_key &key, __u32 service) const;
    void for_each_service(const std::function<void(const hr_key &, __u32 index)> &visit) const;

    // After the lock was taken: reads what another process wrote, where the arrays
    // are not mapped.
    void refresh();
    // What we wrote since is no news to us.
    void note_own() { seen_ = meta[0].generation; }

    SharedArray<hr_meta> meta;
    SharedArray<hr_line> ports;
    Fd services;
    SharedArray<hr_record> records;
    SharedArray<hr_line> slots;
    SharedArray<hr_backend> backends;
    SharedArray<__u64> active;
    Fd node_addresses;
    Fd node_networks;
    Fd exempt;
    Fd allowed;
    Fd affinity;
    Fd translations;
    SharedArray<__u64> refusals;
    SharedArray<__u64> events;
    SharedArray<__u64> flags;

  private:
    __u64 seen_ = 0; // generation at the last refresh
};

// Whether the tables' arrays are mapped. Raises refused, kernel_error.
bool are_mapped(const PinDirectory &pin);

// The version of the tables' layout: the first word of `meta`, whatever its
// size. Raises kernel_error.
__u32 abi_of(const PinDirectory &pin, const Fd &meta);

// Before a purge: raises refused if something there is not hostreach's.
void check_pins(const PinDirectory &pin);

// What an instance's directory holds, its links aside.
std::vector<std::string> table_names();

// Those that the layout of this version did not have, or had otherwise.
std::vector<std::string> tables_since(__u32 version);

// While tables are replaced, the directory of those that will take the others' place.
inline constexpr char kNextTables[] = "next";

enum class Lend {
    all,        // those in `next/` where they are there
    fixed_size, // only those whose size does not depend on the capacities
};

// Makes a skeleton use the instance's maps, of a version of the layout those that
// have been the same since. Raises refused, kernel_error.
void lend_tables(const PinDirectory &pin, Skeleton &skeleton, Lend which = Lend::all,
                 __u32 version = HR_ABI_VERSION);

// Sizes a skeleton's maps, and makes their arrays mappable where the kernel can.
void size_maps(Skeleton &skeleton, const Capacities &capacities, const Features &features);

} // namespace hr
