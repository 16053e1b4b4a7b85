"""`arktos bench`: the command line of the benchmarks."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from arktos_ray.bench import plan as planning
from arktos_ray.bench.plan import CONFIGS, PERCENTS, Impossible

# Lines of progress where there is no terminal: a log of an hour stays readable.
_LINE_EVERY_S = 10.0


class Lines:
    """Plain lines; on a terminal the last one is written over until it is done."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._last = float("-inf")
        self._title = ""
        self._begun = time.monotonic()

    def say(self, line: str) -> None:
        self._clear()
        click.echo(f"{time.monotonic() - self._begun:7.1f} s  {line}", err=True)

    def step(self, title: str, done: float, total: float) -> None:
        now = time.monotonic()
        fresh = title != self._title
        if not fresh and now - self._last < (0.2 if self._terminal else _LINE_EVERY_S):
            return
        self._last, self._title = now, title
        line = f"{now - self._begun:7.1f} s  {title}: {done:,.0f} of {total:,.0f}"
        if self._terminal:
            full = int(30 * done / total) if total else 0
            click.echo(f"\r\x1b[K{line}  [{'#' * full}{'.' * (30 - full)}]", err=True, nl=False)
        elif done:
            click.echo(line, err=True)

    def _clear(self) -> None:
        if self._terminal:
            click.echo("\r\x1b[K", err=True, nl=False)


@click.group()
def bench() -> None:
    """Measure a cluster of this machine."""


@bench.command(context_settings={"max_content_width": 100})
@click.option("--config", type=click.Choice(sorted(CONFIGS)), help="Partitions, nodes and rate of"
              " a published row of Arktos; the other options go before it.")  # fmt: skip
@click.option("--tenant-partitions", type=int, metavar="N", help="[1]")
@click.option("--resource-partitions", type=int, metavar="M", help="[1]")
@click.option("--nodes", type=int, metavar="K", help="Simulated nodes.  [100]")
@click.option("--pods", type=int, metavar="P", help="To fill the cluster with.  [30 a node]")
@click.option("--rate", type=float, metavar="R", help="Measured pods a second, in all.  [20]")
@click.option("--latency-pods", type=int, help="Measured pods, in all.  [one a node, at least 500]")
@click.option("--mode", type=click.Choice(["kubemark", "instant"]), default="kubemark",
              show_default=True, help="Delays of simulated nodes.")  # fmt: skip
@click.option("--https/--handles", "https", default=True, help="How the load comes in.  [https]")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Figures.")
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="A directory for"
              " a page with tables and plots.")  # fmt: skip
@click.option("--data-dir", type=click.Path(path_type=Path), help="Of the cluster; kept afterwards."
              "  [a new one]")  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the data of the cluster.")
def density(
    config: str | None, https: bool, file: Path | None, report: Path | None,
    data_dir: Path | None, keep: bool, **given: Any,
) -> None:  # fmt: skip
    """Fill a cluster of its own with pods, then measure how long more of them take to start.

    Ctrl-C keeps what was measured so far.
    """
    try:
        wanted = planning.parameters(config, through="https" if https else "handles", **given)
    except Impossible as error:
        _fail(str(error), 2)
    if data_dir is not None and data_dir.exists() and any(data_dir.iterdir()):
        _fail(f"--data-dir {data_dir}: it is not empty, and the test wants a cluster of its own", 2)
    from arktos_ray.bench import density as running
    from arktos_ray.bench import report as reporting
    from arktos_ray.bench.cluster import NotStarted, Refused
    from arktos_ray.bench.generate import Refusal

    data = data_dir or Path(tempfile.mkdtemp(prefix="arktos-bench-"))
    progress = Lines()
    try:
        found = running.run(wanted, data.absolute(), progress)
    except (NotStarted, Refused, Refusal, OSError) as error:
        _fail(str(error))
    finally:
        if data_dir is None and not keep:
            shutil.rmtree(data, ignore_errors=True)
    if keep or data_dir is not None:
        progress.say(f"the data of the cluster is in {data}")
    if file is not None:
        reporting.write_json(found, file)
    if report is not None:
        progress.say(f"report: {reporting.write_report(found, report)}")
    _show(found)
    sys.exit(130 if found["interrupted"] else 0)


def _show(found: dict[str, Any]) -> None:
    from arktos_ray.bench.report import shown

    startup = found["startup_ms"]
    for name, value in (
        ("nodes ready", f"{shown(found['nodes_ready_s'])} s"),
        ("throughput", f"{shown(found['pods_per_s'])} pods/s"),
        ("start-up", "  ".join(f"p{p} {shown(startup[f'p{p}'])}" for p in PERCENTS) + "  ms"),
        ("CPU", f"{shown(found['cpu_s_per_1000_pods'])} s for 1,000 pods"),
        ("memory", f"{shown(found['pss_mb'])} MB"),
    ):
        click.echo(f"{name:<12} {value}")
    if found["interrupted"]:
        click.echo("interrupted: these figures are of what was measured until then")


def _fail(message: str, code: int = 1) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
