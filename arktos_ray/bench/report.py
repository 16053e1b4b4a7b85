"""The report of a density run: JSON, a Markdown page, and plots where matplotlib is installed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from arktos_ray.bench.machine import QUIET_LOAD
from arktos_ray.bench.plan import GROUPS, PERCENTS, PHASES, PUBLISHED, Object


def write_json(found: Object, file: Path) -> None:
    """At once and whole: a reader never sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(file.name + ".tmp")
    beside.write_text(json.dumps(found, indent=1) + "\n")
    beside.replace(file)


def write_report(found: Object, directory: Path) -> Path:
    """density.md, density.json and the plots. Returns the page."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(found, directory / "density.json")
    pictures = plots(found, directory)
    page = directory / "density.md"
    page.write_text(markdown(found, pictures))
    return page


# Text


def markdown(found: Object, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """pictures: (title, file name)."""
    wanted = found["parameters"]
    size = f"{wanted['tenant_partitions']}x{wanted['resource_partitions']}"
    parts = [
        f"# Density: {size} partitions, {wanted['nodes']:,} nodes, {wanted['pods']:,} pods",
        "",
        *(_warnings(found)),
        f"Mode {wanted['mode']}, over {wanted['through']}; {wanted['latency_pods']:,} measured pods"
        f" at {wanted['rate']:g}/s; begun {found['began']}.",
        "",
        *_table(("figure", "value"), _headline(found)),
        "",
        "## Beside Arktos",
        "",
        "`pod_startup` as perf tests count it, in seconds: from creationTimestamp (whole seconds,"
        " which adds 0.5 s on average) to Running on a watch.",
        "",
        *_table(("release", "partitions", "nodes", "rate/s", "p50", "p90", "p99"), _beside(found)),
        "",
        "## Phases",
        "",
        *_phases(found),
    ]
    if found.get("api_latency"):
        parts += ["", "## API latency by verb", "", "Seconds; bounds of buckets, as an ingress"
                  " counts them (watches excepted).", ""]  # fmt: skip
        rows = [
            (row["verb"], row["resource"], row["count"], row["p50"], row["p99"])
            for row in found["api_latency"]
        ]
        parts += _table(("verb", "resource", "requests", "p50 at most", "p99 at most"), rows)
    for title, name in pictures:
        parts += ["", f"## {title}", "", f"![{title}]({name})"]
    machine = found["machine"]
    parts += ["", "## Machine", ""]
    parts += _table(("what", "value"), [(k, v) for k, v in machine.items()])
    return "\n".join(parts) + "\n"


def _warnings(found: Object) -> list[str]:
    lines = []
    if found["interrupted"]:
        lines.append("> It was interrupted: these figures are of what was measured until then.")
    load = found["machine"]["load"][0]
    if load > QUIET_LOAD:
        lines.append(f"> The machine was busy before (load {load}): times say more about that.")
    lines += [f"> {note}" for note in found["notes"]]
    return [line for each in lines for line in (each, "")]


def _headline(found: Object) -> list[tuple[str, Any]]:
    startup = found["startup_ms"]
    return [
        ("nodes ready, s after the start", found["nodes_ready_s"]),
        ("pods created and running, a second (saturation)", found["pods_per_s"]),
        *((f"start-up p{p}, ms", startup[f"p{p}"]) for p in PERCENTS),
        ("CPU seconds for 1,000 pods, everything", found["cpu_s_per_1000_pods"]),
        ("memory of all processes (PSS), MB", found["pss_mb"]),
    ]


def _beside(found: Object) -> list[tuple[Any, ...]]:
    wanted = found["parameters"]
    phase = found["phases"].get("latency", {}).get("perf_tests_s", {}).get("pod_startup", {})
    ours = (
        "**this run**", f"{wanted['tenant_partitions']}x{wanted['resource_partitions']}",
        wanted["nodes"], wanted["rate"], *(phase.get(f"p{p}") for p in PERCENTS),
    )  # fmt: skip
    rows: list[tuple[Any, ...]] = [
        (f"Arktos {row.release}", row.config, row.nodes, row.rate, row.p50, row.p90, row.p99)
        for row in PUBLISHED
    ]
    return [ours, *rows]


def _phases(found: Object) -> list[str]:
    phases = {group: found["phases"][group] for group in GROUPS if group in found["phases"]}
    if not phases:
        return ["None was begun."]
    rows: list[tuple[Any, ...]] = []
    for what, key in (("pods", "pods"), ("of", "pods_wanted"), ("seconds", "seconds"),
                      ("pods a second", "pods_per_s")):  # fmt: skip
        rows.append((what, *(phase.get(key) for phase in phases.values())))
    for title, key in (("start-up, ms", "startup_ms"), ("answer to a create, ms", "create_ms")):
        rows += [
            (f"{title}: p{p}", *((f.get(key) or {}).get(f"p{p}") for f in phases.values()))
            for p in PERCENTS
        ]
    for name in PHASES:
        rows += [
            (
                f"{name}, s: p{p}",
                *(
                    (f.get("perf_tests_s") or {}).get(name, {}).get(f"p{p}")
                    for f in phases.values()
                ),
            )
            for p in PERCENTS
        ]
    roles = dict.fromkeys(
        role for f in phases.values() for role in (f.get("cpu_s_per_1000_pods") or {})
    )
    rows += [
        (
            f"CPU s for 1,000 pods: {role}",
            *((f.get("cpu_s_per_1000_pods") or {}).get(role) for f in phases.values()),
        )
        for role in roles
    ]
    roles = dict.fromkeys(role for f in phases.values() for role in (f.get("pss_mb") or {}))
    rows += [
        (f"PSS MB: {role}", *((f.get("pss_mb") or {}).get(role) for f in phases.values()))
        for role in roles
    ]
    return _table(("", *phases), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(shown, row)) + " |" for row in rows]
    return lines


def shown(value: Any) -> str:
    """A number with the digits that mean something."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


