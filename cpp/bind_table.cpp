// SPDX-License-Identifier: Apache-2.0
// The table for Python. A service crosses as one tuple of plain values (plain.hpp).
#include <pybind11/stl.h>

#include <tuple>

#include "bindings.hpp"
#include "clients.hpp"
#include "common_form.hpp"
#include "error.hpp"
#include "host.hpp"
#include "plain.hpp"
#include "selection.hpp"
#include "table.hpp"

namespace py = pybind11;

namespace hr {

namespace {

using PyNetwork = std::tuple<std::string, unsigned>;

py::list list(Table &table, const std::optional<std::string> &owner) {
    py::list services;
    table.for_each_sorted([&](__u32 index) {
        if (!owner || table.view(index).owner() == *owner)
            services.append(to_plain(table.read(index)));
    });
    return services;
}

py::list rows(Table &table, const std::optional<std::string> &owner) {
    py::list rows;
    table.for_each_sorted([&](__u32 index) {
        const BlockView block = table.view(index);
        if (!owner || block.owner() == *owner)
            rows.append(to_row(table.key(index), block));
    });
    return rows;
}

std::vector<std::size_t> differing(Table &table, py::handle services) {
    std::vector<ServiceSpec> specs = from_plain_list(services);
    py::gil_scoped_release release;
    std::vector<std::size_t> indexes;
    for (std::size_t i = 0; i < specs.size(); i++)
        if (table.differs(specs[i]))
            indexes.push_back(i);
    return indexes;
}

std::vector<hr_key> to_keys(const std::vector<PyKey> &frontends) {
    std::vector<hr_key> keys;
    for (const PyKey &frontend : frontends)
        keys.push_back(to_key(frontend));
    return keys;
}

void write(Table &table, py::handle put, const std::vector<PyKey> &remove) {
    std::vector<ServiceSpec> specs = from_plain_list(put);
    std::vector<hr_key> keys = to_keys(remove);
    py::gil_scoped_release release;
    table.write(std::move(specs), keys);
}

void check_room(Table &table, py::handle put, const std::vector<PyKey> &remove) {
    std::vector<ServiceSpec> specs = from_plain_list(put);
    std::vector<hr_key> keys = to_keys(remove);
    py::gil_scoped_release release;
    table.check_room(specs, keys);
}

} // namespace

hr_key to_key(const PyKey &key) {
    return std::apply([](auto &...k) { return make_key(k...); }, key);
}

void bind_table(py::module_ &module) {
    using Unlocked = py::call_guard<py::gil_scoped_release>;
    py::class_<Table>(module, "Table")
        .def(py::init([](std::string pin, unsigned timeout_ms, std::string cgroup_mount) {
                 return std::make_unique<Table>(std::move(pin),
                                                std::chrono::milliseconds(timeout_ms),
                                                std::move(cgroup_mount));
             }),
             py::arg("pin"), py::arg("timeout_ms"), py::arg("cgroup_mount"))
        .def(
            "grow",
            [](Table &table, __u32 services, __u32 backends, __u32 slots) {
                return table.grow({services, backends, slots});
            },
            py::arg("services"), py::arg("backends"), py::arg("slots"), Unlocked())
        .def(
            "create",
            [](Table &table, __u32 services, __u32 backends, __u32 slots) {
                return table.create({services, backends, slots});
            },
            py::arg("services"), py::arg("backends"), py::arg("slots"), Unlocked())
        .def(
            "lock",
            [](Table &table, bool exclusive) {
                table.lock(exclusive ? Lock::exclusive : Lock::shared);
            },
            py::arg("exclusive"), Unlocked())
        .def("lock_only", &Table::lock_only, Unlocked())
        .def("migrate", &Table::migrate, Unlocked())
        .def("unlock", &Table::unlock)
        .def("ends_due", &Table::ends_due)
        .def("close", &Table::close)
        .def("abandon", [](const py::object &table) { table.inc_ref(); })
        .def("purge", &Table::purge, Unlocked())
        .def(
            "get",
            [](Table &table, const PyKey &key) -> py::object {
                std::optional<Block> block = table.get(to_key(key));
                return block ? to_plain(*block) : py::none();
            },
            py::arg("frontend"))
        .def("list", list, py::arg("owner"))
        .def("rows", rows, py::arg("owner"))
        .def("differing", differing, py::arg("services"))
        .def("write", write, py::arg("put"), py::arg("remove"))
        .def("check_room", check_room, py::arg("put"), py::arg("remove"))
        .def(
            "check_room_anew",
            [](Table &table, __u32 services, __u32 backends, __u32 slots, py::handle put) {
                table.check_room({services, backends, slots}, from_plain_list(put));
            },
            py::arg("services"), py::arg("backends"), py::arg("slots"), py::arg("put"))
        .def(
            "shares",
            [](Table &table, const PyKey &key) {
                std::optional<Block> block = table.get(to_key(key));
                return block ? shares(block->spec) : std::vector<__u32>();
            },
            py::arg("frontend"))
        .def(
            "backend_ids",
            [](Table &table, const PyKey &key) {
                std::optional<Block> block = table.get(to_key(key));
                return block ? block->ids : std::vector<__u32>();
            },
            py::arg("frontend"))
        .def(
            "active", [](Table &table, const PyKey &key) { return table.active(to_key(key)); },
            py::arg("frontend"))
        .def(
            "set_host",
            [](Table &table, __u64 netns, const std::vector<PyNetwork> &networks,
               const std::vector<std::string> &addresses) {
                std::vector<hr_network> parsed;
                for (const auto &[address, bits] : networks)
                    parsed.push_back(parse_network(address, bits));
                table.set_host(netns, parsed, addresses);
            },
            py::arg("netns"), py::arg("networks"), py::arg("addresses"))
        .def("host",
             [](const Table &table) {
                 std::vector<PyNetwork> networks;
                 for (const hr_network &network : table.node_networks())
                     networks.emplace_back(format_ip(network.ip),
                                           network.bits - (is_v4(network.ip) ? 96 : 0));
                 return std::tuple(table.host_netns(), networks);
             })
        .def("admits", &Table::admits)
        .def("look_for_clients", &Table::look_for_clients, Unlocked())
        .def("node_addresses",
             [](const Table &table) {
                 std::vector<std::string> addresses;
                 for (const hr_ip &address : table.node_addresses())
                     addresses.push_back(format_ip(address.ip));
                 return addresses;
             })
        .def(
            "is_admitted",
            [](Table &table, const PyKey &key, __u64 netns) {
                return table.is_admitted(to_key(key), netns);
            },
            py::arg("frontend"), py::arg("netns"))
        .def(
            "stuck_to",
            [](Table &table, const PyKey &key, __u64 client,
               bool v4) -> std::optional<std::tuple<std::string, __u64>> {
                std::optional<Sticky> found = table.stuck_to(to_key(key), client, v4);
                if (!found)
                    return std::nullopt;
                return std::tuple(format_endpoint(found->backend.ip, found->backend.port),
                                  found->used_ns);
            },
            py::arg("frontend"), py::arg("client"), py::arg("v4"))
        .def("admit", &Table::admit, Unlocked())
        .def("is_attached", &Table::is_attached)
        .def("is_interrupted", &Table::is_interrupted)
        .def("refresh_node_addresses", &Table::refresh_node_addresses)
        .def("exempt", py::overload_cast<__u64, __u8>(&Table::exempt), py::arg("cgroup_id"),
             py::arg("level"))
        .def("unexempt", &Table::unexempt, py::arg("cgroup_id"))
        .def("exempted", py::overload_cast<>(&Table::exempt, py::const_))
        .def("counts",
             [](Table &table) {
                 const Used c = table.used();
                 return std::tuple(c.services, c.backends, c.slots);
             })
        .def("capacities",
             [](Table &table) {
                 Capacities c = table.capacities();
                 return std::tuple(c.services, c.backends, c.slots);
             })
        .def(
            "traffic",
            [](Table &table, const std::optional<PyKey> &key) {
                Traffic t = key ? table.traffic(to_key(*key)) : table.traffic();
                return std::tuple(t.translations, t.refusals);
            },
            py::arg("frontend"), Unlocked())
        .def("events", &Table::events);
    module.def("common_form", common_form, py::arg("services"), py::arg("owner"));
    module.def("count_keys", count_keys, py::arg("value"));
}

} // namespace hr
