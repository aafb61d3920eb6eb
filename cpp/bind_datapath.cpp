// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <tuple>

#include "bindings.hpp"
#include "datapath.hpp"
#include "features.hpp"
#include "table.hpp"

namespace py = pybind11;

namespace hr {

namespace {

const char *name_of(Action action) {
    switch (action) {
    case Action::added:
        return "added";
    case Action::replaced:
        return "replaced";
    case Action::removed:
        break;
    }
    return "removed";
}

std::vector<std::tuple<std::string, std::string>> attach_programs(const Table &table,
                                                                  const std::string &cgroup,
                                                                  bool tcp, bool udp,
                                                                  const std::string &cgroup_mount) {
    std::vector<std::tuple<std::string, std::string>> changes;
    for (const ProgramChange &change :
         attach(table.pin(), Cgroup::open(cgroup), {tcp, udp}, cgroup_mount))
        changes.emplace_back(change.hook, name_of(change.action));
    return changes;
}

py::dict status(const Table &table, const std::string &cgroup_mount) {
    DatapathStatus status = datapath_status(table.pin(), cgroup_mount);
    py::list programs;
    for (const ProgramStatus &program : status.programs) {
        py::list others;
        for (const OtherProgram &other : program.others)
            others.append(py::make_tuple(other.id, other.name));
        programs.append(py::make_tuple(program.hook, program.attached, program.effective,
                                       program.program_id, others));
    }
    py::dict result;
    result["cgroup"] = status.cgroup;
    result["tcp"] = status.protocols.tcp;
    result["udp"] = status.protocols.udp;
    result["programs"] = programs;
    return result;
}

} // namespace

void bind_datapath(py::module_ &module) {
    module.def(
        "check",
        [](const std::string &cgroup, bool tcp, bool udp) {
            Cgroup::open(cgroup);
            check_kernel({tcp, udp});
        },
        py::arg("cgroup"), py::arg("tcp"), py::arg("udp"));
    module.def("attach", attach_programs, py::arg("table"), py::arg("cgroup"), py::arg("tcp"),
               py::arg("udp"), py::arg("cgroup_mount"), py::call_guard<py::gil_scoped_release>());
    module.def(
        "detach", [](const Table &table) { return detach(table.pin()); }, py::arg("table"));
    module.def("status", status, py::arg("table"), py::arg("cgroup_mount"));
    module.def("features", [] {
        Features f = probe_features();
        py::dict found;
        found["connect"] = f.connect;
        found["recvmsg"] = f.recvmsg;
        found["getpeername"] = f.getpeername;
        found["set_retval"] = f.set_retval;
        return found;
    });
}

} // namespace hr
