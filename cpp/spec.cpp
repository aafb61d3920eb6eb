// SPDX-License-Identifier: Apache-2.0
#include "spec.hpp"

#include <algorithm>
#include <cerrno>
#include <numeric>

#include "error.hpp"
#include "maps.hpp"

namespace hr {

namespace {

constexpr __u32 kDetailsWords = sizeof(hr_details) / sizeof(__u32);
constexpr __u32 kMemberWords = sizeof(hr_member) / sizeof(__u32);

__u32 text_words(std::size_t bytes) {
    return static_cast<__u32>((bytes + sizeof(__u32) - 1) / sizeof(__u32));
}

// No backend may go without a slot: those whose share is below one get one, and
// the others share what is left.
void approximate(std::vector<__u32> &counts, std::vector<std::size_t> live, __u32 limit) {
    const std::vector<__u32> scaled = counts;
    __u64 total = std::accumulate(counts.begin(), counts.end(), __u64{0}), left = limit;
    for (;;) {
        auto small = [&, total, left](std::size_t i) { return scaled[i] * left < total; };
        auto first_small = std::stable_partition(live.begin(), live.end(),
                                                 [&](std::size_t i) { return !small(i); });
        if (first_small == live.end())
            break;
        for (auto i = first_small; i != live.end(); ++i) {
            counts[*i] = 1;
            left--;
            total -= scaled[*i];
        }
        live.erase(first_small, live.end());
    }
    __u64 spare = left;
    for (std::size_t i : live) {
        counts[i] = static_cast<__u32>(scaled[i] * left / total);
        spare -= counts[i];
    }
    std::stable_sort(live.begin(), live.end(), [&](std::size_t a, std::size_t b) {
        return scaled[a] * left % total > scaled[b] * left % total;
    });
    for (std::size_t i = 0; i < spare; i++)
        counts[live[i]]++;
}

} // namespace

std::vector<__u32> slot_counts(const std::vector<BackendSpec> &backends, __u32 limit) {
    std::vector<__u32> counts(backends.size());
    std::vector<std::size_t> live;
    __u32 divisor = 0;
    for (std::size_t i = 0; i < backends.size(); i++) {
        // a backend that takes no new traffic has no slot, whatever its weight
        if (!backends[i].weight || backends[i].state != HR_ACTIVE)
            continue;
        live.push_back(i);
        counts[i] = backends[i].weight;
        divisor = std::gcd(divisor, counts[i]);
    }
    __u64 total = 0;
    for (std::size_t i : live)
        total += counts[i] /= divisor;
    if (total > limit)
        approximate(counts, live, limit);
    return counts;
}

__u32 block_words(const ServiceSpec &spec, __u32 selection) {
    return selection + kDetailsWords + kMemberWords * static_cast<__u32>(spec.backends.size()) +
           text_words(spec.name.size() + spec.owner.size());
}

std::vector<__u32> encode_block(const ServiceSpec &spec, const std::vector<__u32> &ids,
                                const std::vector<__u32> &counts) {
    std::string text = spec.name + spec.owner;
    std::vector<__u32> words(block_words(spec, std::accumulate(counts.begin(), counts.end(), 0U)));
    __u32 *at = words.data();
    for (std::size_t i = 0; i < ids.size(); i++)
        at = std::fill_n(at, counts[i], ids[i]);
    hr_details details = {};
    details.members = static_cast<__u32>(ids.size());
    details.algorithm = spec.algorithm;
    details.name_length = static_cast<__u8>(spec.name.size());
    details.owner_length = static_cast<__u8>(spec.owner.size());
    std::memcpy(at, &details, sizeof(details));
    at += kDetailsWords;
    for (std::size_t i = 0; i < ids.size(); i++, at += kMemberWords) {
        hr_member member = {ids[i], spec.backends[i].weight, spec.backends[i].state, 0};
        std::memcpy(at, &member, sizeof(member));
    }
    std::memcpy(at, text.data(), text.size());
    return words;
}

Block decode_block(const hr_record &record, const __u32 *words, std::size_t size,
                   const hr_backend *backends, std::size_t backend_entries) {
    Set set = Set::of(observe(record.set));
    Block block;
    block.spec.key = record.key;
    block.base = set.base;
    block.selection = set.count;
    auto damaged = [&] [[noreturn]] () {
        throw Error(Kind::kernel_error, format_key(record.key),
                    "the table is damaged: something else wrote into it", EUCLEAN);
    };
    std::size_t at = static_cast<std::size_t>(set.base) + set.count;
    hr_details details;
    if (at + kDetailsWords > size)
        damaged();
    std::memcpy(&details, words + at, sizeof(details));
    at += kDetailsWords;
    std::size_t text_at = at + static_cast<std::size_t>(details.members) * kMemberWords;
    std::size_t text_bytes = details.name_length + details.owner_length;
    std::size_t end = text_at + text_words(text_bytes);
    if (details.members > HR_SLOTS_PER_SERVICE || end > size)
        damaged();
    block.words = static_cast<__u32>(end - set.base);
    block.spec.algorithm = details.algorithm;
    block.spec.backends.reserve(details.members);
    block.ids.reserve(details.members);
    for (; at < text_at; at += kMemberWords) {
        hr_member member;
        std::memcpy(&member, words + at, sizeof(member));
        if (member.backend >= backend_entries)
            damaged();
        const hr_backend &backend = backends[member.backend];
        BackendSpec spec;
        std::copy(std::begin(backend.ip), std::end(backend.ip), spec.endpoint.ip);
        spec.endpoint.port = backend.port;
        spec.weight = member.weight;
        spec.state = member.state;
        block.spec.backends.push_back(spec);
        block.ids.push_back(member.backend);
    }
    const char *text = reinterpret_cast<const char *>(words + text_at);
    block.spec.name.assign(text, details.name_length);
    block.spec.owner.assign(text + details.name_length, details.owner_length);
    return block;
}

} // namespace hr
