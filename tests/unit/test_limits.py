"""docs/limits.md says what the code says, and leaves no limit out."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import arktos_ray

CODE = Path(arktos_ray.__file__).parent
PAGE = (CODE.parent / "docs" / "limits.md").read_text()
ROW = re.compile(r"\| `([\w.]+)` \| [^|]+ \| ([\d,.]+) ([^|]+?) \| [^|]+ \|")
ROWS = ROW.findall(PAGE)
SIZES = {"KiB": 1 << 10, "MiB": 1 << 20}
# Where objects are described, or a measurement: their limits bound no queue.
OF_OBJECTS = ("api", "bench", "testing", "placement", "tenancy")


def value_of(where: str) -> Any:
    parts = where.split(".")
    depth = next(i for i, part in enumerate(parts) if not part.islower() or part.startswith("_"))
    found: Any = importlib.import_module(".".join(("arktos_ray", *parts[:depth])))
    for part in parts[depth:]:
        fields = getattr(found, "__dataclass_fields__", {})
        found = fields[part].default if part in fields else getattr(found, part)
    return found


@pytest.mark.parametrize(("where", "limit", "unit"), ROWS, ids=[row[0] for row in ROWS])
def test_a_limit_is_what_the_page_says(where: str, limit: str, unit: str) -> None:
    assert value_of(where) == int(limit.replace(",", "")) * SIZES.get(unit, 1)


def limits() -> Iterator[str]:
    """Every name that ends like a limit, where it is defined: module.NAME or module.Class.field."""
    for path in sorted(CODE.rglob("*.py")):
        parts = path.relative_to(CODE).with_suffix("").parts
        if parts[0] in OF_OBJECTS:
            continue
        module = ".".join(part for part in parts if part != "__init__")
        for node in ast.parse(path.read_text()).body:
            for target in _targets(node):
                if re.search(r"_MAX(_S)?$", target):
                    yield f"{module}.{target}"
            if isinstance(node, ast.ClassDef) and node.name.endswith("Limits"):
                for inner in node.body:
                    for target in _targets(inner):
                        if target.endswith("_max"):
                            yield f"{module}.{node.name}.{target}"


def _targets(node: ast.stmt) -> Iterator[str]:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    for target in targets:
        for name in target.elts if isinstance(target, ast.Tuple) else [target]:
            if isinstance(name, ast.Name):
                yield name.id


def test_no_limit_is_missing_on_the_page() -> None:
    named = set(re.findall(r"`([\w.]+)`", PAGE))
    assert sorted(set(limits()) - named) == []
    assert len(ROWS) > 60
