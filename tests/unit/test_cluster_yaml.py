"""What `ray up` reads: Ray takes it, every command parses, and every flag of ours exists."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from arktos_ray import cli
from arktos_ray.actors.machines import RAY_ENVIRONMENT, ZONE_LABEL
from arktos_ray.base import processes
from arktos_ray.config import Config

ROOT = Path(__file__).parents[2]
# Flags of etcd as the store of logs.
ETCD = {"--storage", "--etcd-endpoints"}
FILES = ("cluster.yaml", "cluster-aws.yaml")
COMMANDS = ("setup_commands", "head_setup_commands", "head_start_ray_commands",
            "worker_start_ray_commands")  # fmt: skip


def loaded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return found


def commands(name: str) -> Iterator[str]:
    for key in COMMANDS:
        yield from loaded(name).get(key, ())


def flags_of(program: str, name: str) -> Iterator[str]:
    for command in commands(name):
        words = shlex.split(command)
        for at, word in enumerate(words[:-1]):
            if word.endswith(f"/{program}") and words[at + 1] in ("up", "start"):
                yield from (w.partition("=")[0] for w in words[at + 2 :] if w.startswith("--"))


def in_ray(program: str, *arguments: str) -> str:
    """What it prints in a process of its own: no other unit test loads Ray's command line."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name: str) -> None:
    checked = in_ray(
        "import sys, yaml\n"
        "from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "config = prepare_config(yaml.safe_load(open(sys.argv[1])))\n"
        "validate_config(config)\n"
        "print(sorted(config['available_node_types']))",
        name,
    )
    types = {"head", *(f"{kind}-partitions-{z}" for kind in ("tenant", "resource") for z in "abc")}
    expected = ["local.cluster.node"] if name == "cluster.yaml" else sorted(types)
    assert checked.strip() == str(expected)


@pytest.mark.parametrize("name", FILES)
def test_every_command_parses(name: str) -> None:
    assert list(commands(name))
    for command in commands(name):
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False)
        assert done.returncode == 0, (command, done.stderr)


@pytest.mark.parametrize("name", FILES)
def test_up_knows_every_flag(name: str) -> None:
    given = set(flags_of("arktos", name))
    known = {flag for option in cli.up.params for flag in (*option.opts, *option.secondary_opts)}

    assert {"--address", "--bind", "--claim-resources", "--storage"} <= given
    assert not given - known - ETCD


@pytest.mark.parametrize("name", FILES)
def test_ray_start_knows_every_flag(name: str) -> None:
    # Its help hides some.
    known = in_ray(
        "from ray.scripts.scripts import start\n"
        "print(*(flag for option in start.params for flag in option.opts))"
    ).split()
    given = set(flags_of("ray", name))

    assert {"--head", "--block", "--address"} <= given
    assert not given - set(known)


def test_ray_finds_what_the_code_says_on_every_machine() -> None:
    lines = (ROOT / "tools" / "ray.env").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    assert found == RAY_ENVIRONMENT
    for name in FILES:
        for command in commands(name):
            if "bin/ray start" in command or "bin/arktos up" in command:
                assert "set -a; . ~/arktos-ray/tools/ray.env; set +a;" in command


def test_what_partitions_claim_is_what_machines_have() -> None:
    types = loaded("cluster-aws.yaml")["available_node_types"]
    offered = {resource for each in types.values() for resource in each["resources"]}
    zones = {each["labels"][ZONE_LABEL] for each in types.values()}

    assert offered == {"tenant_partition", "resource_partition"}
    assert zones == set(Config.model_validate({"zones": "a,b,c"}).zones)
    for name in FILES:
        assert any("--zones a,b,c" in command for command in commands(name))


def test_what_is_kept_is_started_again_and_can_be_stopped(tmp_path: Path) -> None:
    keep = str(ROOT / "tools" / "keep.sh")
    pipe = tmp_path / "starts"
    subprocess.run(["mkfifo", str(pipe)], check=True)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run([keep, "it", "sh", "-c", f"echo $$ > {pipe}"], env=environment, check=True)
    try:
        starts = [pipe.read_text() for _ in range(2)]
        loop = int((tmp_path / ".arktos-it.pid").read_text())
        assert processes.found(loop) is not None
    finally:
        subprocess.run([keep, "it", "stop"], env=environment, check=True)
    assert starts[0] != starts[1]
    running = processes.found(loop)
    assert running is None or processes.wait_gone([running], 10.0) == []
