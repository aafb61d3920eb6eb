// SPDX-License-Identifier: Apache-2.0
// The table for Python. A service crosses as one tuple of plain values:
// (address, port, protocol, name, owner, algorithm, [(endpoint, weight), ...]).
#include <netinet/in.h>
#include <pybind11/stl.h>

#include <tuple>

#include "bindings.hpp"
#include "error.hpp"
#include "table.hpp"

namespace py = pybind11;

namespace hr {

namespace {

using PyKey = std::tuple<std::string, __u16, std::string>;
using PyBackend = std::tuple<std::string, __u16>;
using PyService = std::tuple<std::string, __u16, std::string, std::optional<std::string>,
                             std::string, std::string, std::vector<PyBackend>>;

hr_key to_key(const std::string &address, __u16 port, const std::string &protocol) {
    hr_key key = {};
    parse_ip(address, key.ip);
    key.port = htons(port);
    if (protocol != "tcp" && protocol != "udp")
        throw Error(Kind::invalid_input, protocol, "not tcp or udp");
    key.protocol = protocol == "tcp" ? IPPROTO_TCP : IPPROTO_UDP;
    return key;
}

hr_key to_key(const PyKey &key) {
    return std::apply([](auto &...k) { return to_key(k...); }, key);
}

ServiceSpec to_spec(const PyService &service) {
    const auto &[address, port, protocol, name, owner, algorithm, backends] = service;
    ServiceSpec spec;
    spec.key = to_key(address, port, protocol);
    spec.name = name.value_or("");
    spec.owner = owner;
    if (spec.name.size() > 255 || spec.owner.size() > 255)
        throw Error(Kind::invalid_input, format_key(spec.key), "a name has at most 255 bytes");
    if (algorithm != "random")
        throw Error(Kind::invalid_input, algorithm, "no such algorithm");
    if (backends.size() > HR_SLOTS_PER_SERVICE)
        throw Error(Kind::invalid_input, format_key(spec.key),
                    "more than " + std::to_string(HR_SLOTS_PER_SERVICE) + " backends");
    for (const auto &[endpoint, weight] : backends)
        spec.backends.push_back({parse_endpoint(endpoint), weight, HR_ACTIVE});
    return spec;
}

std::vector<ServiceSpec> to_specs(const std::vector<PyService> &services) {
    std::vector<ServiceSpec> specs;
    specs.reserve(services.size());
    for (const PyService &service : services)
        specs.push_back(to_spec(service));
    return specs;
}

const char *protocol_name(const hr_key &key) { return key.protocol == IPPROTO_TCP ? "tcp" : "udp"; }

std::optional<std::string> name_of(const ServiceSpec &spec) {
    return spec.name.empty() ? std::nullopt : std::optional(spec.name);
}

PyService from_block(const Block &block) {
    const ServiceSpec &spec = block.spec;
    std::vector<PyBackend> backends;
    backends.reserve(spec.backends.size());
    for (const BackendSpec &backend : spec.backends)
        backends.emplace_back(format_endpoint(backend.endpoint.ip, backend.endpoint.port),
                              backend.weight);
    return {format_ip(spec.key.ip), ntohs(spec.key.port), protocol_name(spec.key),
            name_of(spec),          spec.owner,           "random",
            std::move(backends)};
}

std::vector<Block> blocks(Table &table, const std::optional<std::string> &owner) {
    py::gil_scoped_release release;
    std::vector<Block> all;
    for (const hr_key &key : table.keys())
        if (std::optional<Block> block = table.get(key); !owner || block->spec.owner == *owner)
            all.push_back(std::move(*block));
    return all;
}

std::vector<PyService> list(Table &table, const std::optional<std::string> &owner) {
    std::vector<PyService> services;
    for (const Block &block : blocks(table, owner))
        services.push_back(from_block(block));
    return services;
}

using PyRow = std::tuple<std::string, std::optional<std::string>, std::string, std::string, size_t>;

std::vector<PyRow> rows(Table &table, const std::optional<std::string> &owner) {
    std::vector<PyRow> rows;
    for (const Block &block : blocks(table, owner))
        rows.emplace_back(format_key(block.spec.key), name_of(block.spec), block.spec.owner,
                          "random", block.spec.backends.size());
    return rows;
}

std::vector<std::size_t> differing(Table &table, const std::vector<PyService> &services) {
    std::vector<ServiceSpec> specs = to_specs(services);
    py::gil_scoped_release release;
    std::vector<std::size_t> indexes;
    for (std::size_t i = 0; i < specs.size(); i++)
        if (table.differs(specs[i]))
            indexes.push_back(i);
    return indexes;
}

void write(Table &table, const std::vector<PyService> &put, const std::vector<PyKey> &remove) {
    std::vector<ServiceSpec> specs = to_specs(put);
    std::vector<hr_key> keys;
    for (const PyKey &frontend : remove)
        keys.push_back(to_key(frontend));
    py::gil_scoped_release release;
    table.write(specs, keys);
}

} // namespace

void bind_table(py::module_ &module) {
    using Unlocked = py::call_guard<py::gil_scoped_release>;
    py::class_<Table>(module, "Table")
        .def(py::init([](std::string pin, unsigned timeout_ms) {
                 return std::make_unique<Table>(std::move(pin),
                                                std::chrono::milliseconds(timeout_ms));
             }),
             py::arg("pin"), py::arg("timeout_ms"))
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
        .def("unlock", &Table::unlock)
        .def("close", &Table::close)
        .def("purge", &Table::purge, Unlocked())
        .def(
            "get",
            [](Table &table, const PyKey &key) -> std::optional<PyService> {
                std::optional<Block> block = table.get(to_key(key));
                return block ? std::optional(from_block(*block)) : std::nullopt;
            },
            py::arg("frontend"))
        .def("list", list, py::arg("owner"))
        .def("rows", rows, py::arg("owner"))
        .def("differing", differing, py::arg("services"))
        .def("write", write, py::arg("put"), py::arg("remove"))
        .def("counts",
             [](Table &table) {
                 Counts c = table.counts();
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
            py::arg("frontend"))
        .def("events", &Table::events);
}

} // namespace hr
