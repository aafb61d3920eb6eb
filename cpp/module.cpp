// SPDX-License-Identifier: Apache-2.0
// hostreach._core: a table of contents. Signatures and documentation: python/hostreach/_core.pyi.
#include <pybind11/pybind11.h>

#include "bindings.hpp"
#include "error.hpp"
#include "layout.hpp"
#include "skeleton.hpp"

namespace py = pybind11;

namespace {

const char *class_of(hr::Kind kind) {
    switch (kind) {
    case hr::Kind::invalid_input:
        return "InvalidInput";
    case hr::Kind::refused:
        return "Refused";
    case hr::Kind::not_found:
        return "NotFound";
    case hr::Kind::table_full:
        return "TableFull";
    case hr::Kind::table_busy:
        return "TableBusy";
    case hr::Kind::attached_elsewhere:
        return "AttachedElsewhere";
    case hr::Kind::abi_mismatch:
        return "AbiMismatch";
    case hr::Kind::permission_denied:
        return "PermissionDenied";
    case hr::Kind::program_rejected:
        return "ProgramRejected";
    case hr::Kind::kernel_error:
        break;
    }
    return "KernelError";
}

// hr::Error becomes the class of hostreach.errors that its kind names.
void raise_as_python(std::exception_ptr thrown) {
    try {
        if (thrown)
            std::rethrow_exception(thrown);
    } catch (const hr::Error &error) {
        py::object type = py::module_::import("hostreach.errors").attr(class_of(error.kind));
        py::dict keywords;
        keywords["object"] = error.object;
        keywords["errno"] = error.err ? py::object(py::int_(error.err)) : py::none();
        if (error.kind == hr::Kind::program_rejected)
            keywords["log"] = error.log;
        py::object value = type(error.what(), **keywords);
        PyErr_SetObject(type.ptr(), value.ptr());
    }
}

} // namespace

PYBIND11_MODULE(_core, module) {
    hr::LibbpfLog::install();
    hr::Skeleton::register_hooks();
    py::register_exception_translator(raise_as_python);
    module.attr("ABI_VERSION") = HR_ABI_VERSION;
    hr::bind_table(module);
    hr::bind_datapath(module);
    hr::bind_sockets(module);
    hr::bind_trace(module);
}