# Pictures


def plots(found: Object, directory: Path) -> list[tuple[str, str]]:
    """(title, file name) of each; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("agg")
    from matplotlib import pyplot

    made: list[tuple[str, str]] = []

    def save(figure: Any, axes: Any, title: str, name: str) -> None:
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        axes.set_ylim(bottom=0)
        figure.tight_layout()
        figure.savefig(directory / name, dpi=110)
        pyplot.close(figure)
        made.append((title, name))

    curves = {
        group: phase.get("startup_curve_ms") or [] for group, phase in found["phases"].items()
    }
    if any(curves.values()):
        figure, axes = pyplot.subplots(figsize=(8, 4.5))
        for group, values in curves.items():
            percents = [100 * (i + 1) / len(values) for i in range(len(values))]
            axes.plot(values, percents, label=f"{group} ({found['phases'][group]['pods']:,} pods)")
        axes.set_xlabel("ms from the creation of the Deployment to Running on a watch")
        axes.set_ylabel("percent of pods")
        axes.set_xscale("log")
        save(figure, axes, "Start-up by phase", "startup.png")
    series = found.get("series") or {"t": []}
    if len(series["t"]) > 1:
        figure, axes = pyplot.subplots(figsize=(8, 4.5))
        times = series["t"]
        for what in ("bound", "running"):
            counts = series[what]
            rates = [
                (counts[i] - counts[i - 1]) / max(times[i] - times[i - 1], 1e-9)
                for i in range(1, len(times))
            ]
            axes.plot(times[1:], rates, label=what)
        axes.set_xlabel("seconds")
        axes.set_ylabel("pods a second")
        save(figure, axes, "Throughput over time", "throughput.png")
    costs = found.get("costs") or {"t": []}
    if len(costs["t"]) > 1:
        made += _costs(costs, pyplot, save)
    return made


def _costs(costs: Object, pyplot: Any, save: Any) -> list[tuple[str, str]]:
    times = costs["t"]
    for title, key, label, name in (
        ("Memory by process", "pss_mb", "PSS MB", "memory.png"),
        ("CPU by process", "cpu_s", "cores", "cpu.png"),
    ):
        figure, axes = pyplot.subplots(figsize=(8, 4.5))
        roles = sorted(costs[key][-1], key=lambda role: -costs[key][-1][role])[:8]
        for role in roles:
            values = [point.get(role, 0.0) for point in costs[key]]
            at = times
            if key == "cpu_s":
                values = [
                    (values[i] - values[i - 1]) / max(times[i] - times[i - 1], 1e-9)
                    for i in range(1, len(times))
                ]
                at = times[1:]
            axes.plot(at, values, label=role)
        axes.set_xlabel("seconds")
        axes.set_ylabel(label)
        save(figure, axes, title, name)
    return []
