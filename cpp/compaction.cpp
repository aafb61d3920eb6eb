// SPDX-License-Identifier: Apache-2.0
// Room in one piece, where there is room, but in many.
#include <algorithm>

#include "table.hpp"

namespace hr {

namespace {

constexpr std::size_t kTries = 8;

struct Window {
    __u32 start;
    __u32 live; // words of the blocks that reach into it
};

// One that begins where each block ends, those that hold the least first.
// `blocks` are sorted by where they begin.
std::vector<Window> emptiest(const std::vector<std::pair<Range, __u32>> &blocks, __u32 length,
                             __u32 size) {
    std::vector<Window> windows;
    std::size_t last = 0; // behind those that begin before the window's end
    __u64 before_first = 0, before_last = 0;
    for (std::size_t first = 0; first <= blocks.size(); first++) {
        const __u32 start =
            first ? blocks[first - 1].first.start + blocks[first - 1].first.length : 0;
        if (__u64{start} + length > size)
            break;
        for (; last < blocks.size() && blocks[last].first.start < start + length; last++)
            before_last += blocks[last].first.length;
        windows.push_back({start, static_cast<__u32>(before_last - before_first)});
        if (first < blocks.size())
            before_first += blocks[first].first.length;
    }
    const std::size_t kept = std::min(kTries, windows.size());
    std::partial_sort(windows.begin(), windows.begin() + static_cast<std::ptrdiff_t>(kept),
                      windows.end(),
                      [](const Window &a, const Window &b) { return a.live < b.live; });
    windows.resize(kept);
    return windows;
}

} // namespace

// Blocks can lie anywhere, so those in the way are copied elsewhere and published
// from there: programs see a change that changes nothing. Nothing of this is
// needed but where blocks of many sizes come and go in a table that is well filled.
bool Table::make_room(__u32 words) {
    const __u32 size = static_cast<__u32>(word_count());
    for (const Window &window : emptiest(blocks_by_place(), words, size))
        if (move_out({window.start, words}, blocks_by_place())) // they move with each try
            return true;
    return false;
}

std::vector<std::pair<Range, __u32>> Table::blocks_by_place() const {
    std::vector<std::pair<Range, __u32>> blocks;
    for (const auto &[key, service] : index_) {
        const BlockView block = view(service);
        blocks.push_back({{block.base, block.words}, service});
    }
    std::ranges::sort(blocks, {}, [](const auto &block) { return block.first.start; });
    return blocks;
}

bool Table::move_out(Range window, const std::vector<std::pair<Range, __u32>> &blocks) {
    const std::vector<Range> withdrawn = free_words_.withdraw(window);
    bool emptied = true;
    for (const auto &[range, service] : blocks) {
        if (range.start + range.length <= window.start ||
            range.start >= window.start + window.length)
            continue;
        const hr_record record = tables_->records[service];
        std::optional<__u32> to = free_words_.take(range.length);
        if (!to) {
            emptied = false;
            break;
        }
        raise_mark(free_words_, &hr_meta::slots_mark);
        std::copy_n(words() + range.start, range.length, tables_->slots.draft()->word + *to);
        const __u32 first = *to / HR_LINE_WORDS;
        tables_->slots.push(first, (*to + range.length - 1) / HR_LINE_WORDS - first + 1);
        publish_set(service, (record.set & ~__u64{0xffffffff}) | *to);
        free_words_.retire(range);
    }
    grace_.wait();
    for (const Range &range : withdrawn)
        free_words_.untake(range);
    free_words_.flush();
    return emptied;
}

} // namespace hr
