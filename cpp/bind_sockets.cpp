// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "address.hpp"
#include "bindings.hpp"
#include "counting.hpp"
#include "diag.hpp"
#include "error.hpp"
#include "features.hpp"
#include "iterators.hpp"
#include "open_sockets.hpp"
#include "sockets.hpp"
#include "table.hpp"

namespace py = pybind11;

namespace hr {

namespace {

using PySocket =
    std::tuple<std::string, std::string, std::string, std::string, std::uint32_t, std::uint64_t>;
using PyEndResult =
    std::tuple<std::vector<PySocket>, __u32, __u32, std::optional<__u32>, std::string, std::string>;

PySocket to_python(const hr_socket &socket) {
    hr_key asked = {};
    std::copy(std::begin(socket.origin.asked_ip), std::end(socket.origin.asked_ip), asked.ip);
    asked.port = socket.origin.asked_port;
    asked.protocol = static_cast<__u8>(socket.protocol);
    return {socket.protocol == IPPROTO_UDP ? "udp" : "tcp",
            format_key(asked),
            format_endpoint(socket.origin.given_ip, socket.origin.given_port),
            format_endpoint(socket.local_ip, socket.local_port),
            socket.netns,
            socket.cookie};
}

Tables &open_tables(Table &table) {
    if (!table.tables())
        throw Error(Kind::not_found, table.pin().path(), "the tables are not open", ENOENT);
    return *table.tables();
}

PyEndResult to_python(EndResult result) {
    std::vector<PySocket> sockets;
    for (const hr_socket &socket : result.sockets)
        sockets.push_back(to_python(socket));
    return {std::move(sockets), result.namespaces, result.unreachable,
            result.left,        result.method,     result.problem};
}

PyEndResult end(Table &table, bool dry_run) {
    return to_python(end_sockets(table.pin(), open_tables(table), table.iterators(),
                                 table.looked_for(), dry_run));
}

PyEndResult find(Table &table, const std::set<__u32> &backends) {
    return to_python(find_sockets(table.pin(), open_tables(table), table.iterators(), backends));
}

bool can_end_by_netlink() {
    try {
        return SockDiag().can_end();
    } catch (const Error &) {
        return false; // whatever it is
    }
}

// By the names that HOSTREACH_WITHOUT takes.
std::map<std::string, bool> socket_features() {
    const IteratorFeatures iterators = probe_iterators();
    return {
        {"btf", iterators.records},
        {"sock_destroy", iterators.walk},
        {"sock_diag", !is_switched_off("sock_diag") && can_end_by_netlink()},
        {"pidfd", !is_switched_off("pidfd") && can_borrow_sockets()},
    };
}

} // namespace

void bind_sockets(py::module_ &module) {
    using Unlocked = py::call_guard<py::gil_scoped_release>;
    module.def("end_sockets", end, py::arg("table"), py::arg("dry_run"), Unlocked());
    module.def("find_sockets", find, py::arg("table"), py::arg("backends"), Unlocked());
    module.def(
        "count_sockets", [](const Table &table) { return count_sockets(table.pin()); },
        py::arg("table"), Unlocked());
    module.def("socket_features", socket_features, Unlocked());
}

} // namespace hr
