// SPDX-License-Identifier: Apache-2.0
// Which parts of an array are free, derived from what is used and never stored.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace hr {

struct Range {
    std::uint32_t start;
    std::uint32_t length;
};

// Hands out ranges of [0, size). A range given back is retired: a program may
// still read it, so it is handed out again only after flush(), which the owner
// calls once a grace period has passed.
//
// `mark` is the end of all that was ever used. What lies beyond needs no wait;
// what lies below and is free when the heap is made may have been retired by
// another process a moment ago, so it starts out retired.
class Heap {
  public:
    Heap() = default;
    // `used` need not be sorted, must not overlap.
    Heap(std::uint32_t size, std::uint32_t mark, std::vector<Range> used);

    std::optional<std::uint32_t> take(std::uint32_t length);
    void retire(Range range);
    // Gives back what no program has seen.
    void untake(Range range) { release(range); }
    void flush();
    // Takes out of circulation what is free in there, and says what that was; each
    // is given back by untake().
    std::vector<Range> withdraw(Range range);

    bool has_retired() const { return !retired_.empty(); }
    std::uint32_t mark() const { return mark_; }

  private:
    void release(Range range);
    void erase(std::map<std::uint32_t, std::uint32_t>::iterator at);

    // Free ranges below the tail, which begins where nothing is in use any more: there
    // a table that fills takes one after the other.
    std::map<std::uint32_t, std::uint32_t> by_start_; // start -> length, no two adjacent
    std::set<std::pair<std::uint32_t, std::uint32_t>> by_length_; // (length, start): best fit
    std::vector<Range> retired_;
    std::uint32_t tail_ = 0, size_ = 0;
    std::uint32_t mark_ = 0;
};

} // namespace hr
