// SPDX-License-Identifier: Apache-2.0
// The pinned maps of one instance, made or opened.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "maps.hpp"
#include "pin.hpp"
#include "skeleton.hpp"

namespace hr {

struct Capacities {
    __u32 services;
    __u32 backends;
    __u32 slots; // selection slots of all services together
};

constexpr Capacities kDefaults = {65'536, 262'144, 1'048'576};

class Tables {
  public:
    // The directory must be locked, shared at least. Raises not_found,
    // abi_mismatch, kernel_error.
    static Tables open(const PinDirectory &pin);
    // Opens the tables, or makes them (all or none, whatever kills us); the
    // lock must be exclusive. A capacity of 0 was not asked for; one that was
    // must be that of the tables that are there: refused otherwise.
    // `*made` tells which it was.
    static Tables open_or_create(const PinDirectory &pin, const Capacities &asked, bool *made);

    Capacities capacities() const;

    MappedArray<hr_meta> meta;
    MappedArray<hr_line> ports;
    Fd services;
    MappedArray<hr_record> records;
    MappedArray<hr_line> slots;
    MappedArray<hr_backend> backends;
    MappedArray<__u64> active;
    Fd node_addresses;
    Fd exempt;
    Fd translations;
    MappedArray<__u64> refusals;
    MappedArray<__u64> events;
};

// Before a purge: raises refused if something there is not hostreach's.
void check_pins(const PinDirectory &pin);

// What an instance's directory holds, its links aside.
std::vector<std::string> table_names();

// While tables grow, the directory of those that will take the others' place.
inline constexpr char kNextTables[] = "next";

enum class Lend {
    all,        // those in `next/` where they are there
    fixed_size, // only those whose size does not depend on the capacities
};

// Makes a skeleton use the instance's maps. Raises not_found, kernel_error.
void lend_tables(const PinDirectory &pin, Skeleton &skeleton, Lend which = Lend::all);

// Sizes a skeleton's maps, and pins those that are of such a size.
void size_maps(Skeleton &skeleton, const Capacities &capacities);
void pin_sized(const PinDirectory &pin, const Skeleton &skeleton);

} // namespace hr
