"""Keeps Endpoints and EndpointSlices of Services with a selector; removes them with the Service.

Pods come and go in bursts, so a Service waits a little and then counts once.
"""

from __future__ import annotations

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.api.errors import Failure, NotFound
from arktos_ray.api.names import Key
from arktos_ray.client.index import key_of, labels, namespaces
from arktos_ray.controllers.endpoints import plan as planning
from arktos_ray.controllers.endpoints.plan import Object, Put, Remove
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts, written
from arktos_ray.controllers.pods import is_ready, is_terminating, phase

NAME = "endpoint-controller"

# A rollout of 3,000 pods would otherwise rewrite its Endpoints 3,000 times. One pod behind a
# Service waits 20 ms, 1,000 wait 0.5 s.
SETTLE_S, SETTLE_PER_POD_S, SETTLE_MAX_S = 0.020, 0.000_5, 1.0
SLICES = "endpointslices.discovery.k8s.io"


class Endpoints(Controller):
    def __init__(self, parts: Parts) -> None:
        self._client = ControllerClient(parts.client, NAME)
        self._ids = parts.ids
        self._services = parts.informers.of("services", **parts.range.selectors())
        self._pods = parts.informers.of("pods")
        self._endpoints = parts.informers.of("endpoints")
        self._slices = parts.informers.of(SLICES)
        self._loop: Loop[Key] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks, workers=5,
            gates=(self._services, self._pods, self._endpoints, self._slices),
        )  # fmt: skip
        # Endpoints have no owner reference: one shard looks after those without a Service.
        self._is_sweeper = parts.range.low == 0
        self._sizes: dict[Key, int] = {}
        self._services.on_change(self._service_changed)
        self._pods.on_change(self._pod_changed)
        self._endpoints.on_change(self._endpoints_changed)
        self._slices.on_change(self._slice_changed)

    def start(self) -> None:
        self._loop.start()

    def _service_changed(self, old: Object | None, new: Object | None) -> None:
        service = new or old
        assert service is not None
        self._loop.wake(key_of(service))

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        assert pod is not None
        meta = pod["metadata"]
        services = self._services.index.by(namespaces, (meta["tenant"], meta["namespace"]))
        if not services:
            return
        if old is not None and new is not None and _outline(old) == _outline(new):
            return
        carried = [each["metadata"].get("labels") or {} for each in (old, new) if each is not None]
        for service in services:
            if not planning.has_selector(service):
                continue
            selector = service["spec"]["selector"].items()
            if any(selector <= each.items() for each in carried):
                key = key_of(service)
                wait = SETTLE_S + SETTLE_PER_POD_S * self._sizes.get(key, 0)
                self._loop.wake(key, min(wait, SETTLE_MAX_S))

    def _endpoints_changed(self, old: Object | None, new: Object | None) -> None:
        # Somebody else's hand, or our own: reconcile tells.
        obj = new or old
        assert obj is not None
        key = key_of(obj)
        if key in self._services.index:
            self._loop.wake(key, SETTLE_S)
        elif new is not None and self._is_sweeper and _is_managed(new):
            # Its Service went while nobody looked, or belongs to another shard.
            self._loop.wake(key, 1.0)

    def _slice_changed(self, old: Object | None, new: Object | None) -> None:
        obj = new or old
        assert obj is not None
        meta = obj["metadata"]
        carried = meta.get("labels") or {}
        if carried.get(planning.MANAGER_LABEL) != planning.SLICE_MANAGER:
            return
        key = Key(meta["tenant"], meta["namespace"], carried.get(planning.SERVICE_LABEL, ""))
        if key in self._services.index:
            self._loop.wake(key, SETTLE_S)

    async def reconcile(self, key: Key) -> float | None:
        service = self._services.index.get(key)
        known = self._endpoints.index.get(key)
        column = (key.tenant, key.namespace, planning.SERVICE_LABEL, key.name)
        slices = [
            each
            for each in self._slices.index.by(labels, column)
            if each["metadata"]["labels"].get(planning.MANAGER_LABEL) == planning.SLICE_MANAGER
        ]
        if service is None:
            # A shard sees Services leave its range in the same way as it sees them deleted.
            await self._remove(key, known, slices)
            return None
        if not planning.has_selector(service) or is_terminating(service):
            return None
        selector = service["spec"]["selector"]
        pods = self._pods.index.matching(key.tenant, key.namespace, selector)
        self._sizes[key] = len(pods)
        names = (f"{key.name[:57]}-{self._ids.suffix()}" for _ in range(len(pods) + 2))
        calls: list[Call] = []
        put = planning.endpoints(service, pods, known)
        if put is not None:
            calls.append(self._putting("endpoints", key, put))
        actions = planning.slices(service, pods, slices, names)
        for action in actions:
            match action:
                case Put(body):
                    place = Key(key.tenant, key.namespace, body["metadata"]["name"])
                    calls.append(self._putting(SLICES, place, action))
                case Remove(obj):
                    calls.append(self._removing(SLICES, obj))
        replies = await self._client.write(calls)
        if put is not None:
            self._loop.wrote(key, self._endpoints, written(replies[:1]))
        if actions:
            self._loop.wrote(key, self._slices, written(replies[put is not None :]))
        _raise_all_but_not_found([errors.decode(each.body) for each in replies if not each.ok])
        return None

    def _putting(self, gvr: str, key: Key, action: Put) -> Call:
        if "resourceVersion" in action.body["metadata"]:
            return self._client.calling("update", gvr, key, action.body)
        return self._client.creating(gvr, key.tenant, key.namespace, action.body)

    def _removing(self, gvr: str, obj: Object) -> Call:
        return self._client.deleting(
            gvr, key_of(obj), preconditions={"uid": obj["metadata"]["uid"]}
        )

    async def _remove(self, key: Key, known: Object | None, slices: list[Object]) -> None:
        self._sizes.pop(key, None)
        managed = known is not None and _is_managed(known)
        if not managed and not slices:
            return
        try:
            await self._client.get("services", key)
            return  # It is there, only not in our range.
        except NotFound:
            pass
        calls = [self._removing(SLICES, each) for each in slices]
        if managed and known is not None:
            calls.append(self._removing("endpoints", known))
        replies = await self._client.write(calls)
        _raise_all_but_not_found([errors.decode(each.body) for each in replies if not each.ok])


def _is_managed(endpoints: Object) -> bool:
    return planning.ENDPOINTS_MANAGER_LABEL in (endpoints["metadata"].get("labels") or {})


def _raise_all_but_not_found(failures: list[Failure]) -> None:
    for failure in failures:
        if not isinstance(failure, NotFound):
            raise failure


def _outline(pod: Object) -> tuple[object, ...]:
    """What of a pod an endpoint shows."""
    status = pod.get("status", {})
    return (
        pod["metadata"].get("labels"), status.get("podIP"), status.get("podIPs"), is_ready(pod),
        is_terminating(pod), phase(pod), pod.get("spec", {}).get("nodeName"),
    )  # fmt: skip
