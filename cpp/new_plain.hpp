// SPDX-License-Identifier: Apache-2.0
// Plain values for Python, made by its own interface: pybind11's casters would copy each string.
#pragma once

#include <pybind11/pybind11.h>

#include <string_view>

namespace hr {

inline PyObject *new_text(std::string_view value) {
    return PyUnicode_FromStringAndSize(value.data(), static_cast<Py_ssize_t>(value.size()));
}

// One of few words; it must end with a null.
inline PyObject *new_word(std::string_view value) {
    return PyUnicode_InternFromString(value.data());
}

// The items become the tuple's. Raises what Python raised for one that is null.
template <typename... Items>
PyObject *new_tuple(Items... items) {
    PyObject *const all[] = {items...};
    PyObject *tuple = PyTuple_New(sizeof...(Items));
    Py_ssize_t i = 0;
    bool failed = !tuple;
    for (PyObject *item : all) {
        failed = failed || !item;
        if (tuple)
            PyTuple_SET_ITEM(tuple, i++, item);
        else
            Py_XDECREF(item);
    }
    if (failed) {
        Py_XDECREF(tuple);
        throw pybind11::error_already_set();
    }
    return tuple;
}

} // namespace hr
