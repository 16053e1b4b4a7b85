"""How soon does a watcher hear of a write, and what does it cost?

One pod is patched at a steady rate while many connections watch its namespace over HTTPS. Each
patch carries a number, so that every delivery is timed, and what is lost, repeated or out of
order is counted. Latency counts from the moment when the patch was sent (and from its answer,
which may come after the event).

The watches are equal, as informers of one program are, and so an ingress reads one stream for all
of them; with --distinct each has a selector of its own, and a stream of its own.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from array import array
from pathlib import Path
from typing import Any

import click
import uvloop
from _cluster import Cluster, cluster, options, shown_costs
from _report import Report, console, progress, table, wait_quiet, watched

from arktos_ray.testing.load import Load, Template, Ticker, connect, percentile, pod, watch_request

_MARKER = b'"example.com/turn":"'
_FIRST = 10_000_000  # eight digits, and never the same as anything else in a pod
_SETTLE_S = 2.0
_OPENING_AT_ONCE = 50


async def measure(
    found: Cluster, tenant: str, watches: int, rate: float, seconds: float, distinct: bool,
    report: Report,
) -> dict[str, Any]:  # fmt: skip
    collection = f"/api/v1/tenants/{tenant}/namespaces/bench/pods"
    roles = found.roles()
    revision = found.revision(collection)
    count = int(rate * seconds)
    sent, answered = array("d", bytes(8 * count)), array("d", bytes(8 * count))
    received: list[tuple[int, float]] = []

    def arrived(number: int) -> None:
        received.append((number - _FIRST, time.perf_counter()))

    # The numbers of an earlier round may not be taken for ours: they are before our revision.
    tickers: list[Ticker] = []

    async def open_one(i: int) -> None:
        extra = {"labelSelector": f"nobody!=w{i}"} if distinct else {}
        request = watch_request(found.endpoint, collection, revision, **extra)
        ticker = await connect(found.endpoint, lambda: Ticker(request, _MARKER, _FIRST, arrived))
        tickers.append(ticker)
        code = await ticker.opened
        if code != 200:
            raise click.ClickException(f"a watch was answered {code}")

    with progress() as bars:
        bar = bars.add_task("opening watches", total=watches)
        for start in range(0, watches, _OPENING_AT_ONCE):
            numbers = range(start, min(start + _OPENING_AT_ONCE, watches))
            await asyncio.gather(*(open_one(i) for i in numbers))
            bars.update(bar, completed=len(tickers))
    await asyncio.sleep(_SETTLE_S)
    patch = b'{"metadata":{"annotations":{"example.com/turn":"\0"}}}'
    template = Template(
        found.endpoint, "PATCH", f"{collection}/target", patch, lengths=[8],
        media="application/merge-patch+json",
    )  # fmt: skip

    def requests() -> Any:
        for number in range(count):
            yield template.render(b"%08d" % (_FIRST + number))

    async with Load(found.endpoint, 1) as load:
        turn = 0

        def on_answer(now: float, code: int) -> None:
            nonlocal turn
            sent[turn], answered[turn] = load.last_sent, now
            turn += 1

        load.on_answer = on_answer
        before, cpu, begun = found.cpu(roles), time.process_time(), time.perf_counter()
        title = f"{watches:,} watches x {rate:g}/s"
        async with watched(title, count * watches, lambda: len(received)):
            outcome = await load.run(requests(), rate=rate)
            until = time.perf_counter() + 10.0
            while len(received) < count * watches and time.perf_counter() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        took = time.perf_counter() - begun
        client_cpu = time.process_time() - cpu
        spent = before.until(found.cpu(roles))
    if outcome.bad:
        report.note(f"{outcome.bad} patches failed; the first: {outcome.first_refusal}")
    misplaced = sum(ticker.misplaced for ticker in tickers)
    broken = sum(ticker.lost for ticker in tickers)
    size = sum(ticker.bytes_read for ticker in tickers) / max(len(received), 1)
    for ticker in tickers:
        ticker.close()
    from_sending = array("d", sorted(at - sent[i] for i, at in received))
    from_answer = array("d", sorted(at - answered[i] for i, at in received))
    deliveries = max(len(received), 1)
    # What the cluster and we do anyway (leases, health, sleeping) is in here: 1 watch shows it.
    return {
        "watches": watches,
        "rate": rate,
        "distinct": distinct,
        "deliveries": len(received),
        "missing": count * watches - len(received),
        "misplaced": misplaced,
        "connections_lost": broken,
        "event_bytes": round(size),
        "p50_ms": round(percentile(from_sending, 50) * 1e3, 2),
        "p99_ms": round(percentile(from_sending, 99) * 1e3, 2),
        "max_ms": round(from_sending[-1] * 1e3, 2) if from_sending else None,
        "p50_from_answer_ms": round(percentile(from_answer, 50) * 1e3, 2),
        "p99_from_answer_ms": round(percentile(from_answer, 99) * 1e3, 2),
        "server_us_per_delivery": round(sum(spent.values()) / deliveries * 1e6, 1),
        "client_us_per_delivery": round(client_cpu / deliveries * 1e6, 1),
        "server_cores": {
            "all": round(sum(spent.values()) / took, 3),
            **{role: round(s / took, 3) for role, s in spent.items()},
        },
    }


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@options(nodes=0, mode="instant")
@click.option("--watches", default="1,100,1000", show_default=True)
@click.option("--rate", type=float, default=20.0, show_default=True, help="Patches a second.")
@click.option("--seconds", type=float, default=15.0, show_default=True, help="For each figure.")
@click.option("--distinct", is_flag=True, help="A selector of its own for each watch.")
def main(
    kubeconfig: Path | None, nodes: int, mode: str, settings: tuple[str, ...], watches: str,
    rate: float, seconds: float, distinct: bool,
) -> None:  # fmt: skip
    numbers = [int(part) for part in watches.split(",") if part]
    report = Report("watch", {"rate": rate, "seconds": seconds, "distinct": distinct})
    rows: list[dict[str, Any]] = []
    with cluster(kubeconfig, nodes, mode, settings, report) as found:
        [tenant] = found.make_tenants(1, secrets.token_hex(3))
        target = pod("target", scheduler="benchmark")
        found.request("POST", f"/api/v1/tenants/{tenant}/namespaces/bench/pods", target)
        wait_quiet(report)
        rows += [
            uvloop.run(measure(found, tenant, number, rate, seconds, distinct, report))
            for number in numbers
        ]
    table(
        f"watches over HTTPS, {rate:g} events a second each, from the sending of the write",
        ("watches", "deliveries", "missing", "p50 ms", "p99 ms", "max ms", "server us", "own us"),
        [
            (
                r["watches"], r["deliveries"], r["missing"] + r["misplaced"], r["p50_ms"],
                r["p99_ms"], r["max_ms"], r["server_us_per_delivery"], r["client_us_per_delivery"],
            )
            for r in rows
        ],
    )  # fmt: skip
    console.print("us are CPU for one delivery. Cores in use, by role:")
    for r in rows:
        console.print(f"  {r['watches']:,} watches: {shown_costs(r['server_cores'])}")
    report.add("watches", rows)
    report.save()


if __name__ == "__main__":
    main()
