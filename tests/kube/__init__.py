# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API for tests: objects, and a server that serves them."""
