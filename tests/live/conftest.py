"""One cluster for all live tests, and the programs that are run against it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drills import Ground, Load
from livekit import Cluster, Program, Say, helms, kubectls

MakeKubectl = Callable[..., Program]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Started by the command line, simulated nodes only, stopped at the end whatever happened.

    ARKTOS_LIVE_DATA_DIR names one that runs already, for whoever writes tests.
    """
    running = os.environ.get("ARKTOS_LIVE_DATA_DIR")
    if running:
        yield Cluster(Path(running))
        return
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def make_kubectl(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> MakeKubectl:
    """(minor version, kubeconfig) -> kubectl; skips when this machine cannot have that version."""

    def make(version: str, kubeconfig: Path, *always: str) -> Program:
        path = kubectls().get(version)
        if path is None:
            pytest.skip(f"no kubectl {version} here: neither on the path nor from npm")
        return Program(path, kubeconfig, tmp_path_factory.mktemp(f"kubectl-{version}-"), *always)

    return make


@pytest.fixture(scope="session")
def kubectl(make_kubectl: MakeKubectl) -> Callable[..., Program]:
    """kubeconfig -> kubectl of whatever version is here, the newest first."""
    found = sorted(kubectls(), key=lambda version: int(version.partition(".")[2]), reverse=True)

    def newest(kubeconfig: Path, *always: str) -> Program:
        if not found:
            pytest.skip("no kubectl here: neither on the path nor from npm")
        return make_kubectl(found[0], kubeconfig, *always)

    return newest


@pytest.fixture
def helm(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Path], Program]:
    """(major version, kubeconfig) -> helm; skips when this machine cannot have that version."""

    def make(version: str, kubeconfig: Path) -> Program:
        path = helms().get(version)
        if path is None:
            pytest.skip(f"no helm {version} here: npm cannot fetch it")
        return Program(path, kubeconfig, tmp_path_factory.mktemp(f"helm-{version}-"))

    return make


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Figures are for whoever reads the output, also when the test passes."""

    def said(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end=" ", flush=True)

    return said


@pytest.fixture(scope="module")
def load(ground: Ground) -> Iterator[Load]:
    """Writers, watchers and two Deployments on the `ground` of the module, settled."""
    load = Load(ground)
    try:
        load.start()
        load.rescale()
        load.settled()
        yield load
    finally:
        load.stop()
