# SPDX-License-Identifier: Apache-2.0
"""What every implementation of an interface must do: the kernel's and the fake alike."""
