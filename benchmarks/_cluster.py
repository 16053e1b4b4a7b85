"""The cluster that a benchmark measures: one that runs, or one of its own."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from _report import Report, console

from arktos_ray.bench.cluster import (
    Cluster as Cluster,
)
from arktos_ray.bench.cluster import (
    NotStarted,
    started,
)
from arktos_ray.bench.cluster import (
    Refused as Refused,
)
from arktos_ray.bench.cluster import (
    per_thousand as per_thousand,
)
from arktos_ray.bench.cluster import (
    shown_costs as shown_costs,
)
from arktos_ray.testing.load import target

_READY_DEADLINE_S = 120.0


def options(nodes: int, mode: str) -> Callable[[Any], Any]:
    """The options that say which cluster; with the defaults of one of our own."""

    def add(command: Any) -> Any:
        for option in (
            click.option(
                "--kubeconfig", type=click.Path(path_type=Path, exists=True),
                help="Measure this running cluster (.arktos/admin.kubeconfig)."
                "  [start one, and stop it afterwards]",
            ),
            click.option(
                "--nodes", type=int, default=nodes, show_default=True,
                help="Simulated nodes of a cluster of our own.",
            ),
            click.option(
                "--mode", type=click.Choice(["kubemark", "instant"]), default=mode,
                show_default=True, help="Delays of its simulated nodes.",
            ),
            click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                help="More settings for a cluster of our own, as in arktos.yaml."),
        ):  # fmt: skip
            command = option(command)
        return command

    return add


@contextlib.contextmanager
def cluster(
    kubeconfig: Path | None, nodes: int, mode: str, settings: tuple[str, ...], report: Report
) -> Iterator[Cluster]:
    """The running cluster, or one of our own until the end."""
    if kubeconfig is not None:
        found = Cluster(target(kubeconfig), kubeconfig)
        try:
            yield found
        finally:
            found.clear()
        return
    with own_cluster(nodes, mode, settings) as found:
        report.parameters["cluster"] = {"nodes": nodes, "mode": mode, "settings": list(settings)}
        yield found


@contextlib.contextmanager
def own_cluster(
    nodes: int, mode: str, settings: tuple[str, ...] = (), *, wait: bool = True
) -> Iterator[Cluster]:
    """wait: until its nodes are registered."""
    home = Path(tempfile.mkdtemp(prefix="arktos-bench-"))
    data = home / "cluster"
    file = home / "arktos.yaml"
    # A stopped scheduler makes a backlog; nobody may take it for a hung one.
    lines = ["health-failures-max: 1000", *(s.replace("=", ": ", 1) for s in settings)]
    file.write_text("\n".join(lines) + "\n")
    arguments = (
        "--simulated-nodes", str(nodes), "--simulated-mode", mode, "--config", str(file)
    )  # fmt: skip
    try:
        with contextlib.ExitStack() as stack:
            with console.status(f"starting a cluster of {nodes:,} simulated nodes"):
                found = stack.enter_context(started(data, *arguments))
                until = time.monotonic() + _READY_DEADLINE_S
                while wait and found.nodes() < nodes:
                    if time.monotonic() > until:
                        raise click.ClickException(f"only {found.nodes()} of {nodes} nodes came")
                    time.sleep(0.5)
            console.print(f"[dim]cluster up in {found.up_seconds:.1f} s[/dim]")
            yield found
    except NotStarted as error:
        raise click.ClickException(str(error)) from error
    finally:
        shutil.rmtree(home, ignore_errors=True)
