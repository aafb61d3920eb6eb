// SPDX-License-Identifier: Apache-2.0
#include "places.hpp"

#include <netinet/in.h>

#include <chrono>
#include <cstring>
#include <map>
#include <optional>
#include <thread>

#include "diag.hpp"
#include "host.hpp"

namespace hr {

namespace {

constexpr __u64 kCookie = ~(HR_CROWDED | HR_UNCONNECTED);
constexpr __u64 kNobody = kCookie; // no socket's cookie: those that are so high have no places
// A connect that has taken its place is in the kernel's tables after as long, unless it fails.
constexpr auto kOnItsWay = std::chrono::milliseconds(20);

std::set<__u64> namespaces_of(const std::vector<HeldPlace> &held) {
    std::set<__u64> cookies;
    for (const HeldPlace &each : held)
        cookies.insert(each.netns);
    return cookies;
}

// Those of `from` that are in one of `wanted`, by their inodes; what was found is
// taken out of `wanted`, but for 0, which may be any.
std::set<std::uint32_t> choose(const Namespaces &from, std::set<__u64> &wanted) {
    std::set<std::uint32_t> chosen;
    const bool all = wanted.contains(0);
    visit_namespaces(from, [&](std::uint32_t inode) {
        const __u64 cookie = netns_cookie(std::nullopt);
        if (all || !cookie || wanted.contains(cookie))
            chosen.insert(inode);
        wanted.erase(cookie);
    });
    return chosen;
}

void keep_only(Namespaces &namespaces, const std::set<std::uint32_t> &chosen) {
    std::erase_if(namespaces, [&](const auto &each) { return !chosen.contains(each.first); });
}

} // namespace

Namespaces find_namespaces_by_cookie(std::set<__u64> &wanted) {
    if (wanted.empty())
        return {};
    Namespaces likely = find_inhabited_namespaces();
    keep_only(likely, choose(likely, wanted));
    if (wanted.empty())
        return likely;
    Namespaces all = find_all_namespaces();
    std::set<std::uint32_t> chosen = choose(all, wanted);
    for (const auto &[inode, fd] : likely)
        chosen.insert(inode);
    keep_only(all, chosen);
    return all;
}

Places::Places(const PinDirectory &pin) {
    Fd holders = open_pinned(pin.file("holders"));
    Fd places = open_pinned(pin.file("places"));
    if (!holders || !places || !(map_info(places.get(), "places").flags & BPF_F_MMAPABLE))
        return;
    holders_ = {std::move(holders), "holders"};
    places_ = {std::move(places), "places"};
}

std::vector<HeldPlace>
Places::held(const std::function<bool(const hr_connection &)> &is_wanted) const {
    return find([&](__u64, const hr_connection &connection) {
        return connection.version && (!is_wanted || is_wanted(connection));
    });
}

// Of unconnected sockets too, whose `connection` is none.
std::vector<HeldPlace>
Places::find(const std::function<bool(__u64 holder, const hr_connection &)> &is_wanted) const {
    std::vector<HeldPlace> found;
    for (std::size_t at = 0; at < holders_.size(); at++) {
        if (at % 8 == 0 && is_free(at, 8)) { // nearly all: a line at a time
            at += 7;
            continue;
        }
        const __u64 holder = holders_.load(at), cookie = holder & kCookie;
        if (!cookie || cookie == kNobody)
            continue;
        const hr_place place = places_.load(at);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if ((holders_.load(at) & kCookie) == cookie && is_wanted(holder, place.connection))
            found.push_back({cookie, place.netns, place.connection});
    }
    return found;
}

bool Places::is_free(std::size_t first, std::size_t count) const {
    const __u64 *words = holders_.data() + first;
    __u64 held = 0;
    for (std::size_t n = 0; n < count; n++)
        held |= words[n];
    return !(held & kCookie);
}

// Nobody's, but not free: the place is cleared while no socket can take it.
void Places::leave(__u64 cookie) {
    const std::size_t at = cookie % HR_PLACES;
    if (pass(at, cookie, kNobody)) // else closed since, and maybe another's by now
        clear(at);
}

void Places::clear(std::size_t at) {
    hr_connection &connection = places_.draft()[at].connection;
    connection.incarnation = 0;
    connection.version = 0;
    connection.latest.given_port = 0;
    connection.before.given_port = 0;
    pass(at, kNobody, 0);
}

// From one holder to another, or to none; false if it is not the first's.
bool Places::pass(std::size_t at, __u64 from, __u64 to) {
    for (__u64 holder = holders_.load(at); (holder & kCookie) == from; holder = holders_.load(at))
        if (holders_.exchange(at, holder, (holder & HR_CROWDED) | to))
            return true;
    return false;
}

bool Places::sweep() {
    for (std::size_t at = 0; at < holders_.size(); at++)
        if ((holders_.load(at) & kCookie) == kNobody) // of a process that was killed
            clear(at);
    // What is dead at both looks: the first one may have come too early for a socket.
    Dead first = find_dead();
    if (first.sure.empty() && first.unsure.empty())
        return false;
    std::this_thread::sleep_for(kOnItsWay);
    const Dead second = find_dead();
    for (__u64 cookie : second.sure)
        if (first.sure.contains(cookie))
            leave(cookie);
    bool are_unsure = false;
    for (__u64 cookie : second.unsure) {
        if (!first.unsure.contains(cookie))
            continue;
        hr_connection &connection = places_.draft()[cookie % HR_PLACES].connection;
        connection.incarnation = 0;
        are_unsure |= connection.version != 0; // who is not connected never counted
    }
    return are_unsure;
}

// Those of sockets that nobody has, and those of which that cannot be told.
Places::Dead Places::find_dead() const {
    const std::vector<HeldPlace> all = find([](__u64 holder, const hr_connection &connection) {
        return connection.version || holder & HR_UNCONNECTED;
    });
    std::set<__u64> missing = namespaces_of(all), alive, seen;
    const Namespaces namespaces = find_namespaces_by_cookie(missing);
    const std::set<std::uint32_t> closed = visit_namespaces(namespaces, [&](std::uint32_t) {
        SockDiag diag;
        bool sees_all = true;
        for (__u8 protocol : {IPPROTO_TCP, IPPROTO_UDP}) {
            auto open = diag.open(protocol);
            sees_all &= open.has_value();
            for (const DiagSocket &socket : open.value_or(std::vector<DiagSocket>()))
                alive.insert(socket.cookie());
        }
        if (sees_all)
            seen.insert(netns_cookie(std::nullopt));
    });
    // where namespaces do not tell their cookies, it may be in any that could not be entered
    const bool saw_any = seen.contains(0) && closed.empty();
    Dead dead;
    for (const HeldPlace &each : all)
        if (!alive.contains(each.cookie))
            (saw_any || seen.contains(each.netns) ? dead.sure : dead.unsure).insert(each.cookie);
    return dead;
}

void Places::crowd() {
    for (std::size_t at = 0; at < holders_.size(); at++)
        if (!(holders_.load(at) & HR_CROWDED))
            __atomic_fetch_or(holders_.draft() + at, HR_CROWDED, __ATOMIC_ACQ_REL);
}

// A socket that found its place taken has marked one, too; crowd() marks all.
bool Places::were_crowded() const {
    for (std::size_t at = 0; at < holders_.size(); at++)
        if (!(holders_.load(at) & HR_CROWDED))
            return false;
    return holders_.size();
}

bool Places::hold_all() const {
    __u64 marks = 0;
    for (std::size_t at = 0; at < holders_.size(); at++)
        marks |= holders_.load(at);
    return holders_.size() && !(marks & HR_CROWDED);
}

std::size_t count_connected(const std::vector<HeldPlace> &held) {
    std::map<__u64, const HeldPlace *> by_cookie;
    for (const HeldPlace &each : held)
        by_cookie[each.cookie] = &each;
    std::set<__u64> missing = namespaces_of(held);
    const Namespaces namespaces = find_namespaces_by_cookie(missing);
    std::size_t connected = 0;
    visit_namespaces(namespaces, [&](std::uint32_t) {
        SockDiag diag;
        for (__u8 protocol : {IPPROTO_TCP, IPPROTO_UDP})
            for (const DiagSocket &socket : diag.connected(protocol)) {
                auto known = by_cookie.find(socket.cookie());
                if (known == by_cookie.end())
                    continue;
                const hr_connection &connection = known->second->connection;
                connected +=
                    leads_to(connection.latest, socket) || leads_to(connection.before, socket);
            }
    });
    for (const HeldPlace &each : held)
        connected += missing.contains(each.netns) && each.netns;
    return connected;
}

} // namespace hr
