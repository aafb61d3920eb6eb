# SPDX-License-Identifier: Apache-2.0
"""Tests that need root and a real kernel: real sockets in sandboxes of their own."""
