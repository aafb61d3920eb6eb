// SPDX-License-Identifier: Apache-2.0
#include "common_form.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_set>

#include "address.hpp"
#include "error.hpp"
#include "new_plain.hpp"

namespace py = pybind11;

namespace hr {

namespace {

constexpr Py_ssize_t kBackendsMax = 1024; // the models know how many an algorithm takes
constexpr std::size_t kLabelMax = 63;

using Text = std::optional<std::string_view>;

Text text_of(PyObject *object) {
    if (!object || !PyUnicode_Check(object) || !PyUnicode_IS_COMPACT_ASCII(object))
        return std::nullopt;
    return std::string_view(reinterpret_cast<const char *>(PyUnicode_1BYTE_DATA(object)),
                            static_cast<std::size_t>(PyUnicode_GET_LENGTH(object)));
}

// Printable ASCII without white space; this may be all of a name's or owner's alphabet or not.
bool is_label(std::string_view text) {
    return !text.empty() && text.size() <= kLabelMax &&
           std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

// One that clients and servers may have for sure: no multicast, link-local, unspecified ones.
bool is_ordinary(const __u32 (&ip)[4]) {
    const __u32 first = ntohl(is_v4(ip) ? ip[3] : ip[0]) >> 24;
    if (is_v4(ip))
        return first >= 1 && first <= 223;
    return (first & 0xe0) == 0x20 || (first & 0xfe) == 0xfc; // global unicast, unique local
}

// In its canonical form.
std::optional<Endpoint> endpoint_of(std::string_view text) {
    try {
        const Endpoint endpoint = parse_endpoint(text);
        if (is_ordinary(endpoint.ip) && format_endpoint(endpoint.ip, endpoint.port) == text)
            return endpoint;
    } catch (const Error &) {
    }
    return std::nullopt;
}

struct Place {
    Endpoint endpoint;
    std::string_view protocol;
};

std::optional<Place> frontend_of(std::string_view text) {
    const std::size_t slash = text.rfind('/');
    if (slash == std::string_view::npos)
        return std::nullopt;
    const std::string_view protocol = text.substr(slash + 1);
    const std::optional<Endpoint> endpoint = endpoint_of(text.substr(0, slash));
    if (!endpoint || (protocol != "tcp" && protocol != "udp"))
        return std::nullopt;
    return Place{*endpoint, protocol};
}

// Looks each key up once; what was not asked for remains.
class Fields {
  public:
    explicit Fields(PyObject *dict)
        : dict_(PyDict_CheckExact(dict) ? dict : nullptr),
          left_(dict_ ? PyDict_GET_SIZE(dict) : 0) {}
    explicit operator bool() const { return dict_; }
    PyObject *operator[](const char *key) {
        PyObject *found = PyDict_GetItemString(dict_, key);
        left_ -= found != nullptr;
        return found;
    }
    bool has_more() const { return left_ > 0; }

  private:
    PyObject *dict_;
    Py_ssize_t left_;
};

// One of these words, or the first where there is none; empty for anything else.
template <std::size_t N>
std::string_view word_of(PyObject *object, const std::string_view (&words)[N]) {
    if (!object)
        return words[0];
    const Text text = text_of(object);
    const auto found =
        text ? std::find(std::begin(words), std::end(words), *text) : std::end(words);
    return found == std::end(words) ? std::string_view() : *found;
}

class BackendReader {
  public:
    explicit BackendReader(bool v4, Py_ssize_t count) : v4_(v4) {
        seen_.reserve(static_cast<std::size_t>(count));
    }

    // Null if it is not in the common form.
    py::object read(PyObject *object) {
        static constexpr std::string_view kStates[] = {"active", "draining", "down"};
        Fields fields(object);
        if (!fields)
            return {};
        PyObject *address = fields["address"], *weight = fields["weight"];
        const std::string_view state = word_of(fields["state"], kStates);
        const Text text = text_of(address);
        if (!text || state.empty() || fields.has_more() || !is_weight(weight))
            return {};
        const std::optional<Endpoint> endpoint = endpoint_of(*text);
        if (!endpoint || is_v4(endpoint->ip) != v4_ || !seen_.insert(*endpoint).second)
            return {};
        return py::reinterpret_steal<py::object>(new_tuple(
            Py_NewRef(address), weight ? Py_NewRef(weight) : PyLong_FromLong(1), new_word(state)));
    }

  private:
    static bool is_weight(PyObject *object) {
        if (!object)
            return true;
        if (!PyLong_CheckExact(object)) // True is no number
            return false;
        int overflow;
        const long value = PyLong_AsLongAndOverflow(object, &overflow);
        return !overflow && value >= 0 && value <= 65535;
    }

    bool v4_;
    std::unordered_set<Endpoint, EndpointHash> seen_;
};

// Null if it is not in the common form.
py::object service_of(PyObject *object, PyObject *owner) {
    static constexpr std::string_view kAlgorithms[] = {"random", "maglev", "least-conn"};
    static constexpr std::string_view kOnRemoval[] = {"none", "reset", "keep"};
    Fields fields(object);
    if (!fields)
        return {};
    PyObject *frontend = fields["frontend"], *name = fields["name"], *own = fields["owner"];
    PyObject *host_only = fields["host_only"], *backends = fields["backends"];
    PyObject *on_removal = fields["on_removal"];
    const std::string_view algorithm = word_of(fields["algorithm"], kAlgorithms);
    const std::string_view removal = word_of(on_removal, kOnRemoval);
    const Text at = text_of(frontend);
    if (fields.has_more() || !at || algorithm.empty() || removal.empty() ||
        (on_removal && removal == kOnRemoval[0]) || (host_only && !PyBool_Check(host_only)) ||
        (backends && !PyList_CheckExact(backends)))
        return {};
    for (PyObject *label : {name, own})
        if (label && !is_label(text_of(label).value_or("")))
            return {};
    const std::optional<Place> place = frontend_of(*at);
    const Py_ssize_t count = backends ? PyList_GET_SIZE(backends) : 0;
    if (!place || count > kBackendsMax)
        return {};
    py::list made(count);
    BackendReader reader(is_v4(place->endpoint.ip), count);
    for (Py_ssize_t i = 0; i < count; i++) {
        py::object backend = reader.read(PyList_GET_ITEM(backends, i));
        if (!backend)
            return {};
        PyList_SET_ITEM(made.ptr(), i, backend.release().ptr());
    }
    return py::reinterpret_steal<py::object>(new_tuple(
        new_text(format_ip(place->endpoint.ip)), PyLong_FromLong(ntohs(place->endpoint.port)),
        new_word(place->protocol), Py_NewRef(name ? name : Py_None), Py_NewRef(own ? own : owner),
        new_word(algorithm), made.release().ptr(), PyLong_FromLong(0),
        Py_NewRef(host_only ? host_only : Py_False), Py_NewRef(Py_None),
        on_removal ? new_word(removal) : Py_NewRef(Py_None), Py_NewRef(Py_None)));
}

} // namespace

py::list common_form(py::list services, const std::string &owner) {
    const py::str owned(owner);
    py::list found(services.size());
    for (std::size_t i = 0; i < services.size(); i++) {
        const auto at = static_cast<Py_ssize_t>(i);
        py::object service = service_of(PyList_GET_ITEM(services.ptr(), at), owned.ptr());
        PyList_SET_ITEM(found.ptr(), at, service ? service.release().ptr() : Py_NewRef(Py_None));
    }
    return found;
}

std::size_t count_keys(py::handle value) {
    std::size_t keys = 0;
    if (PyDict_CheckExact(value.ptr())) {
        PyObject *key, *below;
        Py_ssize_t at = 0;
        while (PyDict_Next(value.ptr(), &at, &key, &below))
            keys += 1 + count_keys(below);
    } else if (PyList_CheckExact(value.ptr())) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value.ptr()); i++)
            keys += count_keys(PyList_GET_ITEM(value.ptr(), i));
    }
    return keys;
}

} // namespace hr
