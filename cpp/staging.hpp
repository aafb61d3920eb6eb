// SPDX-License-Identifier: Apache-2.0
// Tables that are to take the place of others: filled in next/, where nothing uses them yet.
#pragma once

#include <optional>
#include <vector>

#include "layout_v1.hpp"
#include "pin.hpp"
#include "shared_array.hpp"
#include "tables.hpp"

namespace hr {

PinDirectory next_of(const PinDirectory &pin);

// Counts that go on while they are copied: once no program uses the old array, it
// differs from what was copied by what is to be added to the new one.
class CopiedCounts {
  public:
    CopiedCounts(const SharedArray<__u64> &from, Fd to, const char *name);
    void settle();

  private:
    const SharedArray<__u64> &from_;
    std::vector<__u64> copied_;
    SharedArray<__u64> to_;
};

// The same of the services' translations, which are counted by processor: what is missing
// goes to those of services that are no more, so that the total is right.
class CopiedTranslations {
  public:
    CopiedTranslations(Tables &from, const Skeleton &to);
    void settle();

  private:
    Tables &from_;
    __u64 copied_ = 0;
};

// The same in larger tables; what it counts is to be settled.
struct CopiedTraffic {
    std::vector<CopiedCounts> counts;
    std::optional<CopiedTranslations> translations;

    void settle();
};
void stage_larger(const PinDirectory &pin, Tables &tables, const Capacities &wanted,
                  CopiedTraffic *traffic);

hr_meta_v1 read_v1(const PinDirectory &pin);

// What the layout has got since that version.
void stage_current(const PinDirectory &pin, __u32 version);

} // namespace hr
