from __future__ import annotations

from arktos_ray.controllers.scheduling.plan import REFUSALS_MAX, Queue
from arktos_ray.placement.signature import Demand, PodRequest, Signature

SHAPE = Signature(Demand((("pods", 1),)))


def pod(name: str, order: int = 0, priority: int = 0, shape: Signature = SHAPE) -> PodRequest:
    return PodRequest(f"uid-{name}", f"t/x/{name}", "t", "x", {}, priority, order, shape)


def names(batch: list[PodRequest]) -> list[str]:
    return [request.path.rpartition("/")[2] for request in batch]


def test_the_highest_priority_goes_first_then_who_came_first() -> None:
    queue = Queue()
    for request in (pod("late", 3), pod("early", 1), pod("urgent", 2, priority=9)):
        queue.add(request)

    assert names(queue.take(0.0, pods=2)) == ["urgent", "early"]
    assert names(queue.take(0.0)) == ["late"]
    assert queue.take(0.0) == []


def test_a_batch_has_few_enough_signatures_to_be_solved_at_once() -> None:
    queue = Queue()
    for i in range(6):
        queue.add(pod(f"p{i}", i, shape=Signature(SHAPE.demand)))

    assert names(queue.take(0.0, signatures=4)) == ["p0", "p1", "p2", "p3"]
    assert names(queue.take(0.0, signatures=4)) == ["p4", "p5"]


def test_a_pod_that_fits_nowhere_backs_off_longer_each_time_and_sleeps_until_a_change() -> None:
    queue = Queue()
    queue.add(pod("p"))
    now, waits = 100.0, []
    for _ in range(6):
        [request] = queue.take(now)
        queue.failed(request, now)
        queue.changed()
        due = queue.next_due()
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits == [1, 2, 4, 8, 10, 10]

    [request] = queue.take(now)
    queue.failed(request, now)
    assert queue.take(now + 1000) == []
    assert queue.next_due() is None
    assert queue.changed()
    assert queue.take(now + 1000) == [request]


def test_a_change_while_a_pod_is_being_tried_is_not_lost() -> None:
    queue = Queue()
    queue.add(pod("p"))
    [request] = queue.take(0.0)
    queue.changed()
    queue.failed(request, 0.0)

    assert queue.take(1.0) == [request]


def test_a_pod_refused_by_a_ledger_tries_again_at_once_but_not_for_ever() -> None:
    queue = Queue()
    queue.add(pod("p"))
    for _ in range(REFUSALS_MAX):
        [request] = queue.take(0.0)
        queue.refused(request, 0.0)
    [request] = queue.take(0.0)
    queue.refused(request, 0.0)

    assert queue.take(0.0) == []
    assert queue.take(1.0) == [request]


def test_a_pod_that_went_is_not_tried_and_its_successor_of_the_same_name_is() -> None:
    queue = Queue()
    queue.add(pod("p"))
    [old] = queue.take(0.0)
    queue.remove(old.path)
    queue.failed(old, 0.0)
    assert len(queue) == 0

    new = PodRequest("uid-new", old.path, "t", "x", {}, 0, 7, SHAPE)
    queue.add(new)
    queue.failed(old, 0.0)
    assert queue.take(0.0) == [new]


def test_news_of_a_waiting_pod_do_not_shorten_its_backoff_unless_it_asks_for_something_else() -> (
    None
):
    queue = Queue()
    queue.add(pod("p"))
    [request] = queue.take(0.0)
    queue.failed(request, 0.0)

    queue.add(pod("p"))
    assert queue.take(0.5) == []
    queue.add(pod("p", shape=Signature(SHAPE.demand)))
    assert names(queue.take(0.5)) == ["p"]


def test_only_who_waits_for_other_pods_is_woken_when_pods_come_and_go() -> None:
    queue = Queue()
    for name in ("room", "company"):
        queue.add(pod(name))
    for request in queue.take(0.0):
        queue.failed(request, 0.0, sociable=request.path.endswith("company"))
    assert queue.take(1.0) == []

    assert queue.pods_changed()
    assert names(queue.take(1.0)) == ["company"]
    assert queue.changed()
    assert names(queue.take(1.0)) == ["room"]


def test_a_pod_held_out_of_turn_is_not_handed_out_as_well() -> None:
    queue = Queue()
    queue.add(pod("p"))
    held = queue.hold("t/x/p")
    assert held is not None
    assert queue.take(0.0) == []
    assert queue.hold("t/x/p") is None

    queue.delay(held, 0.0)
    assert queue.take(1.0) == [held]
