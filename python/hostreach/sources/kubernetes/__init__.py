# SPDX-License-Identifier: Apache-2.0
"""Services from a Kubernetes cluster's Services and EndpointSlices.

    objects    what is decoded of the API's objects, and nothing else
    sloppy     addresses and networks, as leniently as Kubernetes reads them
    intake     one decoded object, checked and made small
    endpoints  which endpoints a client on this node may be given
    services   a Service and its EndpointSlices as entries of the tables
    state      all of them, and what a change of one means for the tables
    client     the connection to the API server
    abilities  what the server is asked for, until it shows that it cannot
    telling    objects as they come, told as news
    watch      list, then watch, for as long as it takes
    source     all of it together, for the agent

Everything up to `state` is computation without any I/O.
"""
