# SPDX-License-Identifier: Apache-2.0
"""Health checks of backends.

probes   one check: does this backend answer?
runner   when each is done, in a thread of its own, and what they came to
judge    what that makes of a service's backends
report   for `svc show` and metrics
"""
