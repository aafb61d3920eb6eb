// SPDX-License-Identifier: Apache-2.0
// The table for Python. A service crosses as one tuple of plain values, which
// python/hostreach/plain.py describes.
#include <netinet/in.h>
#include <pybind11/stl.h>

#include <array>
#include <tuple>

#include "bindings.hpp"
#include "clients.hpp"
#include "error.hpp"
#include "host.hpp"
#include "selection.hpp"
#include "table.hpp"

namespace py = pybind11;

namespace hr {

namespace {

using PyBackend = std::tuple<std::string, __u16, std::string>;
using PyNetwork = std::tuple<std::string, unsigned>;
using PySubtree = std::tuple<std::string, __u64, __u8>;
using PyService =
    std::tuple<std::string, __u16, std::string, std::optional<std::string>, std::string,
               std::string, std::vector<PyBackend>, __u32, bool, std::optional<PySubtree>,
               std::optional<std::string>, std::optional<std::string>>;

constexpr std::array kAlgorithms = {"random", "maglev", "least-conn"};
constexpr std::array kStates = {"active", "draining", "down"};
constexpr std::array kOnRemoval = {"", "reset", "keep"};

// The number that the tables have for a word.
template <typename Words>
__u8 number_of(const Words &words, const std::string &word) {
    for (std::size_t i = 0; i < words.size(); i++)
        if (word == words[i])
            return static_cast<__u8>(i);
    throw Error(Kind::invalid_input, word, "unknown");
}

// The word for a number; the first for one that a later version wrote.
template <typename Words>
const char *word_for(const Words &words, __u8 number) {
    return words[number < words.size() ? number : 0];
}

hr_key make_key(const std::string &address, __u16 port, const std::string &protocol) {
    hr_key key = {};
    if (address == "node")
        key.scope = HR_NODE;
    else
        parse_ip(address, key.ip);
    key.port = htons(port);
    if (protocol != "tcp" && protocol != "udp")
        throw Error(Kind::invalid_input, protocol, "not tcp or udp");
    key.protocol = protocol == "tcp" ? IPPROTO_TCP : IPPROTO_UDP;
    return key;
}

ServiceSpec to_spec(const PyService &service) {
    const auto &[address, port, protocol, name, owner, algorithm, backends, affinity_ms, host_only,
                 subtree, on_removal, ranges] = service;
    ServiceSpec spec;
    spec.key = make_key(address, port, protocol);
    spec.name = name.value_or("");
    spec.owner = owner;
    spec.algorithm = number_of(kAlgorithms, algorithm);
    spec.affinity_ms = affinity_ms;
    spec.host_only = host_only;
    spec.on_removal = number_of(kOnRemoval, on_removal.value_or(""));
    spec.ranges = ranges.value_or("");
    parse_ranges(spec.ranges); // or they could not be read later
    if (subtree) {
        const auto &[path, id, level] = *subtree;
        spec.subtree = {path, id, level};
    }
    if (spec.name.size() > 255 || spec.owner.size() > 255 || spec.subtree.path.size() > 4096 ||
        spec.ranges.size() > 4096)
        throw Error(Kind::invalid_input, format_key(spec.key), "a name, path or list is too long");
    if (backends.size() > HR_SLOTS_PER_SERVICE)
        throw Error(Kind::invalid_input, format_key(spec.key),
                    "more than " + std::to_string(HR_SLOTS_PER_SERVICE) + " backends");
    if (spec.algorithm == HR_MAGLEV && backends.size() > 4093)
        throw Error(Kind::invalid_input, format_key(spec.key),
                    "maglev takes at most 4093 backends");
    for (const auto &[endpoint, weight, state] : backends)
        spec.backends.push_back({parse_endpoint(endpoint), weight, number_of(kStates, state)});
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
                              backend.weight, word_for(kStates, backend.state));
    std::optional<PySubtree> subtree;
    if (!spec.subtree.path.empty())
        subtree.emplace(spec.subtree.path, spec.subtree.id, spec.subtree.level);
    std::optional<std::string> on_removal;
    if (spec.on_removal)
        on_removal = word_for(kOnRemoval, spec.on_removal);
    return {spec.key.scope == HR_NODE ? "node" : format_ip(spec.key.ip),
            ntohs(spec.key.port),
            protocol_name(spec.key),
            name_of(spec),
            spec.owner,
            word_for(kAlgorithms, spec.algorithm),
            std::move(backends),
            spec.affinity_ms,
            spec.host_only,
            std::move(subtree),
            std::move(on_removal),
            spec.ranges.empty() ? std::nullopt : std::optional(spec.ranges)};
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
                          word_for(kAlgorithms, block.spec.algorithm), block.spec.backends.size());
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
    table.write(std::move(specs), keys);
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
