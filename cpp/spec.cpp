// SPDX-License-Identifier: Apache-2.0
#include "spec.hpp"

#include <netinet/in.h>

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

bool ServiceSpec::resets_sockets() const {
    if (on_removal == HR_BY_PROTOCOL)
        return key.protocol == IPPROTO_UDP;
    return on_removal == HR_RESET;
}

__u32 block_words(const ServiceSpec &spec, std::size_t selection) {
    return static_cast<__u32>(selection) + kDetailsWords +
           kMemberWords * static_cast<__u32>(spec.backends.size()) +
           text_words(spec.name.size() + spec.owner.size() + spec.subtree.path.size() +
                      spec.ranges.size());
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

BlockView view_block(const hr_record &record, const __u32 *words, std::size_t size,
                     std::size_t backend_entries) {
    BlockView view;
    view.set = observe(record.set);
    view.base = static_cast<__u32>(view.set);
    view.selection = slot_count(view.set);
    auto damaged = [&] [[noreturn]] () {
        throw Error(Kind::kernel_error, format_key(record.key),
                    "the table is damaged: something else wrote into it", EUCLEAN);
    };
    const std::size_t at = static_cast<std::size_t>(view.base) + view.selection;
    if (at + kDetailsWords > size)
        damaged();
    hr_details &details = view.details;
    std::memcpy(&details, words + at, sizeof(details));
    const std::size_t members_at = at + kDetailsWords;
    const std::size_t text_at =
        members_at + static_cast<std::size_t>(details.members) * kMemberWords;
    const std::size_t text_bytes =
        details.name_length + details.owner_length + details.path_length + details.ranges_length;
    const std::size_t end = text_at + text_words(text_bytes);
    if (details.members > HR_SLOTS_PER_SERVICE || end > size)
        damaged();
    view.words = static_cast<__u32>(end - view.base);
    view.members = words + members_at;
    view.text = reinterpret_cast<const char *>(words + text_at);
    for (std::size_t i = 0; i < details.members; i++)
        if (view.member(i).backend >= backend_entries)
            damaged();
    return view;
}

Block decode_block(const hr_record &record, const __u32 *words, std::size_t size,
                   const hr_backend *backends, std::size_t backend_entries) {
    const BlockView view = view_block(record, words, size, backend_entries);
    const hr_details &details = view.details;
    Block block;
    block.base = view.base;
    block.selection = view.selection;
    block.words = view.words;
    ServiceSpec &spec = block.spec;
    spec.key = record.key;
    spec.algorithm = view.algorithm();
    spec.host_only = view.set & HR_SET_HOST_ONLY;
    spec.affinity_ms = details.affinity_ms;
    spec.on_removal = details.on_removal;
    spec.backends.reserve(details.members);
    block.ids.reserve(details.members);
    for (std::size_t i = 0; i < details.members; i++) {
        const hr_member member = view.member(i);
        const hr_backend &backend = backends[member.backend];
        BackendSpec &each = spec.backends.emplace_back();
        std::copy(std::begin(backend.ip), std::end(backend.ip), each.endpoint.ip);
        each.endpoint.port = backend.port;
        each.weight = member.weight;
        each.state = member.state;
        block.ids.push_back(member.backend);
    }
    spec.name = view.name();
    spec.owner = view.owner();
    spec.subtree = {std::string(view.path()),
                    details.subtree_low | static_cast<__u64>(details.subtree_high) << 32,
                    details.subtree_level};
    spec.ranges = view.ranges();
    return block;
}

bool says_the_same(const ServiceSpec &spec, const BlockView &block, const hr_backend *backends) {
    const hr_details &details = block.details;
    const Subtree subtree = {std::string(block.path()),
                             details.subtree_low | static_cast<__u64>(details.subtree_high) << 32,
                             details.subtree_level};
    if (spec.name != block.name() || spec.owner != block.owner() ||
        spec.algorithm != block.algorithm() || spec.on_removal != details.on_removal ||
        spec.host_only != bool(block.set & HR_SET_HOST_ONLY) ||
        spec.affinity_ms != details.affinity_ms || !(spec.subtree == subtree) ||
        spec.ranges != block.ranges() || spec.backends.size() != details.members)
        return false;
    for (std::size_t i = 0; i < spec.backends.size(); i++) {
        const BackendSpec &mine = spec.backends[i];
        const hr_member member = block.member(i);
        const hr_backend &theirs = backends[member.backend];
        if (mine.weight != member.weight || mine.state != member.state ||
            mine.endpoint.port != theirs.port ||
            !std::equal(std::begin(theirs.ip), std::end(theirs.ip), mine.endpoint.ip))
            return false;
    }
    return true;
}

} // namespace hr
