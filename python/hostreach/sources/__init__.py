# SPDX-License-Identifier: Apache-2.0
"""Where services come from. A source gives models and never sees a table."""
