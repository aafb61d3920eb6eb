// SPDX-License-Identifier: Apache-2.0
#include "overflow.hpp"

#include <bpf/bpf.h>

#include <chrono>
#include <cstring>
#include <utility>

#include "maps.hpp"

namespace hr {

std::vector<SpiltConnection>
spilt_connections(const PinDirectory &pin,
                  const std::function<bool(const hr_origin &)> &is_wanted) {
    const std::string file = pin.file("overflow");
    const Fd overflow = open_pinned(file);
    std::vector<SpiltConnection> found;
    for_each_element<hr_overflow_key, hr_origin>(
        overflow.get(), map_info(overflow.get(), file).max_entries, file,
        [](const hr_overflow_key &key) { return key.kind == HR_BY_PEER; },
        [&](const hr_overflow_key &key, const hr_origin &origin) {
            if (is_wanted(origin))
                found.push_back({key, origin});
        });
    return found;
}

namespace {

template <typename T>
std::string bytes_of(const T &value) {
    return {reinterpret_cast<const char *>(&value), sizeof(value)};
}

// Between the connect hook and the connection no task is put aside for so long.
constexpr std::chrono::seconds kOnItsWayNoMore{10};

// Not in one step with the look, which no kernel before 5.14 has for such a map: a
// socket that connects to the same place again just between is shown its backend.
void remove_if_same(int overflow, const hr_overflow_key &key, const hr_origin &origin) {
    hr_origin now;
    if (!bpf_map_lookup_elem(overflow, &key, &now) && !std::memcmp(&now, &origin, sizeof(now)))
        bpf_map_delete_elem(overflow, &key);
}

} // namespace

void LookedFor::add(const PinDirectory &pin, const std::vector<SpiltConnection> &connections) {
    const Fd overflow = open_pinned(pin.file("overflow"));
    const Clock::time_point now = Clock::now();
    std::unordered_map<std::string, Clock::time_point> since;
    for (const SpiltConnection &each : connections) {
        const std::string bytes = bytes_of(each.key) + bytes_of(each.origin);
        auto known = since_.find(bytes);
        if (known == since_.end() || now - known->second < kOnItsWayNoMore) {
            since.emplace(bytes, known == since_.end() ? now : known->second);
            continue;
        }
        hr_overflow_key forth = each.key;
        std::memcpy(forth.ip, each.origin.asked_ip, sizeof(forth.ip));
        forth.port = each.origin.asked_port;
        forth.kind = HR_BY_CONNECTED;
        remove_if_same(overflow.get(), forth, each.origin);
        remove_if_same(overflow.get(), each.key, each.origin);
    }
    since_ = std::move(since);
}

} // namespace hr
