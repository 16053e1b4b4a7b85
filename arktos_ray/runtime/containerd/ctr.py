"""Images by way of `ctr`, containerd's own tool: the CRI can pull one, and not be given one."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

from arktos_ray.api import errors
from arktos_ray.base import machine

_NAMESPACE: Final = "k8s.io"  # Where the CRI looks.
_DEADLINE_S: Final = 300.0
_SIZE: Final = re.compile(r" ([0-9.]+ [KMGT]?i?B) ")


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    digest: str
    size: str


def import_images(address: str, archive: bytes | str) -> list[str]:
    """An OCI layout or `docker save` as a tar: its bytes, or its path. The names that came in."""
    if isinstance(archive, bytes):
        said = run(address, "images", "import", "-", stdin=archive)
    else:
        said = run(address, "images", "import", archive)
    return [line.split()[1] for line in said.splitlines() if line.startswith("unpacking ")]


def images(address: str) -> list[Image]:
    """All that have a name; the same one under its digest alone is left out."""
    found = []
    for line in run(address, "images", "list").splitlines()[1:]:
        fields = line.split()
        size = _SIZE.search(line)
        if len(fields) > 2 and not fields[0].startswith("sha256:"):
            found.append(Image(fields[0], fields[2], size[1] if size else ""))
    return found


def names(address: str) -> set[str]:
    return set(run(address, "images", "list", "-q").split())


def run(address: str, *arguments: str, stdin: bytes | None = None) -> str:
    """One command. Raises Unavailable, with what it said."""
    program = shutil.which("ctr", path=machine.SYSTEM_PATH)
    if program is None:
        raise errors.Unavailable("ctr, which comes with containerd, is not installed")
    try:
        done = subprocess.run(
            [program, "--address", address, "-n", _NAMESPACE, *arguments],
            input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True, timeout=_DEADLINE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise errors.Unavailable(f"ctr {arguments[0]}: no end after {_DEADLINE_S:g} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise errors.Unavailable(said.removeprefix("ctr: ") or f"ctr failed: {done.returncode}")
    return done.stdout.decode(errors="replace")
