# SPDX-License-Identifier: Apache-2.0
"""A compiled BPF object, read without a kernel: what does it need of one?

`objects` reads it, `kernels` knows which kernel has what first, `registers` follows what the
registers hold, as an old verifier would, and `rules` says what a kernel would refuse.
"""
