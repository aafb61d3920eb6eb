# SPDX-License-Identifier: Apache-2.0
"""The kernel tests on other kernels: virtual machines and User-Mode Linux."""
