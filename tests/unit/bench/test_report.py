"""A report is written of whatever was measured, however little that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from arktos_ray.bench import plan as planning
from arktos_ray.bench import report
from arktos_ray.bench.density import latency_by_verb
from arktos_ray.bench.machine import machine
from arktos_ray.cli import main

Object = dict[str, Any]


def figures(**more: Any) -> Object:
    return {
        "benchmark": "density", "began": "2026-01-31T12:00:00Z", "interrupted": False,
        "parameters": planning.parameters(nodes=100).packed(), "machine": machine(),
        "pods_per_s": None, "startup_ms": {"p50": None, "p90": None, "p99": None},
        "cpu_s_per_1000_pods": None, "pss_mb": None, "nodes_ready_s": None, "phases": {},
        "notes": [], **more,
    }  # fmt: skip


def measured() -> Object:
    phase = {
        "pods": 2, "pods_wanted": 2, "seconds": 1.0, "pods_per_s": 2.0,
        "startup_ms": {"p50": 12.5, "p90": 20.0, "p99": 20.0},
        "startup_curve_ms": [12.5, 20.0], "create_ms": {"p50": 1.0, "p90": 2.0, "p99": 2.0},
        "perf_tests_s": {"pod_startup": {"p50": 0.61, "p90": 0.9, "p99": 1.02}},
        "cpu_s_per_1000_pods": {"all": 0.9, "ingress": 0.1}, "pss_mb": {"ingress": 60.0},
    }  # fmt: skip
    return figures(
        phases={"saturation": phase, "latency": phase}, startup_ms=phase["startup_ms"],
        series={"t": [0.0, 1.0, 2.0], "running": [0, 1, 2], "bound": [0, 2, 2],
                "phase": ["", "a", "a"]},
        costs={"t": [0.0, 10.0], "cpu_s": [{"ingress": 1.0}, {"ingress": 2.0}],
               "pss_mb": [{"ingress": 60.0}, {"ingress": 61.0}]},
    )  # fmt: skip


def test_a_report_has_our_row_beside_the_published_ones(tmp_path: Path) -> None:
    page = report.write_report(measured(), tmp_path / "out").read_text()
    assert "| **this run** | 1x1 | 100 | 20.0 | 0.61 | 0.9 | 1.02 |" in page
    assert "| Arktos v1.0 | 3x3 | 60,000 | 200 | < 2 | < 3 | < 7 |" in page
    assert "start-up p50, ms | 12.5" in page
    assert json.loads((tmp_path / "out" / "density.json").read_text())["pss_mb"] is None
    for picture in page.split("](")[1:]:
        assert (tmp_path / "out" / picture.partition(")")[0]).is_file()


def test_what_was_interrupted_before_anything_began_is_reported_too(tmp_path: Path) -> None:
    page = report.write_report(figures(interrupted=True), tmp_path).read_text()
    assert "It was interrupted" in page
    assert "None was begun." in page


def test_latencies_by_verb_come_from_the_buckets_of_an_ingress() -> None:
    name = "apiserver_request_duration_seconds_bucket"
    labels = 'verb="POST",group="",version="v1",resource="pods",subresource="binding"'
    text = "\n".join(
        f'{name}{{{labels},le="{bound}"}} {count}'
        for bound, count in (("0.005", 50), ("0.1", 98), ("1.0", 99), ("+Inf", 100))
    )
    [row] = latency_by_verb(text)
    assert row == {
        "verb": "POST", "resource": "pods/binding", "count": 100, "p50": 0.005, "p99": 1.0
    }  # fmt: skip


def test_impossible_parameters_are_not_understood_and_nothing_is_started() -> None:
    for arguments, said in (
        (["--nodes", "3", "--pods", "1000"], "a node holds 110 pods"),
        (["--rate", "-1"], "--rate -1"),
        (["--config", "7x7"], "7x7"),
    ):
        done = CliRunner().invoke(main, ["bench", "density", *arguments])
        assert done.exit_code == 2
        assert said in done.output


def test_a_directory_with_something_in_it_is_not_taken_for_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    done = CliRunner().invoke(main, ["bench", "density", "--data-dir", str(tmp_path)])
    assert done.exit_code == 2
    assert "not empty" in done.output
    assert (tmp_path / "precious").read_text() == "data"
