"""Where the topology is kept: a file of the cluster's directory.

The supervisor alone writes it, before anybody is told of a change; every part reads it when it
starts, so that none begins with partitions that are no more.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from arktos_ray.api.errors import Unavailable
from arktos_ray.tenancy.topology import Topology, unpack


class TopologyStore(Protocol):
    def load(self) -> Topology | None:
        """None when nothing was kept yet. Raises Unavailable. Blocks for a moment."""

    def save(self, topology: Topology) -> None:
        """Durable when it returns. Raises Unavailable; then it may have been kept or not."""


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


def topology_store(spec: dict[str, Any]) -> TopologyStore:
    return FileTopology(Path(spec["data_dir"]) / "topology.json")
