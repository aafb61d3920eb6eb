// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "address.hpp"
#include "bindings.hpp"
#include "error.hpp"
#include "listener.hpp"
#include "table.hpp"

namespace py = pybind11;

namespace hr {

namespace {

using PyCgroup = std::tuple<__u64, __u32>;
using PyTraced = std::tuple<__u64, __u32, __u32, py::bytes, __u64, __u64, std::string, std::string,
                            std::optional<std::string>, std::string>;

constexpr std::array kVerdicts = {"translated", "no-backend", "not-admitted", "unanswerable"};

__u32 silent(const std::vector<std::string> &verdicts) {
    __u32 silent = verdicts.empty() ? 0 : ~0U;
    for (const std::string &verdict : verdicts) {
        auto found = std::find(kVerdicts.begin(), kVerdicts.end(), verdict);
        if (found == kVerdicts.end())
            throw Error(Kind::invalid_input, verdict, "no verdict");
        silent &= ~(1U << (found - kVerdicts.begin()));
    }
    return silent;
}

std::unique_ptr<Listener> listen(const Table &table, const std::optional<PyKey> &service, __u32 pid,
                                 const std::optional<PyCgroup> &cgroup,
                                 const std::vector<std::string> &verdicts, __u32 bytes) {
    hr_listener wanted = {};
    wanted.pid = pid;
    if (service)
        wanted.service = to_key(*service);
    if (cgroup)
        std::tie(wanted.cgroup, wanted.cgroup_level) = *cgroup;
    wanted.silent = silent(verdicts);
    py::gil_scoped_release release;
    return std::make_unique<Listener>(table.pin(), wanted, bytes);
}

PyTraced to_python(const hr_traced &traced) {
    const std::string protocol = traced.service.protocol == IPPROTO_TCP ? "/tcp" : "/udp";
    std::optional<std::string> given;
    if (traced.verdict == HR_TRANSLATED || traced.verdict == HR_UNANSWERABLE)
        given = format_endpoint(traced.given_ip, traced.given_port);
    return {traced.time_ns,
            traced.pid,
            traced.thread,
            py::bytes(traced.command, ::strnlen(traced.command, sizeof(traced.command))),
            traced.cgroup,
            traced.netns,
            format_key(traced.service),
            format_endpoint(traced.asked_ip, traced.asked_port) + protocol,
            std::move(given),
            kVerdicts[traced.verdict < kVerdicts.size() ? traced.verdict : 0]};
}

std::vector<PyTraced> read(Listener &listener, int timeout_ms, std::size_t most) {
    std::vector<hr_traced> all;
    {
        py::gil_scoped_release release;
        all = listener.read(timeout_ms, most);
    }
    std::vector<PyTraced> shown;
    shown.reserve(all.size());
    for (const hr_traced &traced : all)
        shown.push_back(to_python(traced));
    return shown;
}

} // namespace

void bind_trace(py::module_ &module) {
    py::class_<Listener>(module, "Listener")
        .def(py::init(&listen), py::arg("table"), py::arg("service"), py::arg("pid"),
             py::arg("cgroup"), py::arg("verdicts"), py::arg("size"))
        .def("read", read, py::arg("timeout_ms"), py::arg("most"))
        .def("lost", &Listener::lost)
        .def("is_heard", &Listener::is_heard);
}

} // namespace hr
