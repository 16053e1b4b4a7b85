"""What the drills share: a cluster under load, and what must hold after whatever was done to it.

Not a test. Writers write down every write that was acknowledged, watchers every event that they
were given; `Load.check` then compares the two with each other and with what the cluster lists.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from livekit import ARKTOS, Cluster, until

from arktos_ray.api.calls import BOOKMARK, DELETED, User
from arktos_ray.api.errors import Expired, Failure, NotFound, StorageFull, Timeout, Unavailable
from arktos_ray.api.names import Key
from arktos_ray.api.quantity import milli
from arktos_ray.base.places import Places
from arktos_ray.bootstrap import free_port
from arktos_ray.client.handles import Background
from arktos_ray.client.http import HttpCaller
from arktos_ray.client.kubeconfig import endpoint
from arktos_ray.client.port import Client
from arktos_ray.tenancy.accounts import ROOT_CA

Object = dict[str, Any]

NODES = 20
# With the letters rule these are on different tenant partitions.
TENANTS = {"acme": "tp-1", "zeta": "tp-2"}
WRITERS = 3  # of each tenant
# Each writer at most 20 writes/s: the machine should be busy with recovering, not with the load.
PAUSE_S = 0.05
# Beyond any recovery; the drills print how long it really took.
DEADLINE_S = 30.0
START_DEADLINE_S = 150.0
# More than half a simulated node: one pod fits on each, and never two.
POD_CPU = "600m"


class Ground(Cluster):
    """A cluster in a directory, that may be started and killed many times over."""

    def __init__(self, home: Path, *arguments: str) -> None:
        super().__init__(home)
        self.places = Places(home)
        self.port = free_port(0)
        self.nodes = NODES  # that there should be
        self._arguments = arguments

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *ARKTOS, "up", "--detach", "--data-dir", str(self.home), "--port", str(self.port),
                "--no-node", "--no-dashboard", "--simulated-nodes", str(NODES),
                "--simulated-mode", "instant", *self._arguments, *arguments,
            ],
            capture_output=True, text=True, timeout=START_DEADLINE_S, check=False,
        )  # fmt: skip

    def start(self) -> None:
        done = self.up()
        assert done.returncode == 0, done.stdout + done.stderr
        self._mine = True

    def status(self) -> Object:
        """What `arktos status` says, running or not."""
        done = subprocess.run(
            [*ARKTOS, "status", "-o", "json", "--data-dir", str(self.home)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 3), done.stdout + done.stderr
        status: Object = json.loads(done.stdout)
        return status

    def parts(self) -> dict[str, Object]:
        return {part["name"]: part for part in self.status()["parts"]}

    def pids(self) -> list[int]:
        return [process["pid"] for process in self.status()["processes"]]

    def whole(
        self, without: Collection[int] = (), deadline_s: float = DEADLINE_S
    ) -> dict[str, Object]:
        """Its parts, once all of them run, in other processes than those."""
        parts: dict[str, Object] = {}

        def running() -> bool:
            parts.clear()
            parts.update(self.parts())
            return bool(parts) and all(
                part["state"] == "running" and part["pid"] not in without for part in parts.values()
            )

        try:
            until(running, deadline_s)
        except AssertionError as error:
            raise AssertionError(f"not whole: {parts or self.status()}") from error
        return parts


@dataclass(slots=True)
class Written:
    """What the writers know of one object."""

    revisions: list[int] = field(default_factory=list)  # of acknowledged writes
    deleted: bool = False  # acknowledged
    unknown: bool = False  # a write that was not answered came last


@dataclass(slots=True)
class Watched:
    """What one watcher was given: (type, tenant, name, revision), in order."""

    events: list[tuple[str, str, str, int]] = field(default_factory=list)
    revision: int = 0
    resumed: int = 0
    # Names that were there when it began.
    at_first: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from the blow to the first answer."""

    read_s: float
    write_s: float

    def __str__(self) -> str:
        return f"read {self.read_s:.2f} s, write {self.write_s:.2f} s"


def _known_as(namespace: str, name: str) -> str:
    """By its name alone; what every namespace has by both."""
    return name if name != ROOT_CA else f"{namespace}/{name}"


