"""A tenant moves between partitions of a real cluster while clients write to it and watch it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from livekit import Cluster, Http, until

pytestmark = pytest.mark.live

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PODS = "/api/v1/namespaces/default/pods"
ALL = "/api/v1/tenants/all/configmaps"
DONE = "done"


def deployment(replicas: int) -> dict[str, Any]:
    labels = {"app": "web"}
    return {
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "nginx"}]},
            },
        },
    }


class Writer(threading.Thread):
    """Makes one config map after the other; each must be taken at once."""

    def __init__(self, http: Http) -> None:
        super().__init__(daemon=True)
        self._http = http
        self._ending = threading.Event()
        self.made: list[str] = []
        self.refused: list[Any] = []

    def run(self) -> None:
        while not self._ending.is_set():
            name = f"n{len(self.made)}"
            answer = self._http("POST", CONFIGMAPS, {"metadata": {"name": name}})
            if answer.code != 201:
                self.refused.append(answer)
                return
            self.made.append(name)

    def finish(self) -> None:
        self._ending.set()
        self.join()
        if not self.refused:
            self._http.post(CONFIGMAPS, {"metadata": {"name": DONE}})
            self.made.append(DONE)


class Watcher(threading.Thread):
    """One watch that is opened once, and must tell everything."""

    def __init__(self, http: Http, path: str, revision: str) -> None:
        super().__init__(daemon=True)
        self._http, self._path, self._revision = http, path, revision
        self.told: list[tuple[str, str]] = []
        self.revisions: list[int] = []

    def run(self) -> None:
        with self._http.watch(self._path, resourceVersion=self._revision) as events:
            for event in events:
                meta = event["object"].get("metadata", {})
                if meta.get("tenant", "mover") != "mover":
                    continue
                self.told.append((event["type"], meta.get("name", "")))
                self.revisions.append(int(meta.get("resourceVersion", 0)))
                if self.told[-1][1] == DONE or event["type"] == "ERROR":
                    return


def test_clients_do_not_notice_that_their_tenant_moves(cluster: Cluster) -> None:
    http, admin = Http(cluster.tenant("mover")), Http(cluster.admin)
    http.post(DEPLOYMENTS, deployment(5))

    def pods() -> dict[str, Any]:
        return {
            pod["metadata"]["uid"]: (pod["spec"].get("nodeName"), pod["status"].get("podIP"))
            for pod in http.get(PODS)["items"]
            if pod["status"]["phase"] == "Running"
        }

    until(lambda: len(pods()) == 5, what="five pods run")
    before = pods()
    writer = Writer(http)
    watchers = [
        Watcher(client, path, str(client.get(path, limit=1)["metadata"]["resourceVersion"]))
        for client, path in ((http, CONFIGMAPS), (admin, ALL))
    ]
    for thread in (*watchers, writer):
        thread.start()
    for to in ("tp-1", "tp-2", "tp-1"):
        _wait_for_more(writer)
        print(_move(cluster, to))
    _wait_for_more(writer)
    writer.finish()
    assert not writer.refused
    for watcher in watchers:
        watcher.join(timeout=20)
        expected = [("ADDED", name) for name in writer.made]
        assert [t for t in watcher.told if not t[1].startswith("kube-root")] == expected
        assert watcher.revisions == sorted(watcher.revisions)
    listed = {each["metadata"]["name"] for each in http.get(CONFIGMAPS)["items"]}
    assert set(writer.made) <= listed
    assert pods() == before, "no pod was lost, restarted or made"


def _wait_for_more(writer: Writer) -> None:
    count = len(writer.made)
    until(lambda: len(writer.made) > count + 20 or writer.refused, what="writes go on")


def _move(cluster: Cluster, to: str) -> str:
    """What the command says; nothing to do when the tenant is there from the beginning."""
    try:
        return cluster.arktos("tenant", "move", "mover", to)
    except AssertionError as error:
        if "already" in str(error) or "is no other" in str(error):
            return f"it is in {to}"
        raise
