"""The actors: how many, what each owns, and what it restarts from.

    actor              how many            owns                            restarts from
    -----------------  ------------------  ------------------------------  -------------------------
    supervisor         1                   nothing but its list of actors  that list, in its spec
    tp-1..N            tenant partitions   all objects of its tenants      its log (SQLite)
    rp-1..M            resource partitions nodes, their leases and events; its log; the ledger
                                           the ledger of reservations      from bound pods
    ingress-1..K       any                 connections                     nothing
    scheduler-tp-i     one a TP            columns of nodes, waiting pods  lists and watches
    shard-1..S         any                 a range of hashKeys             lists and watches
    simulated-1        0 or 1              timers of pods that pretend     the API
    node-agent         0 or 1 a machine    nothing                         what the runtime holds

Each is a Part (part.py): a plain class that knows no Ray, with an address and a Peer for every
other. cast.py says which of them a cluster has; supervisor.py keeps them alive. Only cluster.py
(start, restart, stop) and handles.py (find, call) know Ray; streams.py carries what is said.
"""
