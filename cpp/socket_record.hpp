// SPDX-License-Identifier: Apache-2.0
// struct hr_socket as C++ sees it.
#pragma once

#include "layout.hpp"
#include "sockets.h"

namespace hr {

static_assert(std::has_unique_object_representations_v<hr_socket>);

} // namespace hr
