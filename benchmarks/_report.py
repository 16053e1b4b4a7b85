"""What every benchmark here shares: the machine, progress, tables, and the JSON beside them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import platform
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

# As in the actors: objects of the API are trees, and need no search for cycles.
gc.set_threshold(50_000, 50, 100)

RESULTS = Path(__file__).parent / "results"
console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=110)  # In a file, lines need not fit a window.

_ROOT = Path(__file__).parent.parent
# Above this, somebody else uses the machine, and the figures say more about them.
_QUIET_LOAD = 1.0
# How long a benchmark waits for that; BENCH_WAIT_S in the environment says otherwise.
_WAIT_S = 30.0


def machine() -> dict[str, Any]:
    """What the figures depend on and cannot show."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "arktos_ray")),
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    with contextlib.suppress(OSError):
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()
    return ""


class Report:
    """One run of one benchmark: `add` its figures, `table` what people read, `save` at the end."""

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        self.name, self.parameters = name, parameters
        self.figures: dict[str, Any] = {}
        self.notes: list[str] = []
        self._began = datetime.now(UTC)
        self._load_before = os.getloadavg()
        if self._load_before[0] > _QUIET_LOAD:
            self.note(f"the machine was busy before: load {self._load_before[0]:.2f}")

    def note(self, text: str) -> None:
        """Something that whoever reads the figures must know."""
        self.notes.append(text)
        console.print(f"[yellow]note[/yellow] {text}")

    def add(self, key: str, value: Any) -> None:
        self.figures[key] = value

    def save(self) -> Path:
        """benchmarks/results/<name>-<date>.json"""
        load_after = os.getloadavg()
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}-{self._began:%Y%m%d-%H%M%S}.json"
        whole = {
            "benchmark": self.name,
            "began": self._began.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(UTC) - self._began).total_seconds(), 1),
            "machine": {
                **machine(),
                "load_before": [round(x, 2) for x in self._load_before],
                "load_after": [round(x, 2) for x in load_after],
            },
            "parameters": self.parameters,
            "notes": self.notes,
            "figures": self.figures,
        }
        path.write_text(json.dumps(whole, indent=1, default=str) + "\n")
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        console.print(
            f"[dim]load {self._load_before[0]:.2f} before, {load_after[0]:.2f} after;"
            f" written to {shown}[/dim]"
        )
        return path


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """The first column is a name, the others are figures."""
    shown = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        shown.add_row(*(figure(cell) for cell in row))
    console.print(shown)


def figure(value: Any) -> str:
    """A number with the digits that mean something."""
    if value is None:
        return "-"
    if isinstance(value, float):
        if value != value:
            return "-"
        magnitude = abs(value)
        if magnitude >= 100:
            return f"{value:,.0f}"
        return f"{value:.1f}" if magnitude >= 10 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), console=console, transient=True, refresh_per_second=2,
        disable=not console.is_terminal,
    ) as bars:  # fmt: skip
        yield bars


@contextlib.asynccontextmanager
async def watched(
    title: str, total: float | None, count: Callable[[], float]
) -> AsyncIterator[None]:
    """A bar that looks twice a second how far it is: costs what is measured nothing."""
    with progress() as bars:
        bar = bars.add_task(title, total=total)

        async def look() -> None:
            while True:
                bars.update(bar, completed=count())
                await asyncio.sleep(0.5)

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()


def wait_quiet(report: Report, load: float = _QUIET_LOAD) -> None:
    """Give the one-minute load a while to come down; note it when it does not."""
    until = time.monotonic() + float(os.environ.get("BENCH_WAIT_S", _WAIT_S))
    with console.status("waiting for a quiet machine"):
        while os.getloadavg()[0] > load and time.monotonic() < until:
            time.sleep(1.0)
    if os.getloadavg()[0] > load:
        report.note(f"measured at a load of {os.getloadavg()[0]:.2f}")
