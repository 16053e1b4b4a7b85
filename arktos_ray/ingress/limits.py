"""The limits of one ingress: each with its unit, its reason, and what happens there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    # The API's own limit on a request body (etcd's 1.5 MiB, doubled for patches). Then 413.
    body_bytes_max: int = 3 * 1024 * 1024
    # Long label selectors travel in the URL; the kernel of most proxies stops at 8 KiB. Then 400.
    line_bytes_max: int = 16 * 1024
    header_bytes_max: int = 16 * 1024
    headers_max: int = 64
    # An idle connection costs 40 KB with TLS. The oldest system default is 16K open files.
    # More are closed at once, without a handshake of ours.
    connections_max: int = 10_000
    # Calls of all tenants being answered; 50 KB each beside their bodies. A tenant may have as
    # many as are still free (shares.py). Then 429, for that tenant only.
    calls_max: int = 4_096
    # One tenant alone; more would only wait longer.
    calls_per_tenant_max: int = 1_024
    # More, for the system tenant: nodes and administrators get in when tenants do not.
    calls_reserve: int = 1_024
    # Bodies of requests and of large answers in memory, of all tenants. Answers cannot be refused
    # any more; then the next request is. 429, for that tenant only.
    bytes_max: int = 512 * 1024 * 1024
    bytes_per_tenant_max: int = 128 * 1024 * 1024
    bytes_reserve: int = 256 * 1024 * 1024
    # Requests a second of one tenant at one ingress, watches included; 0: as many as its fair
    # share allows. Then 429.
    requests_per_tenant_per_s: float = 0.0
    # As the Kubernetes API server: 60 s for a request, then 504.
    call_s: float = 60.0
    # A partition that restarts serves again within 3 s. Calls that never reached it, and reads,
    # wait for it this long before they are answered with 503.
    restart_s: float = 5.0
    restart_pause_s: float = 0.1
    # A body that does not arrive within this time is answered with 408 and closed.
    body_s: float = 30.0
    # Time for the headers of a request, from its first byte; also for the first request of a
    # connection. Slower clients are disconnected.
    headers_s: float = 20.0
    tls_handshake_s: float = 10.0
    # Longer than the idle timeout of usual load balancers, so that they close first.
    keepalive_s: float = 180.0
    # What a stalled watcher may cost. Then its stream ends, in order, after a bookmark for who
    # asked for them: it can be resumed where it was.
    watch_backlog_bytes_max: int = 4 * 1024 * 1024
    # All stalled watchers of one tenant together. Then those that are written to end as above.
    watch_stalled_bytes_per_tenant_max: int = 64 * 1024 * 1024
    # Of all tenants. A watch costs about 60 KB with TLS. 429, shared as calls are.
    watches_max: int = 8_000
    # Of one tenant, as for calls. Followed logs count as well.
    watches_per_tenant_max: int = 2_000
    # More, for the system tenant.
    watches_reserve: int = 1_000
    # What a watch keeps for those who join it later: some 50 events, 512 MiB if all were full.
    watch_replay_bytes_max: int = 64 * 1024
    # Bookmarks for who asked, below the idle timeout of usual load balancers.
    watch_bookmark_s: float = 55.0
    # Without timeoutSeconds a watch ends after min..2*min, as upstream, to spread reconnects.
    watch_min_s: float = 1800.0
    # How long a quiet watch waits for the partition to refuse before it sends its headers.
    watch_grace_s: float = 0.05
    # One batch to a partition: decided in one step of its loop. More waits in the next one.
    batch_calls_max: int = 256
    # The same in expected microseconds, so that a batch of writes is no longer than one of reads.
    batch_cost_us_max: int = 8_000
    # Batches of one tenant on their way to one partition, per lane. While so many are, its calls
    # wait and gather.
    batches_in_flight_per_tenant_max: int = 4
    # Of all tenants; a partition that has so much to do is told no more. Calls wait.
    batches_in_flight_max: int = 256
    # Lists go alone. Of one tenant on their way to one partition; more of its lists wait.
    lists_in_flight_per_tenant_max: int = 2
    # Of all tenants: what they cost in memory is bounded by bytes. More wait.
    lists_in_flight_max: int = 64
    # Calls that wait in one lane to one partition. A tenant may have as many as there is room
    # left: alone half. Then 429, for that tenant only.
    lane_waiting_max: int = 4_096
    # Sizes of lists that are remembered, 200 bytes each. At the limit the oldest goes.
    list_sizes_max: int = 10_000
    # Below this, compressing costs more than sending (as upstream).
    gzip_bytes_min: int = 128 * 1024
    # Merged watches: events held back for a partition that lags. Then the watch ends (Expired).
    merge_held_max: int = 100_000
