# SPDX-License-Identifier: Apache-2.0
"""What hostreach costs, measured; see README.md."""
