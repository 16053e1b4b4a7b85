"""NodeRestriction: agents of nodes write themselves, their leases and statuses of their pods."""

from __future__ import annotations

from typing import Any

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.tenancy import nodes

Object = dict[str, Any]


def check_node(call: Call, new: Object, old: Object | None) -> None:
    node = nodes.node_of(call.user)
    if node:
        _refuse("nodes", new, nodes.wrong_node(node, new, old))


def check_lease(call: Call, new: Object) -> None:
    node, name = nodes.node_of(call.user), new["metadata"].get("name")
    if node and name != node:
        _refuse("leases", new, f'node "{node}" may only have a lease with its own name')


def check_status(call: Call, new: Object, old: Object) -> None:
    if nodes.node_of(call.user):
        _refuse("pods", new, nodes.wrong_status(new, old))


def _refuse(plural: str, obj: Object, why: str) -> None:
    if why:
        raise errors.Forbidden(f'{plural} "{obj["metadata"].get("name", "")}" is forbidden: {why}')
