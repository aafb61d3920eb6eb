// SPDX-License-Identifier: Apache-2.0
#include "selection.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

namespace hr {

namespace {

// Sizes of Maglev tables. Few steps, so that adding a backend seldom changes
// the size, which would move every client.
constexpr std::array<__u32, 6> kPrimes = {101, 251, 509, 1021, 2039, 4093};
constexpr __u32 kSlotsPerBackend = 100; // the paper's ratio: shares within 1 %

// No backend may go without a slot: those whose share is below one get one, and
// the others share what is left.
void approximate(std::vector<__u32> &counts, __u32 limit) {
    const std::vector<__u32> scaled = counts;
    std::vector<std::size_t> live(counts.size());
    std::iota(live.begin(), live.end(), 0);
    __u64 total = std::accumulate(counts.begin(), counts.end(), __u64{0}), left = limit;
    for (;;) {
        auto fits = [&, total, left](std::size_t i) { return scaled[i] * left >= total; };
        auto small = std::stable_partition(live.begin(), live.end(), fits);
        if (small == live.end())
            break;
        for (auto i = small; i != live.end(); ++i) {
            counts[*i] = 1;
            left--;
            total -= scaled[*i];
        }
        live.erase(small, live.end());
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

// Positions of the backends that may be chosen by clients of one family.
std::vector<__u32> candidates(const ServiceSpec &spec, bool v4) {
    for (__u8 state : {HR_ACTIVE, HR_DRAINING}) {
        std::vector<__u32> found;
        for (__u32 i = 0; i < spec.backends.size(); i++) {
            const BackendSpec &backend = spec.backends[i];
            if (backend.state == state && backend.weight && is_v4(backend.endpoint.ip) == v4)
                found.push_back(i);
        }
        if (!found.empty())
            return found;
    }
    return {};
}

bool weigh_the_same(const ServiceSpec &spec, const std::vector<__u32> &among) {
    return std::ranges::all_of(
        among, [&](__u32 i) { return spec.backends[i].weight == spec.backends[among[0]].weight; });
}

std::vector<__u32> weighted(const ServiceSpec &spec, const std::vector<__u32> &among) {
    if (weigh_the_same(spec, among)) // a slot each: there are as many as backends at least
        return among;
    std::vector<__u16> weights;
    for (__u32 i : among)
        weights.push_back(spec.backends[i].weight);
    std::vector<__u32> counts = slot_counts(weights), slots;
    for (std::size_t i = 0; i < among.size(); i++)
        slots.insert(slots.end(), counts[i], among[i]);
    return slots;
}

// The same on every node: FNV-1a, then mixed.
__u64 hash(const Endpoint &endpoint, __u64 seed) {
    unsigned char bytes[sizeof(endpoint.ip) + sizeof(endpoint.port)];
    std::memcpy(bytes, endpoint.ip, sizeof(endpoint.ip));
    std::memcpy(bytes + sizeof(endpoint.ip), &endpoint.port, sizeof(endpoint.port));
    __u64 h = 0xcbf29ce484222325ULL ^ seed;
    for (unsigned char byte : bytes)
        h = (h ^ byte) * 0x100000001b3ULL;
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdULL;
    return h ^ (h >> 33);
}

struct Preference {
    __u32 backend;
    __u64 next; // the slot it wants next
    __u64 skip;
    __u64 credit; // it takes a turn for every `heaviest` of it
};

__u32 maglev_size(std::size_t backends) {
    auto prime = std::lower_bound(kPrimes.begin(), kPrimes.end(), backends * kSlotsPerBackend);
    return prime == kPrimes.end() ? kPrimes.back() : *prime;
}

std::vector<__u32> maglev(const ServiceSpec &spec, std::vector<__u32> among) {
    if (among.empty())
        return {};
    const __u32 size = maglev_size(among.size());
    // the order must not depend on how the backends were listed
    std::sort(among.begin(), among.end(), [&](__u32 a, __u32 b) {
        const Endpoint &x = spec.backends[a].endpoint, &y = spec.backends[b].endpoint;
        int order = std::memcmp(x.ip, y.ip, sizeof(x.ip));
        return order ? order < 0 : x.port < y.port;
    });
    __u64 heaviest = 0;
    std::vector<Preference> preferences;
    for (__u32 i : among)
        heaviest = std::max<__u64>(heaviest, spec.backends[i].weight);
    for (__u32 i : among) {
        const Endpoint &endpoint = spec.backends[i].endpoint;
        // credit for one turn to begin with, or the lightest might go without a slot
        preferences.push_back({i, hash(endpoint, 0) % size,
                               hash(endpoint, 0x9e3779b97f4a7c15ULL) % (size - 1) + 1,
                               heaviest - spec.backends[i].weight});
    }
    constexpr __u32 kFree = ~0U;
    std::vector<__u32> slots(size, kFree);
    for (__u32 filled = 0; filled < size;) {
        for (Preference &p : preferences) {
            p.credit += spec.backends[p.backend].weight;
            if (p.credit < heaviest || filled == size)
                continue;
            p.credit -= heaviest;
            while (slots[p.next] != kFree)
                p.next = (p.next + p.skip) % size;
            slots[p.next] = p.backend;
            filled++;
        }
    }
    return slots;
}

} // namespace

std::vector<__u32> slot_counts(const std::vector<__u16> &weights, __u32 limit) {
    std::vector<__u32> counts(weights.begin(), weights.end());
    __u32 divisor = 0;
    for (__u32 count : counts)
        divisor = std::gcd(divisor, count);
    __u64 total = 0;
    for (__u32 &count : counts)
        total += count /= divisor;
    if (total > limit)
        approximate(counts, limit);
    return counts;
}

Selection select(const ServiceSpec &spec) {
    auto fill = [&](bool v4) {
        std::vector<__u32> among = candidates(spec, v4);
        return spec.algorithm == HR_MAGLEV ? maglev(spec, std::move(among)) : weighted(spec, among);
    };
    return {fill(true), fill(false)};
}

std::size_t selection_size(const ServiceSpec &spec) {
    std::size_t size = 0;
    for (bool v4 : {true, false}) {
        const std::vector<__u32> among = candidates(spec, v4);
        if (among.empty())
            continue;
        size +=
            spec.algorithm == HR_MAGLEV ? maglev_size(among.size()) : weighted(spec, among).size();
    }
    return size;
}

std::vector<__u32> shares(const ServiceSpec &spec) {
    std::vector<__u32> counts(spec.backends.size());
    Selection selection = select(spec);
    for (const auto *slots : {&selection.v4, &selection.v6})
        for (__u32 backend : *slots)
            counts[backend]++;
    return counts;
}

} // namespace hr
