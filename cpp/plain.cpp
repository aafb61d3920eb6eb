// SPDX-License-Identifier: Apache-2.0
// Written against Python's own interface: there may be half a million backends, and
// pybind11's casters would copy each of their strings first.
#include "plain.hpp"

#include <netinet/in.h>

#include <array>

#include "clients.hpp"
#include "error.hpp"
#include "new_plain.hpp"

namespace py = pybind11;

namespace hr {

namespace {

constexpr std::array<std::string_view, 3> kAlgorithms = {"random", "maglev", "least-conn"};
constexpr std::array<std::string_view, 3> kStates = {"active", "draining", "down"};
constexpr std::array<std::string_view, 3> kOnRemoval = {"", "reset", "keep"};

// The number that the tables have for a word.
template <typename Words>
__u8 number_of(const Words &words, std::string_view word) {
    for (std::size_t i = 0; i < words.size(); i++)
        if (word == words[i])
            return static_cast<__u8>(i);
    throw Error(Kind::invalid_input, std::string(word), "unknown");
}

// The word for a number; the first for one that a later version wrote.
template <typename Words>
std::string_view word_for(const Words &words, __u8 number) {
    return words[number < words.size() ? number : 0];
}

// A tuple's or list's items, borrowed.
class Items {
  public:
    explicit Items(PyObject *sequence)
        : items_(py::reinterpret_steal<py::object>(PySequence_Fast(sequence, "not a sequence"))) {
        if (!items_)
            throw py::error_already_set();
    }
    Items(PyObject *sequence, Py_ssize_t size) : Items(sequence) {
        if (this->size() != size)
            throw py::type_error("a service has other values than the module knows");
    }
    Py_ssize_t size() const { return PySequence_Fast_GET_SIZE(items_.ptr()); }
    PyObject *operator[](Py_ssize_t i) const { return PySequence_Fast_GET_ITEM(items_.ptr(), i); }

