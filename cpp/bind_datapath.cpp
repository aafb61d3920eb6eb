// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <tuple>

#include "bindings.hpp"
#include "datapath.hpp"
#include "features.hpp"
#include "host.hpp"
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

std::vector<std::tuple<std::string, std::string>>
attach_programs(const Table &table, const std::string &cgroup, bool tcp, bool udp,
                bool protect_binds, bool first, const std::string &cgroup_mount) {
    std::vector<std::tuple<std::string, std::string>> changes;
    for (const ProgramChange &change :
         attach(table.pin(), Cgroup::open(cgroup), {tcp, udp, protect_binds, first}, cgroup_mount))
        changes.emplace_back(change.hook, name_of(change.action));
    return changes;
}

py::dict status(const Table &table, const std::string &cgroup_mount) {
    DatapathStatus status = datapath_status(table.pin(), cgroup_mount);
    py::list programs;
    for (const ProgramStatus &program : status.programs) {
        py::list run;
        for (const RunningProgram &each : program.run)
            run.append(py::make_tuple(each.id, each.name));
        programs.append(py::make_tuple(program.hook, program.attached, program.effective,
                                       program.program_id, run));
    }
    py::dict result;
    result["cgroup"] = status.cgroup;
    result["tcp"] = status.wanted.tcp;
    result["udp"] = status.wanted.udp;
    result["protect_binds"] = status.wanted.protect_binds;
    result["first"] = status.wanted.first;
    result["remembers"] = status.is_full ? "sockets" : "lru";
    result["attached_by"] = status.has_links ? "link" : "program";
    result["programs"] = programs;
    return result;
}

} // namespace

void bind_datapath(py::module_ &module) {
    module.def(
        "check",
        [](const std::string &cgroup, bool tcp, bool udp, bool protect_binds, bool first) {
            Cgroup::open(cgroup);
            check_kernel({tcp, udp, protect_binds, first});
        },
        py::arg("cgroup"), py::arg("tcp"), py::arg("udp"), py::arg("protect_binds"),
        py::arg("first"));
    module.def(
        "check_attached",
        [](const Table &table, const std::string &cgroup) {
            check_cgroup(table.pin(), Cgroup::open(cgroup), table.cgroup_mount());
        },
        py::arg("table"), py::arg("cgroup"));
    module.def("attach", attach_programs, py::arg("table"), py::arg("cgroup"), py::arg("tcp"),
               py::arg("udp"), py::arg("protect_binds"), py::arg("first"), py::arg("cgroup_mount"),
               py::call_guard<py::gil_scoped_release>());
    module.def(
        "detach", [](const Table &table) { return detach(table.pin(), table.cgroup_mount()); },
        py::arg("table"), py::call_guard<py::gil_scoped_release>());
    module.def("status", status, py::arg("table"), py::arg("cgroup_mount"));
    module.def("netns_cookie", netns_cookie, py::arg("path"));
    module.def(
        "local_addresses",
        [](const std::optional<std::string> &path) {
            return path ? addresses_at(*path) : local_addresses();
        },
        py::arg("path"));
    module.def(
        "cgroup",
        [](const std::string &path, const std::string &mount) {
            Cgroup cgroup = Cgroup::open(path);
            return std::tuple(cgroup.id(), cgroup.level(mount));
        },
        py::arg("path"), py::arg("cgroup_mount"));
    module.def(
        "cgroup_path",
        [](__u64 id, const std::string &mount) -> py::object {
            std::optional<Cgroup> cgroup = Cgroup::by_id(id, mount);
            if (!cgroup)
                return py::none();
            // whoever has a subtree of his own names his cgroups by any bytes
            const std::string &path = cgroup->path();
            return py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
                path.data(), static_cast<Py_ssize_t>(path.size()), "backslashreplace"));
        },
        py::arg("cgroup_id"), py::arg("cgroup_mount"));
    module.def("mount_cgroup2", mount_cgroup2, py::arg("path"));
    module.def("unmount_cgroup2", unmount_cgroup2, py::arg("path"));
    module.def("features", [] {
        const Features f = probe_features();
        const std::pair<const char *, bool> all[] = {
            {"connect", f.connect},
            {"recvmsg", f.recvmsg},
            {"getpeername", f.getpeername},
            {"global_data", f.global_data},
            {"sk_storage", f.sk_storage},
            {"cookie", f.cookie},
            {"netns_cookie", f.netns_cookie},
            {"cgroup_id", f.cgroup_id},
            {"set_retval", f.set_retval},
            {"sock_release", f.sock_release},
            {"places", f.places},
            {"sock_read", f.sock_read},
            {"post_bind", f.post_bind},
            {"mptcp", f.mptcp},
            {"probe_read", f.probe_read},
            {"mmap", f.mmap},
            {"batch", f.batch},
            {"bpf_link", f.bpf_link},
            {"ring_buffer", f.ring_buffer},
            {"preorder", f.preorder},
        };
        py::dict found;
        for (const auto &[name, is_there] : all)
            found[name] = is_there;
        return found;
    });
}

} // namespace hr
