// SPDX-License-Identifier: Apache-2.0
#include "spec.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "error.hpp"
#include "selection.hpp"
#include "shared_array.hpp"

namespace hr {

namespace {

constexpr __u32 kDetailsWords = sizeof(hr_details) / sizeof(__u32);
constexpr __u32 kMemberWords = sizeof(hr_member) / sizeof(__u32);

__u32 text_words(std::size_t bytes) {
    return static_cast<__u32>((bytes + sizeof(__u32) - 1) / sizeof(__u32));
}

std::string text_of(const ServiceSpec &spec) {
    return spec.name + spec.owner + spec.subtree.path + spec.ranges;
}

} // namespace

bool ServiceSpec::says_the_same(const ServiceSpec &other) const {
    return name == other.name && owner == other.owner && algorithm == other.algorithm &&
           on_removal == other.on_removal && host_only == other.host_only &&
           affinity_ms == other.affinity_ms && subtree == other.subtree && ranges == other.ranges &&
           backends == other.backends;
}

__u32 block_words(const ServiceSpec &spec, std::size_t selection) {
    return static_cast<__u32>(selection) + kDetailsWords +
           kMemberWords * static_cast<__u32>(spec.backends.size()) +
           text_words(text_of(spec).size());
}

std::vector<__u32> encode_block(const ServiceSpec &spec, const std::vector<__u32> &ids,
                                const Selection &selection) {
    std::vector<__u32> words(block_words(spec, selection.size()));
    __u32 *at = words.data();
    for (const auto *slots : {&selection.v4, &selection.v6})
        for (__u32 backend : *slots)
            *at++ = ids[backend];
    hr_details details = {};
    details.members = static_cast<__u32>(ids.size());
    details.affinity_ms = spec.affinity_ms;
    details.subtree_low = static_cast<__u32>(spec.subtree.id);
    details.subtree_high = static_cast<__u32>(spec.subtree.id >> 32);
    details.subtree_level = spec.subtree.level;
    details.on_removal = spec.on_removal;
    details.path_length = static_cast<__u16>(spec.subtree.path.size());
    details.name_length = static_cast<__u8>(spec.name.size());
    details.owner_length = static_cast<__u8>(spec.owner.size());
    details.ranges_length = static_cast<__u16>(spec.ranges.size());
    std::memcpy(at, &details, sizeof(details));
    at += kDetailsWords;
    for (std::size_t i = 0; i < ids.size(); i++, at += kMemberWords) {
        hr_member member = {ids[i], spec.backends[i].weight, spec.backends[i].state, 0};
        std::memcpy(at, &member, sizeof(member));
    }
    std::string text = text_of(spec);
    std::memcpy(at, text.data(), text.size());
    return words;
}

__u64 set_word(const ServiceSpec &spec, __u32 base, const Selection &selection) {
    return base | static_cast<__u64>(selection.v4.size()) << HR_SET_COUNT_SHIFT |
           static_cast<__u64>(selection.v6.size()) << HR_SET_COUNT6_SHIFT |
           static_cast<__u64>(spec.algorithm) << HR_SET_ALGORITHM_SHIFT |
           (spec.affinity_ms ? HR_SET_AFFINITY : 0) | (spec.host_only ? HR_SET_HOST_ONLY : 0) |
           (spec.subtree.path.empty() ? 0 : HR_SET_SUBTREE) |
           (spec.ranges.empty() ? 0 : HR_SET_LISTED);
}

Block decode_block(const hr_record &record, const __u32 *words, std::size_t size,
                   const hr_backend *backends, std::size_t backend_entries) {
    const __u64 set = observe(record.set);
    Block block;
    block.spec.key = record.key;
    block.base = static_cast<__u32>(set);
    block.selection = static_cast<__u32>(set >> HR_SET_COUNT_SHIFT & HR_SET_COUNT_MASK) +
                      static_cast<__u32>(set >> HR_SET_COUNT6_SHIFT & HR_SET_COUNT_MASK);
    auto damaged = [&] [[noreturn]] () {
        throw Error(Kind::kernel_error, format_key(record.key),
                    "the table is damaged: something else wrote into it", EUCLEAN);
    };
    std::size_t at = static_cast<std::size_t>(block.base) + block.selection;
    hr_details details;
    if (at + kDetailsWords > size)
        damaged();
    std::memcpy(&details, words + at, sizeof(details));
    at += kDetailsWords;
    std::size_t text_at = at + static_cast<std::size_t>(details.members) * kMemberWords;
    std::size_t text_bytes =
        details.name_length + details.owner_length + details.path_length + details.ranges_length;
    std::size_t end = text_at + text_words(text_bytes);
    if (details.members > HR_SLOTS_PER_SERVICE || end > size)
        damaged();
    block.words = static_cast<__u32>(end - block.base);
    block.spec.algorithm = set >> HR_SET_ALGORITHM_SHIFT & HR_SET_ALGORITHM_MASK;
    block.spec.host_only = set & HR_SET_HOST_ONLY;
    block.spec.affinity_ms = details.affinity_ms;
    block.spec.on_removal = details.on_removal;
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
    text += details.name_length;
    block.spec.owner.assign(text, details.owner_length);
    text += details.owner_length;
    block.spec.subtree = {std::string(text, details.path_length),
                          details.subtree_low | static_cast<__u64>(details.subtree_high) << 32,
                          details.subtree_level};
    text += details.path_length;
    block.spec.ranges.assign(text, details.ranges_length);
    return block;
}

} // namespace hr
