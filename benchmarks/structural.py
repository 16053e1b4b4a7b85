"""What a custom object costs: pruning, defaults and validation of 1 KB, and rules in CEL.

PYTHONPATH=. python benchmarks/structural.py
"""

from __future__ import annotations

import copy
import timeit
from typing import Any

import orjson

from arktos_ray.api import cel, structural

TEXT = {"type": "string", "maxLength": 253}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["replicas", "image"],
            "properties": {
                "replicas": {"type": "integer", "minimum": 0, "maximum": 100, "default": 1},
                "image": {"type": "string", "pattern": "^[a-z0-9./:-]+$"},
                "mode": {"type": "string", "enum": ["Fast", "Slow"], "default": "Fast"},
                "paused": {"type": "boolean"},
                "limit": {"x-kubernetes-int-or-string": True},
                "labels": {"type": "object", "additionalProperties": TEXT},
                "ports": {
                    "type": "array",
                    "maxItems": 16,
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "required": ["name", "port"],
                        "properties": {
                            "name": TEXT,
                            "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                            "protocol": {"type": "string", "default": "TCP"},
                        },
                    },
                },
                "args": {"type": "array", "maxItems": 32, "items": TEXT},
            },
        },
        "status": {
            "type": "object",
            "properties": {
                "ready": {"type": "integer"},
                "conditions": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["type"],
                    "items": {
                        "type": "object",
                        "required": ["type", "status"],
                        "properties": {
                            "type": TEXT,
                            "status": TEXT,
                            "reason": TEXT,
                            "message": TEXT,
                            "lastTransitionTime": {"type": "string", "format": "date-time"},
                        },
                    },
                },
            },
        },
    },
}
RULES = [
    {"rule": "self.replicas <= 50 || self.mode == 'Slow'", "message": "too many"},
    {"rule": "self.ports.all(p, p.port != 22)", "message": "not 22"},
    {"rule": "self.image == oldSelf.image", "message": "image is immutable"},
]
OBJECT: dict[str, Any] = {
    "apiVersion": "example.com/v1",
    "kind": "Widget",
    "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web", "tier": "front"}},
    "spec": {
        "replicas": 3,
        "image": "registry.local/team/web:1.2.3",
        "limit": "25%",
        "labels": {f"key-{i}": f"value-{i}" for i in range(8)},
        "ports": [{"name": f"port-{i}", "port": 8000 + i} for i in range(5)],
        "args": [f"--flag-{i}=some-value" for i in range(10)],
    },
    "status": {
        "ready": 3,
        "conditions": [
            {
                "type": kind, "status": "True", "reason": "AllReady",
                "message": "every replica of this widget is ready",
                "lastTransitionTime": "2026-01-02T03:04:05Z",
            }
            for kind in ("Ready", "Progressing")
        ],
    },
}  # fmt: skip


def us(run: Any, times: int = 2000) -> float:
    return min(timeit.repeat(run, number=times, repeat=5)) / times * 1e6


def main() -> None:
    assert not structural.check(SCHEMA)
    plain = structural.compiled(SCHEMA)
    obj = copy.deepcopy(OBJECT)
    assert not plain.prune(obj)
    plain.default(obj)
    assert not plain.validate(obj)
    with_rules = copy.deepcopy(SCHEMA)
    with_rules["properties"]["spec"]["x-kubernetes-validations"] = RULES
    assert not structural.check(with_rules)
    ruled = structural.compiled(with_rules)
    assert not ruled.validate(obj, obj | {"spec": obj["spec"] | {"replicas": 2}})
    old = obj | {"spec": obj["spec"] | {"replicas": 2}}

    print(f"object                {len(orjson.dumps(obj)):7,} bytes")
    print(f"prune                 {us(lambda: plain.prune(obj)):7.1f} us")
    print(f"default               {us(lambda: plain.default(obj)):7.1f} us")
    print(f"validate              {us(lambda: plain.validate(obj)):7.1f} us")
    print(f"validate, three rules {us(lambda: ruled.validate(obj, old)):7.1f} us")
    print(f"compile the schema    {us(lambda: structural.compiled(SCHEMA), 50):7.1f} us")
    print(f"check the schema      {us(lambda: structural.check(SCHEMA), 50):7.1f} us")
    costs()


def costs() -> None:
    """How long what uses all of its budget takes."""
    many = list(range(5000))
    stamp = "timestamp('2024-01-01T00:00:00Z')"
    for text in (
        "self.all(x, self.all(y, x + y >= 0))",
        "self.all(x, self == self)",
        f"self.all(x, self.all(y, {stamp} == {stamp}))",
        "self.all(x, self.all(y, string(y).matches('^[0-9]+$')))",
        "self.map(x, self.map(y, [y])).size() == 0",
    ):
        program = cel.compile(text, {"self": "dyn"})
        budget = cel.Budget(cel.COST_MAX)

        def run(program: cel.Program = program, budget: cel.Budget = budget) -> None:
            budget.left = cel.COST_MAX
            try:
                program.evaluate({"self": many}, budget)
            except cel.CostExceeded:
                return

        print(f"{us(run, 1) / 1000:6.1f} ms, {cel.COST_MAX - max(budget.left, 0):,} units  {text}")


if __name__ == "__main__":
    main()
