"""Where the topology is kept: a file of the cluster's directory, or where the logs of the system
storage are in etcd, a key of that etcd, so that it can be read on every machine.

The supervisor alone writes it, before anybody is told of a change; every part reads it when it
starts, so that none begins with partitions that are no more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from arktos_ray.api.errors import Unavailable
from arktos_ray.store.port import Fenced
from arktos_ray.tenancy.topology import Topology, unpack

# One attempt at one endpoint. Who starts and gets no answer ends, and Ray starts it again; who
# asked for a change is told that it may be asked again.
_ATTEMPT_S = 2.0
# A change of ours that got no answer may arrive between our look and our next change, once.
_TRIES = 3


class TopologyStore(Protocol):
    def load(self) -> Topology | None:
        """None when nothing was kept yet. Raises Unavailable. Blocks for a moment."""

    def save(self, topology: Topology) -> None:
        """Durable when it returns. Raises Unavailable; then it may have been kept or not.

        In etcd it raises Fenced when another has changed it since this store loaded or saved.
        """


class FileTopology:
    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Topology | None:
        try:
            return unpack(json.loads(self._path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self._path} cannot be read: {error}") from error

    def save(self, topology: Topology) -> None:
        new = self._path.with_suffix(".new")
        try:
            with new.open("w") as file:
                json.dump(topology.pack(), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            raise Unavailable(f"{self._path} cannot be written: {error.strerror}") from error


class EtcdTopology:
    """One key. Who saves compares what it saw last, so a supervisor that was replaced while it
    was stopped changes nothing when it wakes up.

    It connects for each call: who reads it once at its start keeps no connection.
    """

    def __init__(self, storage: Mapping[str, Any]) -> None:
        """storage: as `open_log` is told of it (store/backends/choice.py)."""
        self._storage = storage
        prefix = str(storage.get("prefix", "/arktos")).rstrip("/")
        self._key = f"{prefix}/topology".encode()
        self._seen = 0  # etcd's revision of the key when we saw it last; 0: it was not there
        # Ours, sent and not answered: they may be there yet.
        self._unsure: list[bytes] = []

    def load(self) -> Topology | None:
        with self._connected() as etcd:
            self._seen, value = self._read(etcd)
        self._unsure.clear()
        if self._seen == 0:
            return None
        try:
            return unpack(json.loads(value))
        except ValueError as error:
            raise Unavailable(f"{self._key.decode()} in etcd cannot be read: {error}") from error

    def save(self, topology: Topology) -> None:
        value = json.dumps(topology.pack()).encode()
        with self._connected() as etcd:
            for _ in range(_TRIES):
                if self._unsure:
                    self._recognise(etcd)
                self._unsure.append(value)  # Until there is an answer.
                put = {"key": self._key, "value": value}
                seen = {"target": "MOD", "key": self._key, "mod_revision": self._seen}
                reply = etcd.call("Txn", compare=[seen], success=[{"request_put": put}])
                if reply.succeeded:
                    self._seen = reply.header.revision
                    self._unsure.clear()
                    return
        raise Unavailable("etcd took earlier changes of the topology meanwhile; try again")

    def _read(self, etcd: Any) -> tuple[int, bytes]:
        kvs = etcd.call("Range", key=self._key).kvs
        return (kvs[0].mod_revision, kvs[0].value) if kvs else (0, b"")

    def _recognise(self, etcd: Any) -> None:
        """What is there now is what we saw, or was sent by us. Raises Fenced when it is neither."""
        revision, value = self._read(etcd)
        if revision != self._seen and value not in self._unsure:
            raise Fenced("another supervisor has changed the topology")
        self._seen = revision

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        # gRPC takes 20 MB and 0.1 s: only who needs it pays.
        from arktos_ray.store.backends.etcd_rpc import Etcd, EtcdSettings

        etcd = Etcd(EtcdSettings.of({**self._storage, "attempt_s": _ATTEMPT_S}))
        try:
            yield etcd
        finally:
            etcd.close()


def topology_store(spec: Mapping[str, Any]) -> TopologyStore:
    """As the system storage of this spec says (cast.common_spec)."""
    storage = spec.get("system_storage") or {}
    if storage.get("kind") == "etcd":
        return EtcdTopology(storage)
    return FileTopology(Path(spec["data_dir"]) / "topology.json")
