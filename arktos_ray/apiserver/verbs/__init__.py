"""One file per verb: (Partition, Call, Resource) -> Reply. `server.py` has the table of them."""
