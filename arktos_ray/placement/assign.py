"""One batch at work: a copy of the free room, and who gets which row.

Pods of one signature take their nodes from a heap, filled by one vector pass with about as many of
the best nodes as there are pods. Whoever is on top and was touched since is scored again before it
is taken (anchors: equivalence classes with lazy rescoring), so a placement costs a few
microseconds however many nodes there are. Scores fall as a batch fills nodes; `floor` is the best
that was left out of the heap, and falling below it means another pass.

Pods with rules about other pods, or whom a placed pod's anti-affinity keeps away, each take a
vector pass of their own, over counts per topology domain that are kept up to date in the batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arktos_ray.placement import filters, scores
from arktos_ray.placement.pairs import Anchor, Counts, Pairs, spread_term, term_of
from arktos_ray.placement.signature import PodRequest, Port, Signature, SpreadRule
from arktos_ray.placement.tables import Ids, Mask, NodeTable, Scores

# Differences below this are ties, and a throw of the dice decides: schedulers with the same view
# then choose different nodes among equals.
JITTER = 0.01
# Random numbers are thrown once for all nodes and so many more; each batch begins somewhere else in
# them. Throwing 60,000 takes 0.2 ms, twice what the rest of a batch of one pod takes.
MORE_DICE = 4096
NOWHERE = -1
# A pass looks at this many nodes, or at four for each pod that is left of its signature, from a
# start that moves on; at all of them when that is not enough, or when nodes are preferred by
# name or label. The best of a thousand is as good as the best of 60,000, and 10 times cheaper.
WINDOW_MIN = 1024
NODES_PER_POD = 4
ALL = slice(None)
_DICE = ("dice",)  # in the memo of a table
# Refusals by rules about other pods, in the order in which they are reported.
SPREAD_KEY, SPREAD, AFFINITY, ANTI_AFFINITY, OTHERS_ANTI_AFFINITY = (
    "spread_key", "spread", "affinity", "anti_affinity", "others_anti_affinity",
)  # fmt: skip


class Shelf:
    """What is known of one signature in this batch, and its best nodes as a heap."""

    __slots__ = (
        "floor", "heap", "mask", "pods_left", "ports", "refusal", "refused_at", "saw_all",
        "score", "size", "vector", "want", "wanted",
    )  # fmt: skip

    def __init__(self, signature: Signature, pods: int, nodes: NodeTable) -> None:
        self.want = filters.want_of(signature.demand, nodes)
        self.wanted = scores.wanted_of(self.want)
        self.ports = signature.demand.ports
        self.mask = filters.static_mask(signature.node_rules, nodes)
        self.score = scores.static_score(signature.node_rules, nodes)
        self.vector: NDArray[np.int64] = np.zeros(0, np.int64)
        self.pods_left = pods
        self.size = 0
        self.heap: list[tuple[float, int, int]] = []  # (-score, row, stamp)
        self.floor = np.inf  # no pass yet
        self.saw_all = False  # whether the last pass looked at every node
        # Why the last pod of this signature fitted nowhere, and how many were placed by then.
        # Usage only grows within a batch, so none of the pods behind it fits either.
        self.refusal = ""
        self.refused_at = 0


class Domains:
    """How many pods a term means, in each domain of one topology."""

    __slots__ = ("anchor", "counts", "eligible", "ids", "present")

    def __init__(self, anchor: Anchor, ids: Ids, size: int, eligible: Mask | None) -> None:
        self.anchor = anchor
        self.ids = ids  # 0: the node is in no domain
        self.eligible = eligible
        self.counts: NDArray[np.int64] = np.zeros(size, np.int64)
        # Which domains have an eligible node.
        here = ids if eligible is None else ids[eligible]
        self.present: Mask = np.bincount(here, minlength=size) > 0
        self.present[0] = False

    def add(self, row: int, pods: int) -> None:
        domain = self.ids[row]
        if domain and (self.eligible is None or self.eligible[row]):
            self.counts[domain] += pods

    def rows(self) -> Any:
        """By row: the count of the domain that the row is in. 0 outside every domain."""
        return self.counts[self.ids]

    def empty(self) -> Mask:
        """By row: whether its domain has none of the pods. True outside every domain."""
        empty: Mask = (self.counts == 0)[self.ids]
        return empty


class Assignment:
    """The state of one batch. `place` in order; nothing that was passed in is changed."""

    def __init__(
        self,
        nodes: NodeTable,
        pairs: Pairs,
        sizes: Mapping[Signature, int],
        rng: np.random.Generator,
    ) -> None:
        self.nodes = nodes
        self.pairs = pairs
        self._shelves = {s: Shelf(s, pods, nodes) for s, pods in sizes.items()}
        # After the shelves: a new kind of resource may have added a column.
        height = nodes.height
        # The table's own until a pod took room and others follow: a copy of 60,000 nodes is 0.3 ms.
        self.free = nodes.free[:, :height]
        self._is_copy = False
        self._pods_left = sum(sizes.values())
        self._inverse = nodes.inverse[:, :height]
        self._jitter = _dice(nodes, rng)
        for shelf in self._shelves.values():
            shelf.vector = np.zeros(len(nodes.kinds), np.int64)
            for kind, amount in shelf.want:
                shelf.vector[kind] = amount
        self._start = int(rng.integers(height)) if height else 0
        self._stamps: dict[int, int] = {}  # row: how often this batch took from it
        self.taken = 0
        self._ports: dict[int, frozenset[Port]] = dict(nodes.ports)
        self._seats: dict[str, list[tuple[PodRequest, int]]] = {}  # by tenant
        self._domains: dict[str, dict[Any, Domains]] = {}  # by tenant, by what they count
        self._holders: dict[str, dict[Anchor, Domains]] = {}
        self._against: dict[Any, list[Domains]] = {}

    def place(self, pod: PodRequest) -> int:
        """The row that the pod gets, or NOWHERE. 4 us alone; a vector pass when others matter."""
        shelf = self._shelves[pod.signature]
        if pod.signature.alone and not self.held_off(pod):
            row = self._best(shelf)
        else:
            row = self._best_among_others(pod, shelf)
        shelf.pods_left -= 1
        self._pods_left -= 1
        if row != NOWHERE:
            self._take(pod, shelf, row)
        return row

    def shelf(self, pod: PodRequest) -> Shelf:
        return self._shelves[pod.signature]

    # Alone: from the heap.

    def _best(self, shelf: Shelf) -> int:
        if shelf.refusal:
            return NOWHERE
        heap, want, ports = shelf.heap, shelf.want, shelf.ports
        stamps, free = self._stamps, self.free
        while heap:
            cost, row, stamp = heap[0]
            if -cost < shelf.floor:
                break
            now = stamps.get(row, 0)
            if stamp == now:
                return row
            column = free[:, row].tolist()
            if not filters.fits(want, column) or (ports and self._port_taken(ports, row)):
                heapq.heappop(heap)
                continue
            score = scores.room(shelf.wanted, column, self._inverse[:, row].tolist())
            score += float(self._jitter[row])
            if shelf.score is not None:
                score += float(shelf.score[row])
            heapq.heapreplace(heap, (-score, row, now))
        if not heap and shelf.saw_all and shelf.floor == -np.inf:
            return NOWHERE
        self._fill(shelf)
        return shelf.heap[0][1] if shelf.heap else NOWHERE

    def _fill(self, shelf: Shelf) -> None:
        """One vector pass: the best nodes as they are now. 40 us, and 40 ns a node beyond 1,024."""
        height = self.nodes.height
        shelf.size = max(2 * shelf.size, 2 * shelf.pods_left + 32)
        window = max(WINDOW_MIN, NODES_PER_POD * shelf.pods_left)
        # After a pass that was not enough, no more windows.
        if shelf.heap or shelf.floor == np.inf:
            start = self._start if self._start + window <= height else 0
            self._start = start + window
        else:
            start = 0
            window = height
        if shelf.score is not None or 2 * window > height:
            start, window = 0, height
        enough = min(shelf.pods_left, window)
        if self._fill_from(shelf, slice(start, start + window)) < enough and window < height:
            self._fill_from(shelf, slice(0, height))

    def _fill_from(self, shelf: Shelf, part: slice) -> int:
        """Fills the heap from some rows; how many of them are open to the pod."""
        ok = self._open(shelf, part)
        score = self._scored(shelf, ok, part)
        if shelf.pods_left <= 1 or not score.size:
            rows = np.array([score.argmax()] if score.size else [], np.int64)
            shelf.floor = np.inf
        elif shelf.size < score.size:
            order = np.argpartition(score, score.size - shelf.size)
            rows = order[-shelf.size :]
            shelf.floor = float(score[order[: -shelf.size]].max())
        else:
            rows = np.arange(score.size)
            shelf.floor = -np.inf
        shelf.saw_all = score.size == self.nodes.height
        stamps, offset = self._stamps, part.start
        shelf.heap = [
            (-value, row + offset, stamps.get(row + offset, 0))
            for value, row in zip(score[rows].tolist(), rows.tolist(), strict=True)
            if value != -np.inf
        ]
        heapq.heapify(shelf.heap)
        return int(np.count_nonzero(ok))

    def _open(self, shelf: Shelf, part: slice = ALL) -> Mask:
        """Where the pod may go, other pods aside."""
        ok: Mask = shelf.mask[part] & filters.fits(shelf.want, self.free[:, part])
        return ok & self.ports_free(shelf.ports)[part] if shelf.ports else ok

    def ports_free(self, ports: tuple[Port, ...]) -> Mask:
        ok = np.ones(self.nodes.height, np.bool_)
        for row, taken in self._ports.items():
            if filters.ports_clash(ports, taken):
                ok[row] = False
        return ok

    def _port_taken(self, ports: tuple[Port, ...], row: int) -> bool:
        return filters.ports_clash(ports, self._ports.get(row, ()))

    def _scored(self, shelf: Shelf, ok: Mask, part: slice = ALL) -> Scores:
        free, inverse = self.free[:, part], self._inverse[:, part]
        score: Scores = scores.room(shelf.wanted, free, inverse)
        score += self._jitter[part]
        if shelf.score is not None:
            score += shelf.score[part]
        score[~ok] = -np.inf
        return score

    def _take(self, pod: PodRequest, shelf: Shelf, row: int) -> None:
        self.taken += 1
        if self._pods_left <= 0:
            return  # Nobody comes after it.
        if not self._is_copy:
            self.free, self._is_copy = self.free.copy(), True
        self.free[:, row] -= shelf.vector
        self._stamps[row] = self._stamps.get(row, 0) + 1
        if shelf.ports:
            self._ports[row] = self._ports.get(row, frozenset()) | frozenset(shelf.ports)
        tenant = pod.tenant
        self._seats.setdefault(tenant, []).append((pod, row))
        for domains in self._domains.get(tenant, {}).values():
            if self.pairs.covers(domains.anchor.term, pod):
                domains.add(row, 1)
        anti_affinity = pod.signature.pod_rules.anti_affinity
        if anti_affinity:
            holders = self._holders_of(tenant)
            for rule in anti_affinity:
                anchor = term_of(rule, pod)
                if anchor not in holders:
                    holders[anchor] = self._new_domains(anchor, None)
                    self._against.clear()
                holders[anchor].add(row, 1)

    # Among others: one pass each.

    def _best_among_others(self, pod: PodRequest, shelf: Shelf) -> int:
        ok = self._open(shelf)
        for _, allowed in self.judge(pod):
            ok &= allowed
        if not ok.any():
            return NOWHERE
        score = self._scored(shelf, ok)
        for preference in self._pod_preferences(pod, ok):
            score += preference
        return int(score.argmax())

    def judge(self, pod: PodRequest) -> Iterator[tuple[str, Mask]]:
        """Each rule about other pods: its name, and the rows that it lets the pod onto."""
        rules = pod.signature.pod_rules
        hard = tuple(rule for rule in rules.spread if rule.hard)
        if hard:
            yield SPREAD_KEY, self._has_keys(hard)
        for rule in hard:
            domains = self._spread_domains(pod, rule, hard)
            counts = domains.counts[domains.present]
            fewest = int(counts.min()) if counts.size >= rule.min_domains and counts.size else 0
            itself = self.pairs.covers(domains.anchor.term, pod)
            yield SPREAD, (domains.counts + (itself - fewest) <= rule.max_skew)[domains.ids]
        if rules.affinity:
            yield AFFINITY, self._near(pod)
        for term in rules.anti_affinity:
            yield ANTI_AFFINITY, self._domains_of(term_of(term, pod)).empty()
        for domains in self._holders_against(pod):
            yield OTHERS_ANTI_AFFINITY, domains.empty()

    def held_off(self, pod: PodRequest) -> bool:
        """Whether some placed pod's anti-affinity means this one."""
        if pod.tenant not in self._holders and not self.pairs.holders(pod.tenant):
            return False
        return bool(self._holders_against(pod))

    def _near(self, pod: PodRequest) -> Mask:
        ok = np.ones(self.nodes.height, np.bool_)
        with_key = ok.copy()
        found = 0
        anchors = [term_of(rule, pod) for rule in pod.signature.pod_rules.affinity]
        for anchor in anchors:
            domains = self._domains_of(anchor)
            found += int(domains.counts.sum())
            with_key &= domains.ids != 0
            ok &= ~domains.empty()
        # The first of a group that wants to be near itself may start anywhere.
        if not found and all(self.pairs.covers(anchor.term, pod) for anchor in anchors):
            return with_key
        return ok

    def _pod_preferences(self, pod: PodRequest, ok: Mask) -> Iterator[Scores]:
        rules = pod.signature.pod_rules
        if rules.preferred:
            total = np.zeros(self.nodes.height)
            for weight, rule in rules.preferred:
                total += weight * self._domains_of(term_of(rule, pod)).rows()
            lowest = float(total.min(initial=0.0, where=ok))
            yield scores.normalised(total - lowest, ok) * scores.POD_RULES_WEIGHT
        soft = tuple(rule for rule in rules.spread if not rule.hard)
        for spread in soft:
            domains = self._spread_domains(pod, spread, soft)
            crowd = scores.normalised(domains.rows().astype(np.float64), ok)
            # Outside every domain is worse than the most crowded one.
            crowd[domains.ids == 0] = 100.0
            yield (100 - crowd) * (scores.POD_RULES_WEIGHT / len(soft))

    def _has_keys(self, rules: tuple[SpreadRule, ...]) -> Mask:
        keys = frozenset(rule.topology_key for rule in rules)
        known: Mask | None = self.nodes.memo.get(("keys", keys))
        if known is None:
            known = np.ones(self.nodes.height, np.bool_)
            for key in keys:
                known &= self._topology(key)[0] != 0
            self.nodes.remember(("keys", keys), known)
        return known

    def _spread_domains(
        self, pod: PodRequest, rule: SpreadRule, beside: tuple[SpreadRule, ...]
    ) -> Domains:
        """Counts over the nodes that a spread rule looks at."""
        node_rules = pod.signature.node_rules
        anchor = spread_term(rule, pod)
        keys = tuple(other.topology_key for other in beside)
        key = (anchor, node_rules, rule.honor_affinity, rule.honor_taints, keys)
        known = self._domains.get(pod.tenant, {}).get(key)
        if known is not None:
            return known
        eligible = self.nodes.live[: self.nodes.height] & self._has_keys(beside)
        for honored, judge in (
            (rule.honor_affinity, filters.node_affinity),
            (rule.honor_taints, filters.taints),
        ):
            allowed = judge(node_rules, self.nodes) if honored else None
            if allowed is not None:
                eligible &= allowed
        return self._keep(key, self._new_domains(anchor, eligible))

    def _domains_of(self, anchor: Anchor) -> Domains:
        known = self._domains.get(anchor.term.tenant, {}).get(anchor)
        if known is not None:
            return known
        return self._keep(anchor, self._new_domains(anchor, None))

    def _keep(self, key: Any, domains: Domains) -> Domains:
        """Counts the pods that are placed, before and in this batch; `_take` counts on."""
        term = domains.anchor.term
        self._add_counts(domains, self.pairs.counts(term))
        for pod, row in self._seats.get(term.tenant, ()):
            if self.pairs.covers(term, pod):
                domains.add(row, 1)
        self._domains.setdefault(term.tenant, {})[key] = domains
        return domains

    def _holders_of(self, tenant: str) -> dict[Anchor, Domains]:
        holders = self._holders.get(tenant)
        if holders is None:
            holders = self._holders[tenant] = {}
            for anchor, counts in self.pairs.holders(tenant).items():
                holders[anchor] = self._new_domains(anchor, None)
                self._add_counts(holders[anchor], counts)
        return holders

    def _holders_against(self, pod: PodRequest) -> list[Domains]:
        key = (pod.tenant, pod.namespace, frozenset(pod.labels.items()))
        known = self._against.get(key)
        if known is None:
            known = self._against[key] = [
                domains
                for anchor, domains in self._holders_of(pod.tenant).items()
                if self.pairs.covers(anchor.term, pod)
            ]
        return known

    def _new_domains(self, anchor: Anchor, eligible: Mask | None) -> Domains:
        ids, size = self._topology(anchor.topology_key)
        return Domains(anchor, ids, size, eligible)

    def _add_counts(self, domains: Domains, counts: Counts) -> None:
        row_of = self.nodes.row_of
        for node, pods in counts.items():
            row = row_of.get(node)
            if row is not None:
                domains.add(row, pods)

    def _topology(self, key: str) -> tuple[Ids, int]:
        """The domain of each row, and one more than the highest."""
        column = self.nodes.labels.get(key)
        if column is None:
            return np.zeros(self.nodes.height, np.int32), 1
        return column.ids[: self.nodes.height], len(column.texts)


def _dice(nodes: NodeTable, rng: np.random.Generator) -> Scores:
    """A small random number for each row, other ones for each batch."""
    height = nodes.height
    pool: Scores | None = nodes.memo.get(_DICE)
    if pool is None or pool.size < height + MORE_DICE:
        pool = rng.random(height + max(height, MORE_DICE)) * JITTER
        nodes.remember(_DICE, pool)
    start = int(rng.integers(pool.size - height + 1))
    return pool[start : start + height]
