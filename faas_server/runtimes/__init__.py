"""An OCI runtime in the monitor's place: the same bundle, the same contracts, the same boundary (docs/protocol.md), a container per call.

For nodes whose KVM cannot be had, or for an isolation that somebody trusts more. It is never chosen by itself: a function asks for it by
name (`spec.runtime`), and the node's operator offers it by name (`MAYFLY_RUNTIMES`). Receipts and status say what it is: the isolation of
such a call is `oci:NAME`, of any other `kvm`.

    server ── control stream, unix socket ──▶ python -m faas_server.runtimes ──▶ NAME run, one container per connection

There is no snapshot and no pool: every call pays for a new container and for the start of its program.
"""
