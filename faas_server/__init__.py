"""The data plane, one per node: takes calls over HTTP, gives each to an instance of its own, and supervises the monitors that make them.

`faas_server.app.Server` is the whole; `python -m faas_server` runs it. Clients, programs and monitors are each trusted with nothing but
their own part: what they send is framed, bounded and timed here.
"""
