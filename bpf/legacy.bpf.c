// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The same programs for kernels from 4.17 to 5.2: see knobs.bpf.h. */
#define HR_LEGACY
#include "hostreach.bpf.c"
