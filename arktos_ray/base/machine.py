"""What this machine has of what a cluster needs or can use. For `arktos doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PYTHON_MIN = (3, 11)
# The default cluster takes 1.2 GB; 64 files a part, and one for each connection.
_MEMORY_MB_MIN = 2048
_FILES_MIN = 4096
# Where root's programs are, also when the path of whoever asks does not say so.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
SYSTEM_PATH = ":".join(dict.fromkeys([*os.environ.get("PATH", "").split(":"), *_SBIN]))


@dataclass(frozen=True, slots=True)
class Finding:
    """verdict: ok; missing (something optional is not there); bad (it will not work like this)."""

    what: str
    verdict: str
    found: str
    hint: str = ""


def answers(path: Path) -> bool:
    """Whether somebody accepts connections on that Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def lacks_for_containers() -> list[str]:
    """What is missing to run a containerd of our own."""
    lacking = [] if os.geteuid() == 0 else ["root"]
    return lacking + [
        tool for tool in ("containerd", "runc", "ctr") if not shutil.which(tool, path=SYSTEM_PATH)
    ]


def has_systemd() -> bool:
    """Whether systemd runs this machine: then it is the one who makes cgroups."""
    return Path("/run/systemd/system").is_dir()


def address() -> str:
    """The address that others reach this machine by; loopback when it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Of no network. Sends nothing: it asks for the route.
        except OSError:
            return "127.0.0.1"
        found: str = probe.getsockname()[0]
    return found


def examine(home: Path, containerd: Path, free_mb_min: int = 200) -> Iterator[Finding]:
    yield _python()
    yield _system()
    yield _memory()
    yield _disk(home, free_mb_min)
    yield _files()
    yield _rights()
    yield _containerd(containerd)
    yield _tool("runc", "starts containers for containerd", "apt-get install runc")
    yield _tool("kubectl", "any version from 1.27 on is good", "see kubernetes.io/docs/tasks/tools")
    yield _tool("wrk", "measures the ingress (make bench)", "apt-get install wrk")


def examine_for_several(
    ray: str, environment: Mapping[str, str], wanted: Mapping[str, str]
) -> Iterator[Finding]:
    """What a machine of a larger cluster needs. wanted: what Ray should find in its environment."""
    own = address()
    if own.startswith("127."):
        yield Finding("address", "bad", own, "others cannot reach this machine: it has no route")
    else:
        yield Finding("address", "ok", own)
    yield _reached("ray head", ray, "is it started there, and is the port open between you?")
    token = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if environment.get("RAY_AUTH_MODE") != "token":
        hint = "set RAY_AUTH_MODE=token, here and for every `ray start`: else who connects may hang"
        yield Finding("ray token", "bad", "RAY_AUTH_MODE is not token", hint)
    elif not environment.get("RAY_AUTH_TOKEN") and not token.is_file():
        yield Finding("ray token", "bad", f"{token} is not there", "copy it from the head")
    else:
        yield Finding(
            "ray token", "ok", "RAY_AUTH_TOKEN is set" if not token.is_file() else str(token)
        )
    others = [name for name, value in wanted.items() if environment.get(name) != value]
    hint = "a lost machine is noticed later, or calls are slower; cluster.yaml sets them"
    if others:
        yield Finding("ray settings", "missing", ", ".join(others), hint)
    else:
        yield Finding("ray settings", "ok", f"{len(wanted)} as in cluster.yaml")
    redis = environment.get("RAY_REDIS_ADDRESS", "")
    if redis:
        yield _reached("redis", redis, "the head keeps Ray's state there")
    else:
        hint = "without it Ray's head cannot restart: set RAY_REDIS_ADDRESS where the head starts"
        yield Finding("redis", "missing", "RAY_REDIS_ADDRESS is not set", hint)


def _reached(what: str, where: str, hint: str) -> Finding:
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2.0).close()
    except (OSError, ValueError) as error:
        return Finding(what, "bad", f"{where}: {error}", hint)
    return Finding(what, "ok", f"answers at {where}")


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info < _PYTHON_MIN:
        return Finding("python", "bad", found, "3.11 or newer is needed")
    return Finding("python", "ok", f"{found} ({sys.executable})")


def _system() -> Finding:
    found = f"{platform.system()} {platform.release()} {platform.machine()}"
    if platform.system() != "Linux":
        return Finding("system", "bad", found, "Linux is needed")
    return Finding("system", "ok", found)


def _memory() -> Finding:
    total = available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            total = int(value.split()[0]) >> 10
        elif name == "MemAvailable":
            available = int(value.split()[0]) >> 10
    found = f"{available} MB available of {total} MB, {os.cpu_count()} cores"
    if available < _MEMORY_MB_MIN:
        return Finding("memory", "bad", found, f"{_MEMORY_MB_MIN} MB are needed")
    return Finding("memory", "ok", found)


def _disk(home: Path, free_mb_min: int) -> Finding:
    there = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(there).free >> 20
    found = f"{free} MB free at {there}"
    if not os.access(there, os.W_OK):
        return Finding("data directory", "bad", f"{there} may not be written to", "use --data-dir")
    if free < free_mb_min:
        return Finding("data directory", "bad", found, f"{free_mb_min} MB are needed")
    return Finding("data directory", "ok", found)


def _files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _FILES_MIN:
        hint = f"at least {_FILES_MIN}: ulimit -n, or LimitNOFILE= in a systemd unit"
        return Finding("open files", "bad", f"{soft}, at most {hard}", hint)
    return Finding("open files", "ok", f"{soft}, at most {hard}")


def _rights() -> Finding:
    if os.geteuid() == 0:
        return Finding("rights", "ok", "root")
    hint = "a real node (containers on this machine) needs root; all the rest does not"
    return Finding("rights", "missing", f"uid {os.geteuid()}", hint)


def _containerd(path: Path) -> Finding:
    if answers(path):
        return Finding("containerd", "ok", f"answers at {path}")
    if not lacks_for_containers():
        return Finding("containerd", "ok", "installed; `arktos up` starts one of its own")
    if path.exists():
        found, hint = f"{path} does not answer", "is it running, and are you root?"
    elif shutil.which("containerd", path=SYSTEM_PATH):
        found, hint = "installed, not running", "as root, with runc, `arktos up` starts it"
    else:
        found, hint = (
            "not installed",
            "apt-get install containerd: this machine becomes a real node",
        )
    return Finding("containerd", "missing", found, hint)


def _tool(name: str, purpose: str, hint: str) -> Finding:
    found = shutil.which(name, path=SYSTEM_PATH)
    if found:
        return Finding(name, "ok", found)
    return Finding(name, "missing", "not installed", f"{purpose}: {hint}")
