"""What an ingress counts, and how Prometheus reads it.

Plain integers on the hot path (1 us a request); prometheus_client only sees them at a scrape.
Names as the Kubernetes API server has them, so that its dashboards work.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from arktos_ray.api import scheme

# Upstream's buckets, without those that say nothing new.
_BUCKETS_S = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_VERBS = {"create": "POST", "update": "PUT", "deletecollection": "DELETECOLLECTION"}
_REQUEST_LABELS = ("verb", "group", "version", "resource", "subresource", "code")
_DURATION_LABELS = _REQUEST_LABELS[:-1]

# Tenants with a label of their own; the rest are one. A scrape's size does not grow with tenants.
TENANTS_SHOWN = 20
OTHERS = "other"

Gauges = Callable[[], Mapping[str, tuple[str, float]]]
ByTenant = Callable[[], Mapping[str, tuple[str, Mapping[str, int]]]]


class TenantCounts:
    """A counter by tenant, shown for the busiest only; what the others counted is one figure.

    Who is shown is decided at each scrape. A tenant that loses its label leaves its count to the
    others, one that gets it starts from there: no series ever goes back. Pure.
    """

    def __init__(self, shown: int = TENANTS_SHOWN) -> None:
        self._shown_max = shown
        self._new: dict[str, int] = {}  # since the last scrape
        self._shown: dict[str, int] = {}
        self._others = 0

    def count(self, tenant: str) -> None:
        new = self._new
        new[tenant] = new.get(tenant, 0) + 1

    def scrape(self) -> dict[str, int]:
        new, self._new = self._new, {}
        shown = self._shown
        known = sorted({*shown, *new}, key=lambda t: (-new.get(t, 0), -shown.get(t, 0), t))
        for tenant in known[self._shown_max :]:
            self._others += shown.pop(tenant, 0) + new.pop(tenant, 0)
        for tenant, count in new.items():
            shown[tenant] = shown.get(tenant, 0) + count
        return {**dict(sorted(shown.items())), OTHERS: self._others}


def busiest(of: Mapping[str, int], shown: int = TENANTS_SHOWN) -> dict[str, int]:
    """The largest, and the sum of the rest."""
    ordered = sorted(of.items(), key=lambda item: (-item[1], item[0]))
    return {**dict(ordered[:shown]), OTHERS: sum(count for _, count in ordered[shown:])}


class Metrics(Collector):
    """Counts requests. Labels come from the scheme's table and our codes: they are bounded."""

    def __init__(self, gauges: Gauges, by_tenant: ByTenant) -> None:
        """gauges: name -> (help, value); by_tenant: with a value for each. Asked at each scrape."""
        self._gauges, self._by_tenant = gauges, by_tenant
        self._tenants, self._refused = TenantCounts(), TenantCounts()
        self.count_of, self.count_refused = self._tenants.count, self._refused.count
        self._requests: dict[tuple[str, str, str, int], int] = {}
        self._durations: dict[tuple[str, str, str], tuple[list[int], list[float]]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def count(self, verb: str, gvr: str, subresource: str, code: int, seconds: float) -> None:
        """gvr and subresource must be of a routed call, or empty."""
        if gvr and gvr not in scheme.BY_GVR:
            gvr = _CUSTOM  # Whatever clients write there: names without number.
        requests, key = self._requests, (verb, gvr, subresource, code)
        requests[key] = requests.get(key, 0) + 1
        if verb == "watch":
            return  # As long as its client wants.
        durations = self._durations.get((verb, gvr, subresource))
        if durations is None:
            durations = ([0] * (len(_BUCKETS_S) + 1), [0.0])
            self._durations[verb, gvr, subresource] = durations
        durations[0][bisect_left(_BUCKETS_S, seconds)] += 1
        durations[1][0] += seconds

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "apiserver_request", "Requests by verb, resource and code.", labels=_REQUEST_LABELS
        )
        for (verb, gvr, subresource, code), count in self._requests.items():
            requests.add_metric((*_labels(verb, gvr, subresource), str(code)), count)
        yield requests
        durations = HistogramMetricFamily(
            "apiserver_request_duration_seconds", "Time to answer, watches excepted.",
            labels=_DURATION_LABELS,
        )  # fmt: skip
        for (verb, gvr, subresource), (counts, total) in self._durations.items():
            buckets, so_far = [], 0
            for bound, in_bucket in zip((*_BUCKETS_S, None), counts, strict=True):
                so_far += in_bucket
                buckets.append(("+Inf" if bound is None else str(bound), float(so_far)))
            durations.add_metric(_labels(verb, gvr, subresource), buckets, total[0])
        yield durations
        for name, text, counted in (
            ("arktos_tenant_requests", "Requests by tenant.", self._tenants),
            ("arktos_tenant_requests_refused", "Answered with 429, by tenant.", self._refused),
        ):
            counter = CounterMetricFamily(name, text, labels=("tenant",))
            for tenant, count in counted.scrape().items():
                counter.add_metric((tenant,), count)
            yield counter
        for name, (text, of) in self._by_tenant().items():
            gauge = GaugeMetricFamily(name, text, labels=("tenant",))
            for tenant, amount in busiest(of).items():
                gauge.add_metric((tenant,), amount)
            yield gauge
        for name, (text, value) in self._gauges().items():
            yield GaugeMetricFamily(name, text, value)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics when asked for, else the text format."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


_CUSTOM = "customresources"


def _labels(verb: str, gvr: str, subresource: str) -> tuple[str, str, str, str, str]:
    resource = scheme.BY_GVR.get(gvr)
    group, version, plural = (
        (resource.group, resource.version, resource.plural) if resource else ("", "", gvr)
    )
    return (_VERBS.get(verb, verb.upper()), group, version, plural, subresource)
