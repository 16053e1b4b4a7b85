"""Which log a partition has: as its storage cluster says (config.py `storages`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arktos_ray.api.errors import Unavailable
from arktos_ray.base.clock import Clock
from arktos_ray.store.backends.sqlite import SqliteLog
from arktos_ray.store.port import Log


def open_log(storage: Mapping[str, Any] | None, data_dir: Path, name: str, clock: Clock) -> Log:
    """storage: {kind: sqlite}, or {kind: etcd, endpoints: [...], ...}. Blocks.

    Raises Unavailable, also when the partition has a log somewhere else: opening an empty one
    beside it would look like losing everything.
    """
    if storage is None:
        raise Unavailable(f"{name}: its storage cluster is not in the configuration any more")
    file = data_dir / f"{name}.sqlite"
    note = data_dir / f"{name}.etcd"
    if storage["kind"] == "sqlite":
        if note.exists():
            raise Unavailable(f"{name}: its log is in etcd ({note.read_text().strip()}), not here")
        return SqliteLog(file)
    if file.exists():
        raise Unavailable(f"{name}: its log is {file}, not in etcd. Go on with storage: sqlite")
    # gRPC takes 20 MB and 0.1 s: only who needs it pays.
    from arktos_ray.store.backends.etcd import EtcdLog
    from arktos_ray.store.backends.etcd_rpc import EtcdSettings

    settings = EtcdSettings.of(storage)
    log = EtcdLog(settings, name, clock)
    data_dir.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{','.join(settings.endpoints)} {settings.prefix}\n")
    return log
