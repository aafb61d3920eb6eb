// SPDX-License-Identifier: Apache-2.0
// Tables that are to take the place of others: filled in next/, where nothing uses them yet.
#pragma once

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

// The same in larger tables; `counts` are to be settled.
void stage_larger(const PinDirectory &pin, const Tables &tables, const Capacities &wanted,
                  std::vector<CopiedCounts> *counts);

hr_meta_v1 read_v1(const PinDirectory &pin);

// What the layout has got since that version.
void stage_current(const PinDirectory &pin, __u32 version);

} // namespace hr
