"""`arktos bench density` as people run it: on a cluster of its own, to the end or interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from livekit import ARKTOS

Object = dict[str, Any]
DEADLINE_S = 300.0
SMALL = ("--nodes", "20", "--mode", "instant", "--pods", "200")


@pytest.mark.parametrize("way", ["--https", "--handles"])
def test_a_run_says_what_was_asked_for_and_leaves_nothing_behind(tmp_path: Path, way: str) -> None:
    file, report, data = tmp_path / "found.json", tmp_path / "report", tmp_path / "data"
    done = subprocess.run(
        [
            *ARKTOS, "bench", "density", *SMALL, "--tenant-partitions", "2",
            "--resource-partitions", "2", "--latency-pods", "40", "--rate", "40", way,
            "--json", str(file), "--report", str(report), "--data-dir", str(data),
        ],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: Object = json.loads(file.read_text())
    assert found["interrupted"] is False
    assert found["phases"]["saturation"]["pods"] == 200
    assert found["phases"]["latency"]["pods"] == 40
    assert found["nodes_ready_s"] > 0
    assert found["pods_per_s"] > 0
    assert found["cpu_s_per_1000_pods"] > 0
    assert found["pss_mb"] > 0
    startup = found["startup_ms"]
    assert 0 < startup["p50"] <= startup["p90"] <= startup["p99"]
    assert "this run" in (report / "density.md").read_text()
    assert _holders(data) == []


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that would take hours."""
    process = subprocess.Popen(
        [
            *ARKTOS, "bench", "density", *SMALL, "--latency-pods", "150", "--rate", "0.02",
            "--json", str(tmp_path / "found.json"), "--report", str(tmp_path / "report"),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)


def test_an_interrupted_run_keeps_what_it_measured(
    endless: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert endless.stderr is not None
    for line in endless.stderr:
        if "saturation: 200 pods in" in line:
            break
    endless.send_signal(signal.SIGINT)
    out, errors = endless.communicate(timeout=DEADLINE_S)
    assert endless.returncode == 130, errors
    assert "interrupted" in out
    found: Object = json.loads((tmp_path / "found.json").read_text())
    assert found["interrupted"] is True
    assert found["phases"]["saturation"]["pods"] == 200
    assert found["pods_per_s"] > 0
    assert "It was interrupted" in (tmp_path / "report" / "density.md").read_text()


def _holders(data: Path) -> list[str]:
    """Processes that still belong to the cluster of that directory."""
    done = subprocess.run(
        [*ARKTOS, "status", "--data-dir", str(data)], capture_output=True, text=True, check=False
    )
    return [] if done.returncode == 3 else [done.stdout]
