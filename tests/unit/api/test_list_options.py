from __future__ import annotations

import pytest

from arktos_ray.api.errors import BadRequest, Invalid
from arktos_ray.api.list_options import check

EXACT, NOT_OLDER = "Exact", "NotOlderThan"


@pytest.mark.parametrize(
    ("watch", "options"),
    [
        (False, {}),
        (False, {"resourceVersion": "0"}),
        (False, {"resourceVersion": "7", "resourceVersionMatch": EXACT}),
        (False, {"resourceVersion": "0", "resourceVersionMatch": NOT_OLDER}),
        (False, {"continue": "x"}),
        (False, {"continue": "x", "resourceVersion": "0"}),
        (True, {"resourceVersion": "7"}),
        (True, {"sendInitialEvents": "true", "resourceVersionMatch": NOT_OLDER}),
        (True, {"sendInitialEvents": "false", "resourceVersionMatch": NOT_OLDER}),
    ],
)
def test_what_clients_send_is_accepted(watch: bool, options: dict[str, str]) -> None:
    check(options, watch=watch)


@pytest.mark.parametrize(
    ("watch", "options", "field"),
    [
        (False, {"resourceVersionMatch": EXACT}, "resourceVersionMatch"),
        (False, {"resourceVersionMatch": NOT_OLDER}, "resourceVersionMatch"),
        (False, {"resourceVersionMatch": EXACT, "resourceVersion": "0"}, "resourceVersionMatch"),
        (False, {"resourceVersionMatch": "x", "resourceVersion": "7"}, "resourceVersionMatch"),
        (
            False,
            {"resourceVersionMatch": EXACT, "resourceVersion": "7", "continue": "x"},
            "resourceVersionMatch",
        ),
        (False, {"sendInitialEvents": "true"}, "sendInitialEvents"),
        (True, {"sendInitialEvents": "true"}, "resourceVersionMatch"),
        (True, {"resourceVersionMatch": NOT_OLDER}, "resourceVersionMatch"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_field(
    watch: bool, options: dict[str, str], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        check(options, watch=watch)

    assert refused.value.details is not None
    assert [c["field"] for c in refused.value.details["causes"]] == [field]


def test_a_page_is_of_its_own_revision() -> None:
    with pytest.raises(BadRequest):
        check({"continue": "x", "resourceVersion": "7"}, watch=False)