class Load:
    """Writers and watchers of config maps, and a Deployment, in each tenant.

    The watchers `acme` and `zeta` see their own tenant, `all` sees both through one merged watch.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._background = Background()
        self._callers: list[HttpCaller] = []
        self._admin = self._client(ground.admin)
        self._clients = {name: self._client(ground.tenant(name)) for name in TENANTS}
        self._stopped = False
        self._writing = threading.Event()
        self._idle = Counter[str]()
        self._work: list[Future[None]] = []
        self._sentinels = self._refusals = 0
        self.written: dict[tuple[str, str], Written] = {}
        self.watched: dict[str, Watched] = {}
        self.surprises: list[str] = []
        self.refused: Counter[str] = Counter()
        self.replicas: dict[str, int] = {}

    def _client(self, kubeconfig: Path) -> Client:
        caller = HttpCaller(endpoint(kubeconfig)[0])
        self._callers.append(caller)
        user = yaml.safe_load(kubeconfig.read_text())["contexts"][0]["name"]
        return Client(caller, User(user))

    def run(self, work: Any) -> Any:
        return self._background.run(work)

    # Life

    def start(self) -> None:
        for name in TENANTS:
            self.run(self._clients[name].create("deployments.apps", name, "default", _deployment()))
            self.replicas[name] = 1
        for watcher in (*TENANTS, "all"):
            self.watched[watcher] = self.run(self._first(watcher))
            self._start(self._watch(watcher))
        self._writing.set()
        for name in TENANTS:
            for number in range(WRITERS):
                self._start(self._write(name, number))

    def _start(self, work: Any) -> None:
        self._work.append(asyncio.run_coroutine_threadsafe(work, self._background.loop))

    def stop(self) -> None:
        self._stopped = True
        for work in self._work:
            work.cancel()
        self.run(self._close())
        self._background.stop()

    async def _close(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        for caller in self._callers:
            await caller.close()

    # Writing

    async def _write(self, tenant: str, number: int) -> None:
        """Create an object, change it twice, delete every other one; for ever."""
        writer, count = f"{tenant}-{number}", 0
        while not self._stopped:
            count += 1
            key = Key(tenant, "default", f"w{number}-{count}")
            known = self.written[tenant, key.name] = Written()
            for step in range(4 if count % 2 else 3):
                while not self._writing.is_set():
                    self._idle[writer] = 1
                    await asyncio.sleep(PAUSE_S)
                self._idle[writer] = 0
                done = await self._step(known, key, step)
                await asyncio.sleep(PAUSE_S)
                if not done:
                    break

    async def _step(self, known: Written, key: Key, step: int) -> bool:
        client = self._clients[key.tenant]
        try:
            if step == 0:
                body = {"metadata": {"name": key.name}, "data": {"step": "0"}}
                answer = await client.create("configmaps", key.tenant, key.namespace, body)
            elif step < 3:
                answer = await client.patch("configmaps", key, {"data": {"step": str(step)}})
            else:
                await client.delete("configmaps", key)
                known.deleted = True
                return True
        except StorageFull:
            self.refused["full"] += 1  # It says that nothing was written: that is checked too.
            return False
        except (Unavailable, Timeout):
            self.refused["unknown"] += 1
            known.unknown = True
            return False
        except Failure as failure:
            self.surprises.append(f"{type(failure).__name__}: {failure.message}")
            known.unknown = True
            return False
        known.revisions.append(int(answer["metadata"]["resourceVersion"]))
        return True

    # Watching

    def _viewer(self, watcher: str) -> Client:
        return self._clients.get(watcher, self._admin)

    async def _listed(self, watcher: str) -> tuple[dict[tuple[str, str], int], int]:
        items, revision = await self._viewer(watcher).list("configmaps", tenant=watcher)
        found = {}
        for item in items:
            meta = item["metadata"]
            name = _known_as(meta["namespace"], meta["name"])
            found[meta["tenant"], name] = int(meta["resourceVersion"])
        return found, revision

    async def _first(self, watcher: str) -> Watched:
        found, revision = await self._listed(watcher)
        return Watched(revision=revision, at_first=found)

    async def _watch(self, watcher: str) -> None:
        """Resumes from the last revision whenever it ends, and never lists again."""
        watched = self.watched[watcher]
        client = self._viewer(watcher)
        while not self._stopped:
            try:
                async for events in client.watch(
                    "configmaps", tenant=watcher, resourceVersion=str(watched.revision),
                    allowWatchBookmarks="true",
                ):  # fmt: skip
                    for event in events:
                        if event.revision < watched.revision:
                            self.surprises.append(f"{watcher}: {event.revision} goes back")
                        watched.revision = event.revision
                        if event.type != BOOKMARK:
                            tenant, namespace, name = event.path.split("/")
                            known = _known_as(namespace, name)
                            watched.events.append((event.type, tenant, known, event.revision))
            except Expired as failure:
                self.surprises.append(f"{watcher}: a gap: {failure.message}")
                watched.revision = (await self._first(watcher)).revision
            except (Unavailable, Timeout):
                pass
            except Failure as failure:
                self.surprises.append(f"{watcher}: {type(failure).__name__}: {failure.message}")
            watched.resumed += 1
            await asyncio.sleep(PAUSE_S)

    # Asking

    def recovery(self, part: str, begun: float, deadline_s: float = DEADLINE_S) -> Recovery:
        """How long after `begun` a read and a write of that partition are answered.

        Another part than a partition: of any partition.
        """
        self._sentinels += 1
        mark = str(self._sentinels)
        if part.startswith("rp-"):
            client, gvr = self._admin, "nodes"
            key = Key("", "", f"sim-{int(part[3:]) - 1}")
        else:
            tenant = next((t for t, p in TENANTS.items() if p == part), "acme")
            client, gvr, key = self._clients[tenant], "deployments.apps", _web(tenant)
        change = {"metadata": {"labels": {"drill": mark}}}

        async def both() -> tuple[float, float]:
            return await asyncio.gather(
                _answered(lambda: client.get(gvr, key), begun, deadline_s),
                _answered(lambda: client.patch(gvr, key, change), begun, deadline_s),
            )

        return Recovery(*self.run(both()))

    def refusal(self) -> Failure | None:
        """What a write is answered with now; None when it is taken."""
        # Each another: what changes nothing is not written. And large: a log goes on for a while
        # in space that it has already.
        self._refusals += 1
        change = {"metadata": {"annotations": {"drill": str(self._refusals % 10) * 200_000}}}
        try:
            self.run(self._clients["acme"].patch("deployments.apps", _web("acme"), change))
        except Failure as failure:
            return failure
        return None

    def readable(self, tenant: str = "all") -> bool:
        found, _ = self.run(self._listed(tenant))
        return bool(found)

    def unreadable(self) -> bool:
        """Whether a partition says that it cannot know just now."""
        try:
            self.run(self._listed("acme"))
        except (Unavailable, Timeout):
            return True
        return False

    # Workloads

    def scale(self, **replicas: int) -> None:
        for tenant, count in replicas.items():
            self.run(self._scale(tenant, count))
            self.replicas[tenant] = count

    async def _scale(self, tenant: str, count: int) -> None:
        change = {"spec": {"replicas": count}}
        client = self._clients[tenant]
        await _answered(
            lambda: client.patch("deployments.apps", _web(tenant), change), time.monotonic()
        )

    def rescale(self) -> None:
        """Other numbers than now, for both; together they always fit on the nodes."""
        now = self.replicas["acme"]
        self.scale(acme=now % 7 + 3, zeta=12 - now % 7 - 3)

    def settled(self, deadline_s: float = DEADLINE_S) -> float:
        """Seconds until each Deployment has exactly its pods, all of them running and ready."""
        begun = time.monotonic()
        state: dict[str, Any] = {}

        def exact() -> bool:
            state.clear()
            state.update({tenant: self._workload(tenant) for tenant in TENANTS})
            return all(state[t] == (n, n, n) for t, n in self.replicas.items())

        try:
            until(exact, deadline_s)
        except AssertionError as error:
            raise AssertionError(
                f"wanted {self.replicas}, found (pods, running, ready) {state}"
            ) from error
        return time.monotonic() - begun

    def _workload(self, tenant: str) -> tuple[int, int, int] | None:
        try:
            pods, _ = self.run(self._clients[tenant].list("pods", tenant=tenant))
            web = self.run(self._clients[tenant].get("deployments.apps", _web(tenant)))
        except (Unavailable, Timeout):
            return None
        running = sum(
            pod.get("status", {}).get("phase") == "Running"
            and "deletionTimestamp" not in pod["metadata"]
            for pod in pods
        )
        return len(pods), running, web.get("status", {}).get("readyReplicas", 0)

    # Checking

    def check(self) -> None:
        """Everything that must be true of a cluster, whatever happened to it."""
        with self._paused():
            self._settle_watchers()
            assert not self.surprises, self.surprises[:10]
            listed, _ = self.run(self._listed("all"))
            self._check_writes(listed)
            for watcher in self.watched:
                self._check_watch(watcher, listed)
        self.settled()
        self._check_nodes()

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """No write is under way in here."""
        self._writing.clear()
        try:
            until(lambda: sum(self._idle.values()) == WRITERS * len(TENANTS), 70, "writers pause")
            yield
        finally:
            self._idle.clear()
            self._writing.set()

    def _settle_watchers(self) -> None:
        """One more write in each tenant, and wait until every watcher was told of it."""
        self._sentinels += 1
        for tenant in TENANTS:
            name = f"sentinel-{self._sentinels}"
            body = {"metadata": {"name": name}}
            answer = self.run(self._clients[tenant].create("configmaps", tenant, "default", body))
            revision = int(answer["metadata"]["resourceVersion"])
            self.written[tenant, name] = Written([revision])
            for watcher in (tenant, "all"):
                events = self.watched[watcher].events
                until(partial(_reached, events, revision), what=f"{watcher} reaches {revision}")

    def _check_writes(self, listed: dict[tuple[str, str], int]) -> None:
        for key, known in self.written.items():
            there = listed.get(key)
            if known.deleted:
                assert there is None, f"{key} is back after its deletion"
            elif known.revisions and not known.unknown:
                assert there == known.revisions[-1], f"{key}: {there}, wrote {known.revisions}"
            elif known.revisions:
                # The last write, a change or a deletion, may have happened.
                assert there is None or there >= known.revisions[-1], f"{key} went back to {there}"
            elif not known.unknown:
                assert there is None, f"{key} was refused, and is there"

    def _check_watch(self, watcher: str, listed: dict[tuple[str, str], int]) -> None:
        watched = self.watched[watcher]
        events = list(watched.events)
        revisions = [revision for *_, revision in events]
        assert revisions == sorted(set(revisions)), f"{watcher}: out of order, or told twice"

        def mine(key: tuple[str, str]) -> bool:
            return watcher in ("all", key[0])

        seen = set(revisions)
        missed = {
            key: lost
            for key, known in self.written.items()
            if mine(key) and (lost := set(known.revisions) - seen)
        }
        assert not missed, f"{watcher} was never told of {missed}"
        ended = Counter((tenant, name) for kind, tenant, name, _ in events if kind == DELETED)
        for key, known in self.written.items():
            if mine(key) and known.deleted:
                assert ended[key] == 1, f"{watcher}: {ended[key]} deletions of {key}"

        # Whoever only watches knows what whoever lists is told.
        state = dict(watched.at_first)
        for kind, tenant, name, revision in events:
            if kind == DELETED:
                state.pop((tenant, name), None)
            else:
                state[tenant, name] = revision
        assert state == {key: revision for key, revision in listed.items() if mine(key)}, watcher

    def _check_nodes(self) -> None:
        """Nobody got more than there is, over all tenants together."""
        nodes, _ = self.run(self._admin.list("nodes", tenant=""))
        assert len(nodes) == self._ground.nodes
        used: Counter[str] = Counter()
        for pod in self.run(self._admin.list("pods", tenant="all"))[0]:
            if pod["spec"].get("nodeName"):
                for container in pod["spec"]["containers"]:
                    cpu = container["resources"]["requests"]["cpu"]
                    used[pod["spec"]["nodeName"]] += milli(cpu)
        for node in nodes:
            name, free = node["metadata"]["name"], milli(node["status"]["allocatable"]["cpu"])
            assert used[name] <= free, f"{name}: {used[name]}m of {free}m"
            ready = [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"]
            assert ready == ["True"], f"{name} is not ready"
        assert not set(used) - {node["metadata"]["name"] for node in nodes}

    def tally(self) -> str:
        acknowledged = sum(len(w.revisions) + w.deleted for w in self.written.values())
        events = sum(len(w.events) for w in self.watched.values())
        resumed = sum(w.resumed for w in self.watched.values())
        return (
            f"{acknowledged} writes acknowledged, {self.refused['unknown']} unanswered, "
            f"{self.refused['full']} refused; {events} events, {resumed} resumptions"
        )


def _web(tenant: str) -> Key:
    return Key(tenant, "default", "web")


def _reached(events: list[tuple[str, str, str, int]], revision: int) -> bool:
    return any(event[3] == revision for event in reversed(events))


async def _answered(
    ask: Callable[[], Awaitable[Any]], begun: float, deadline_s: float = DEADLINE_S
) -> float:
    """Seconds until it succeeds. Failures that say `later` are asked again."""
    while True:
        try:
            await ask()
        except (Unavailable, Timeout, StorageFull, NotFound) as failure:
            if time.monotonic() - begun > deadline_s:
                raise AssertionError(f"no answer in {deadline_s:g} s: {failure.message}") from None
            await asyncio.sleep(0.02)
        else:
            return time.monotonic() - begun


def _deployment() -> Object:
    labels = {"app": "web"}
    container = {
        "name": "web", "image": "web:1", "resources": {"requests": {"cpu": POD_CPU}},
    }  # fmt: skip
    return {
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
            },
        },
    }


# A small disk of one's own


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path | str]:
    """A directory on a filesystem of that size; or why there is none."""
    image, mounted = folder / "disk.img", folder / "disk"
    mounted.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        _quietly("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image))
        _quietly("mount", "-o", "loop", str(image), str(mounted))
    except (OSError, subprocess.CalledProcessError) as error:
        yield f"a small filesystem cannot be mounted here: {error}"
        return
    try:
        yield mounted
    finally:
        _quietly("umount", "--lazy", str(mounted))


def _quietly(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def fill(folder: Path) -> list[Path]:
    """Files that take all the space there is."""
    taken = []
    for size in (1 << 20, 1 << 12):
        path = folder / f"fill-{size}"
        taken.append(path)
        with path.open("wb") as file, contextlib.suppress(OSError):
            at = 0
            while True:
                os.posix_fallocate(file.fileno(), at, size)
                at += size
    return taken
