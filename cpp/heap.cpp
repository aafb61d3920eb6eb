// SPDX-License-Identifier: Apache-2.0
#include "heap.hpp"

#include <algorithm>

namespace hr {

Heap::Heap(std::uint32_t size, std::uint32_t mark, std::vector<Range> used)
    : tail_(size), size_(size), mark_(mark) {
    std::sort(used.begin(), used.end(),
              [](const Range &a, const Range &b) { return a.start < b.start; });
    std::uint32_t at = 0;
    auto gap_until = [&](std::uint32_t end) {
        if (at < end && at < mark_)
            retired_.push_back({at, std::min(end, mark_) - at});
    };
    for (const Range &range : used) {
        gap_until(range.start);
        at = range.start + range.length;
    }
    gap_until(size);
    mark_ = std::max(mark_, at);
    tail_ = std::min(mark_, size);
}

std::optional<std::uint32_t> Heap::take(std::uint32_t length) {
    auto fit = by_length_.lower_bound({length, 0});
    if (fit == by_length_.end()) {
        if (size_ - tail_ < length)
            return std::nullopt;
        tail_ += length;
        mark_ = std::max(mark_, tail_);
        return tail_ - length;
    }
    std::uint32_t start = fit->second, rest = fit->first - length;
    erase(by_start_.find(start));
    if (rest) {
        by_start_[start + length] = rest;
        by_length_.emplace(rest, start + length);
    }
    mark_ = std::max(mark_, start + length);
    return start;
}

void Heap::retire(Range range) {
    if (range.length)
        retired_.push_back(range);
}

void Heap::flush() {
    for (const Range &range : retired_)
        release(range);
    retired_.clear();
}

std::vector<Range> Heap::withdraw(Range range) {
    const std::uint32_t end = range.start + range.length;
    std::vector<Range> found, around;
    if (end > tail_) { // of the tail too: then there is none
        const Range tail = {tail_, size_ - tail_};
        tail_ = size_;
        release(tail);
    }
    auto at = by_start_.upper_bound(range.start);
    if (at != by_start_.begin())
        --at;
    while (at != by_start_.end() && at->first < end) {
        const std::uint32_t first = at->first, last = at->first + at->second;
        auto next = std::next(at);
        if (last > range.start) {
            erase(at);
            const std::uint32_t from = std::max(first, range.start), to = std::min(last, end);
            found.push_back({from, to - from});
            around.push_back({first, from - first});
            around.push_back({to, last - to});
        }
        at = next;
    }
    for (const Range &rest : around)
        release(rest);
    return found;
}

void Heap::release(Range range) {
    if (!range.length)
        return;
    auto after = by_start_.lower_bound(range.start);
    if (after != by_start_.end() && after->first == range.start + range.length) {
        range.length += after->second;
        auto next = std::next(after);
        erase(after);
        after = next;
    }
    if (after != by_start_.begin()) {
        auto before = std::prev(after);
        if (before->first + before->second == range.start) {
            range = {before->first, before->second + range.length};
            erase(before);
        }
    }
    if (range.start + range.length == tail_ && tail_ != size_) {
        tail_ = range.start;
        return;
    }
    by_start_[range.start] = range.length;
    by_length_.emplace(range.length, range.start);
}

void Heap::erase(std::map<std::uint32_t, std::uint32_t>::iterator at) {
    by_length_.erase({at->second, at->first});
    by_start_.erase(at);
}

} // namespace hr
