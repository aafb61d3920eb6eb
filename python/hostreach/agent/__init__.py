# SPDX-License-Identifier: Apache-2.0
"""A process that keeps an instance in step with a source of services.

programmer  writes what the source says, and nothing of anybody else's
loop        when to write, and all that has to be done now and then
settings    what the user says, checked
metrics, web, health   what others may ask
notify, logs, addresses, place   systemd, logging, this node's addresses, our own cgroup
"""
