"""Random stories in the simulator, seed after seed: what `make sim` runs.

    python tools/sim_runner.py --seeds 1000     two processes; stops soon after the first failure
    python tools/sim_runner.py --seed 7         one seed, with its whole failure

A seed plays every story in tests/sim that is named here. It prints how fast it goes, and in the
end which faults were injected and which states were reached, how often: what was never reached is
not tested, whatever the number of seeds. Each failure names the command that replays it.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STORIES = ("consistency", "region")
# What a run of some hundred seeds must have met; docs/simulator.md says what each one is.
EXPECTED = (
    "crash", "crash during recovery", "crash during start", "crash while down",
    "crash while stalled", "crash with a commit under way", "torn record at a crash",
    "unacknowledged commit that survived", "stall", "stall during start", "stall with replacement",
    "connection lost before a frame", "connection lost after a frame", "network cut", "frame late",
    "clock step forward", "clock step back", "disk full", "disk fails", "disk slow",
    "start refused", "node fails", "resource partition away for long", "watch resumed",
    "relist after Expired", "list expired between pages", "informer began anew after Expired",
    "feed relisted after Expired", "reservation refused", "reservation without an answer",
    "reservation found after a lost answer", "reservation overdue", "bind without an answer",
    "bind refused", "usage feed broken", "controller retried", "node silent", "evicted",
    "tenant moved", "move given up", "tenant partition added", "resource partition added",
    "partition drained", "partition removed",
)  # fmt: skip
# A seed takes a second or two of CPU; one that takes this long goes round in circles.
SEED_S_MAX = 120


@dataclass
class Result:
    """What one seed of one story came to."""

    seed: int
    story: str
    failure: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    operations: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0


@dataclass
class Total:
    """What all of them came to."""

    seeds: int = 0
    plays: int = 0
    failures: list[Result] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def add(self, result: Result) -> None:
        self.plays += 1
        self.counts.update(result.counts)
        self.operations += result.operations
        self.virtual_s += result.virtual_s
        self.cpu_s += result.cpu_s
        if result.failure:
            self.failures.append(result)

    def rates(self) -> str:
        wall = max(self.wall_s, 1e-9)
        parts = (
            f"{self.plays / len(STORIES) / wall:.1f} seeds/s",
            f"{self.virtual_s / wall:,.0f} virtual s/s",
            f"{self.operations / wall:,.0f} operations/s",
            f"{self.cpu_s / max(self.plays, 1):.2f} CPU s a story",
        )
        return ", ".join(parts)

    def coverage(self) -> str:
        lines = [f"  {self.counts[what]:>9,}  {what}" for what in EXPECTED if self.counts[what]]
        others = sorted(what for what in self.counts if what not in EXPECTED and self.counts[what])
        lines += [f"  {self.counts[what]:>9,}  {what}" for what in others]
        never = self.never()
        lines.append("never reached: " + (", ".join(never) if never else "nothing"))
        return "\n".join(lines)

    def never(self) -> list[str]:
        return [what for what in EXPECTED if not self.counts[what]]


def play(story: str, seed: int) -> Result:
    """One story with one seed, in this process."""
    directory = str(Path(__file__).resolve().parent.parent / "tests" / "sim")
    if directory not in sys.path:
        sys.path.insert(0, directory)
    module: Any = importlib.import_module(story)

    def too_long(*_: object) -> None:
        raise TimeoutError(f"seed {seed} of {story} takes more than {SEED_S_MAX} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SEED_S_MAX)
    started = time.process_time()
    result = Result(seed, story)
    try:
        played = module.play(seed)
        result.counts = played.counts
        result.operations, result.virtual_s = played.operations, played.virtual_s
    except Exception as error:
        result.failure = "".join(traceback.format_exception(error))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    result.cpu_s = time.process_time() - started
    return result


def run(
    seeds: Iterable[int], *, jobs: int = 2, stories: Iterable[str] = STORIES,
    progress: Callable[[Total], None] | None = None, failures_max: int = 1,
) -> Total:  # fmt: skip
    """Plays them all, or until so many failed."""
    total, started = Total(), time.monotonic()
    todo = iter([(story, seed) for seed in seeds for story in stories])
    # Fresh interpreters: what a test runner has patched or started stays with it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_quiet) as pool:
        running: set[Future[Result]] = set()
        while True:
            while len(running) < 2 * jobs and len(total.failures) < failures_max:
                following = next(todo, None)
                if following is None:
                    break
                running.add(pool.submit(play, *following))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                total.add(each.result())
            total.wall_s = time.monotonic() - started
            if progress is not None:
                progress(total)
    return total


def _quiet() -> None:
    # The stories count what the parts say in their logs; nobody reads it here.
    logging.getLogger("arktos_ray").addHandler(logging.NullHandler())
    logging.getLogger("arktos_ray").propagate = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one, with its whole failure")
    parser.add_argument("--story", choices=STORIES, help="only this one")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets must be the same each time.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    stories = (given.story,) if given.story else STORIES
    if given.seed is not None:
        _quiet()
        results = [play(story, given.seed) for story in stories]
        for result in results:
            print(f"{result.story}: {result.failure or 'as it should be'}")
            print(f"  {result.virtual_s:.1f} virtual s in {result.cpu_s:.2f} s of CPU")
        return any(result.failure for result in results)
    last = [0.0]

    def progress(total: Total) -> None:
        if total.wall_s - last[0] >= 5.0:
            last[0] = total.wall_s
            print(f"{total.plays:,} stories, {total.rates()}", flush=True)

    total = run(
        range(given.first, given.first + given.seeds), jobs=given.jobs, stories=stories,
        progress=progress,
    )  # fmt: skip
    print(f"{total.plays:,} stories in {total.wall_s:.0f} s: {total.rates()}")
    print(total.coverage())
    for result in total.failures:
        print(f"\nFAILED: seed {result.seed} of {result.story}")
        print(result.failure)
        print(f"replay it:  make sim SEED={result.seed} STORY={result.story}")
    return bool(total.failures)


if __name__ == "__main__":
    sys.exit(main())