  private:
    py::object items_;
};

// Valid as long as the object.
std::string_view text(PyObject *object) {
    Py_ssize_t size;
    const char *bytes = PyUnicode_AsUTF8AndSize(object, &size);
    if (!bytes)
        throw py::error_already_set();
    return {bytes, static_cast<std::size_t>(size)};
}

std::string_view text_or_none(PyObject *object) {
    return object == Py_None ? std::string_view() : text(object);
}

template <typename T>
T number(PyObject *object) {
    const unsigned long long value = PyLong_AsUnsignedLongLong(object);
    if (PyErr_Occurred())
        throw py::error_already_set();
    if (value > std::numeric_limits<T>::max())
        throw py::type_error("a number of a service is too large");
    return static_cast<T>(value);
}

hr_key key_of(std::string_view address, __u16 port, std::string_view protocol) {
    hr_key key = {};
    if (address == "node")
        key.scope = HR_NODE;
    else
        parse_ip(address, key.ip);
    key.port = htons(port);
    if (protocol != "tcp" && protocol != "udp")
        throw Error(Kind::invalid_input, std::string(protocol), "not tcp or udp");
    key.protocol = protocol == "tcp" ? IPPROTO_TCP : IPPROTO_UDP;
    return key;
}

PyObject *new_text_or_none(std::string_view value) {
    return value.empty() ? Py_NewRef(Py_None) : new_text(value);
}

PyObject *protocol_of(const hr_key &key) {
    return PyUnicode_InternFromString(key.protocol == IPPROTO_TCP ? "tcp" : "udp");
}

} // namespace

hr_key make_key(const std::string &address, __u16 port, const std::string &protocol) {
    return key_of(address, port, protocol);
}

ServiceSpec from_plain(py::handle service) {
    const Items items(service.ptr(), 12);
    ServiceSpec spec;
    spec.key = key_of(text(items[0]), number<__u16>(items[1]), text(items[2]));
    spec.name = text_or_none(items[3]);
    spec.owner = text(items[4]);
    spec.algorithm = number_of(kAlgorithms, text(items[5]));
    spec.affinity_ms = number<__u32>(items[7]);
    spec.host_only = items[8] == Py_True;
    if (items[9] != Py_None) {
        const Items subtree(items[9], 3);
        spec.subtree = {std::string(text(subtree[0])), number<__u64>(subtree[1]),
                        number<__u8>(subtree[2])};
    }
    spec.on_removal = number_of(kOnRemoval, text_or_none(items[10]));
    spec.ranges = text_or_none(items[11]);
    parse_ranges(spec.ranges); // or they could not be read later
    const Items backends(items[6]);
    if (spec.name.size() > 255 || spec.owner.size() > 255 || spec.subtree.path.size() > 4096 ||
        spec.ranges.size() > 4096)
        throw Error(Kind::invalid_input, format_key(spec.key), "a name, path or list is too long");
    if (backends.size() > HR_SLOTS_PER_SERVICE)
        throw Error(Kind::invalid_input, format_key(spec.key),
                    "more than " + std::to_string(HR_SLOTS_PER_SERVICE) + " backends");
    if (spec.algorithm == HR_MAGLEV && backends.size() > 4093)
        throw Error(Kind::invalid_input, format_key(spec.key),
                    "maglev takes at most 4093 backends");
    spec.backends.reserve(static_cast<std::size_t>(backends.size()));
    for (Py_ssize_t i = 0; i < backends.size(); i++) {
        const Items backend(backends[i], 3);
        spec.backends.push_back({parse_endpoint(text(backend[0])), number<__u16>(backend[1]),
                                 number_of(kStates, text(backend[2]))});
    }
    return spec;
}

std::vector<ServiceSpec> from_plain_list(py::handle services) {
    const Items items(services.ptr());
    std::vector<ServiceSpec> specs;
    specs.reserve(static_cast<std::size_t>(items.size()));
    for (Py_ssize_t i = 0; i < items.size(); i++)
        specs.push_back(from_plain(items[i]));
    return specs;
}

py::object to_plain(const Block &block) {
    const ServiceSpec &spec = block.spec;
    py::list backends(spec.backends.size());
    for (std::size_t i = 0; i < spec.backends.size(); i++) {
        const BackendSpec &backend = spec.backends[i];
        PyList_SET_ITEM(
            backends.ptr(), static_cast<Py_ssize_t>(i),
            new_tuple(new_text(format_endpoint(backend.endpoint.ip, backend.endpoint.port)),
                      PyLong_FromLong(backend.weight), new_word(word_for(kStates, backend.state))));
    }
    PyObject *subtree =
        spec.subtree.path.empty()
            ? Py_NewRef(Py_None)
            : new_tuple(new_text(spec.subtree.path), PyLong_FromUnsignedLongLong(spec.subtree.id),
                        PyLong_FromLong(spec.subtree.level));
    return py::reinterpret_steal<py::object>(new_tuple(
        spec.key.scope == HR_NODE ? new_word("node") : new_text(format_ip(spec.key.ip)),
        PyLong_FromLong(ntohs(spec.key.port)), protocol_of(spec.key), new_text_or_none(spec.name),
        new_text(spec.owner), new_word(word_for(kAlgorithms, spec.algorithm)),
        backends.release().ptr(), PyLong_FromUnsignedLong(spec.affinity_ms),
        PyBool_FromLong(spec.host_only), subtree,
        new_text_or_none(word_for(kOnRemoval, spec.on_removal)), new_text_or_none(spec.ranges)));
}

py::object to_row(const hr_key &key, const BlockView &block) {
    return py::reinterpret_steal<py::object>(
        new_tuple(new_text(format_key(key)), new_text_or_none(block.name()),
                  new_text(block.owner()), new_word(word_for(kAlgorithms, block.algorithm())),
                  PyLong_FromUnsignedLong(block.details.members)));
}

} // namespace hr
