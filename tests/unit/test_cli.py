"""The command line: clear refusals before anything starts, the same words twice, fast."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from arktos_ray import bootstrap, cli
from arktos_ray.base import machine, processes
from arktos_ray.base.places import Places
from arktos_ray.config import Config


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(a) for a in arguments])


# Before anything is started


@pytest.fixture
def free_port() -> int:
    return bootstrap.free_port(0)


def test_a_busy_port_is_refused_with_its_owner(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = run("up", "--detach", "--data-dir", tmp_path / "home", "--port", port)

    assert result.exit_code == 1
    assert f"port {port} is in use by process {os.getpid()}" in result.output
    assert not Places(tmp_path / "home").short.exists()
    assert "--port" in result.output


def test_a_machine_that_cannot_be_a_node_says_what_it_lacks(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "lacks_for_containers", lambda: ["root", "runc"])
    nobody = tmp_path / "none.sock"
    arguments = ("--data-dir", tmp_path / "home", "--port", free_port, "--containerd", nobody)
    result = run("up", "-d", "--node", *arguments)
    assert result.exit_code == 1
    assert "cannot be a node" in result.output
    assert "root, runc" in result.output


def test_images_need_a_cluster_with_this_machine_in_it(tmp_path: Path) -> None:
    result = run("image", "list", "--data-dir", tmp_path)
    assert result.exit_code == 3
    assert "no cluster runs" in result.output
    me = processes.current()
    Places(tmp_path).write_note({"pid": me.pid, "started": me.started, "phase": "running"})
    result = run("image", "list", "--data-dir", tmp_path)
    assert result.exit_code == 1
    assert "not a node" in result.output


def test_an_address_of_another_machine_is_refused(tmp_path: Path, free_port: int) -> None:
    home, port = tmp_path / "home", str(free_port)
    result = run("up", "-d", "--data-dir", home, "--port", port, "--bind", "192.0.2.1")
    assert result.exit_code == 1
    assert "no such address on this machine" in result.output


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "thesis.tex").touch()
    result = run("up", "-d", "--data-dir", tmp_path, "--port", free_port)
    assert result.exit_code == 1
    assert "not a directory of Arktos" in result.output
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "home").touch()
    result = run("up", "-d", "--data-dir", tmp_path / "home", "--port", free_port)
    assert result.exit_code == 1
    assert "is a file, not a directory" in result.output


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EACCES, "Permission denied"),
    ],
)
def test_a_disk_that_takes_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    config = Config(data_dir=tmp_path / "home", port=bootstrap.free_port(0))
    with pytest.raises(bootstrap.Refused, match=said):
        bootstrap.check(config, Places(config.data_dir))


def test_a_nearly_full_disk_is_refused(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path / "home", free_disk_mb_min=10**9)
    with pytest.raises(bootstrap.Refused, match="MB are needed"):
        bootstrap.check(config, Places(config.data_dir))


def test_a_directory_that_someone_holds_is_refused(tmp_path: Path, free_port: int) -> None:
    places = Places(tmp_path)
    descriptor = places.hold()
    me = processes.current()
    try:
        places.write_note({"pid": me.pid, "started": me.started, "phase": "running", "url": "u"})
        result = run("up", "-d", "--data-dir", tmp_path, "--port", free_port)
    finally:
        os.close(descriptor)
    assert result.exit_code == 0
    assert "Already running" in result.output


def test_an_unknown_key_is_not_understood(tmp_path: Path) -> None:
    (tmp_path / "arktos.yaml").write_text("ports: 1")
    result = run("up", "--config", tmp_path / "arktos.yaml", "--data-dir", tmp_path / "home")
    assert result.exit_code == 2
    assert "did you mean 'port'" in result.output


# Without a cluster


def test_down_and_status_without_a_cluster_say_so(tmp_path: Path) -> None:
    down, status = run("down", "--data-dir", tmp_path), run("status", "--data-dir", tmp_path)
    assert (down.exit_code, status.exit_code) == (0, 3)
    assert "No cluster runs" in down.output
    assert "No cluster runs" in status.output
    as_json = json.loads(run("status", "--data-dir", tmp_path, "-o", "json").output)
    assert (as_json["phase"], as_json["processes"]) == ("stopped", [])


@pytest.mark.parametrize("command", [["tenant", "list"], ["tenant", "create", "acme"]])
def test_commands_that_need_a_cluster_say_how_to_start_one(
    tmp_path: Path, command: list[str]
) -> None:
    result = run(*command, "--data-dir", tmp_path)
    assert result.exit_code == 3
    assert "arktos up --detach" in result.output


def test_down_ends_what_a_killed_driver_left(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    environment = {**os.environ, processes.MARK: str(tmp_path)}
    with subprocess.Popen(sleeper, env=environment, stdout=subprocess.PIPE) as left:
        assert left.stdout is not None
        left.stdout.readline()
        assert "left processes behind" in run("status", "--data-dir", tmp_path).output
        assert run("down", "--data-dir", tmp_path).exit_code == 0
        assert left.wait(5) != 0


def test_status_loads_neither_ray_nor_pydantic() -> None:
    code = (
        "import sys; from arktos_ray import cli\n"
        "try: cli.main(['status', '--data-dir', '/nonexistent'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'ray', 'pydantic', 'asyncio', 'rich', 'yaml'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


# With one: the front door is a stand-in


class Door(BaseHTTPRequestHandler):
    tenants: list[str]
    created: dict[str, Any]
    usage: list[dict[str, Any]]
    patched: tuple[str, Any]

    def answer(self, code: int, body: Any) -> None:
        raw = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def refuse(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "code": code, "reason": reason, "message": message}
        self.answer(code, status)

    def do_GET(self) -> None:
        if self.path == "/arktos/v1/status":
            part = {
                "name": "tp-1", "role": "tenant partition", "pid": 1, "state": "running",
                "epoch": 4, "restarts": 0, "failure": "",
            }  # fmt: skip
            process = {"pid": 1, "role": part["role"], "name": "tp-1", "pss_bytes": 7 << 20}
            partition = {
                "name": "tp-1", "kind": "tenant", "state": "running", "takes": "tenants",
                "epoch": 4, "tenants": 2, "nodes": 0, "pods": 9, "objects": 12, "watches": 3,
                "rates": {"calls": 1.5},
            }  # fmt: skip
            self.answer(
                200,
                {
                    "cluster": {"home": "/h", "url": "http://u", "dashboard": ""},
                    "parts": [part], "partitions": [partition],
                    "processes": [{**process, "cpu_s": 1.0, "rss_bytes": 0}],
                    "totals": {
                        "tenants": 2, "nodes": 0, "pods": 9, "objects": 12, "pss_bytes": 7 << 20,
                    },
                },
            )  # fmt: skip
        elif self.path == "/api/v1/tenants":
            self.answer(200, {"items": [{"metadata": {"name": t}} for t in self.tenants]})
        elif self.named() in self.tenants:
            meta = {"name": self.named(), "uid": "u"}
            self.answer(200, {"metadata": meta, "status": {"phase": "Active"}})
        else:
            self.refuse(404, "NotFound", f'tenants "{self.named()}" not found')

    def named(self) -> str:
        return self.path.removeprefix("/api/v1/tenants/")

    def do_DELETE(self) -> None:
        self.tenants.remove(self.named())
        self.answer(200, {})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.named() not in self.tenants:
            self.refuse(404, "NotFound", f'tenants "{self.named()}" not found')
        elif self.headers["Content-Type"] == "application/merge-patch+json":
            Door.patched = (self.path, body)
            self.answer(200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        if self.path == "/arktos/v1/operations":
            asked = body.get("tenant")
            rows = [row for row in self.usage if asked in ("", row["tenant"])]
            self.answer(200, {"tenants": rows, "silent": []})
        elif self.path.endswith("/token"):
            self.answer(200, {"token": f"token-of-{self.path.split('/')[-2]}"})
        elif body["metadata"]["name"] in self.tenants:
            self.refuse(409, "AlreadyExists", 'tenants "acme" already exists')
        else:
            self.tenants.append(body["metadata"]["name"])
            Door.created = body
            self.answer(201, body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    Door.tenants = ["system"]
    with HTTPServer(("127.0.0.1", 0), Door) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        me = processes.current()
        note = {
            "pid": me.pid, "started": me.started, "phase": "running", "home": str(tmp_path),
            "url": f"http://127.0.0.1:{server.server_port}",
        }  # fmt: skip
        Places(tmp_path).write_note(note)
        yield tmp_path
        server.shutdown()
        thread.join()


def test_a_tenant_comes_with_a_kubeconfig_that_reaches_it(home: Path) -> None:
    result = run("tenant", "create", "acme", "--data-dir", home)

    config = yaml.safe_load(result.output)
    assert config["users"] == [{"name": "acme", "user": {"token": "token-of-acme"}}]
    assert config["contexts"][0]["context"]["namespace"] == "default"
    assert "acme" in run("tenant", "list", "--data-dir", home, "-o", "name").output.split()


def test_a_tenant_names_the_storage_cluster_that_keeps_its_objects(home: Path) -> None:
    run("tenant", "create", "acme", "--data-dir", home)
    assert Door.created["spec"] == {"storageClusterId": "0"}
    run("tenant", "create", "beta", "--data-dir", home, "--storage-cluster", "2")
    assert Door.created["spec"] == {"storageClusterId": "2"}


def test_a_kubeconfig_is_written_for_its_owner_only(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "acme.kubeconfig"
    result = run("tenant", "create", "acme", "--data-dir", home, "-o", out)
    assert f"kubectl --kubeconfig {out}" in result.output
    assert out.stat().st_mode & 0o077 == 0


def test_a_tenant_that_exists_is_an_error_with_the_way_on(home: Path) -> None:
    run("tenant", "create", "acme", "--data-dir", home)
    result = run("tenant", "create", "acme", "--data-dir", home)
    assert result.exit_code == 1
    assert "arktos kubeconfig acme" in result.output


def test_status_shows_partitions_and_processes(home: Path) -> None:
    result = run("status", "--data-dir", home)
    assert result.exit_code == 0
    line = next(line for line in result.output.splitlines() if line.startswith("tp-1"))
    assert line.split() == [
        "tp-1",
        "tenant",
        "running",
        "tenants",
        "4",
        "2",
        "0",
        "9",
        "12",
        "3",
        "1.5",
    ]
    assert "7 MB" in result.output


def test_without_its_ingress_status_says_what_it_knows_and_why(home: Path) -> None:
    note = Places(home).read_note()
    assert note is not None
    port = bootstrap.free_port(0)
    Places(home).write_note({**note, "url": f"http://127.0.0.1:{port}"})

    found = json.loads(run("status", "--data-dir", home, "-o", "json").output)

    assert found["source"] == "processes"
    assert "does not answer" in found["reason"]
    assert found["phase"] == "running"


def several(phase_of: str) -> dict[str, Any]:
    """What a cluster of two machines says of itself."""
    parts = [
        {"name": name, "role": role, "pid": pid, "state": phase_of, "epoch": 1, "restarts": 0,
         "stats": {}, "rates": {}, "failure": "", "machine": machine_}
        for name, role, pid, machine_ in (
            ("tp-1", "tenant partition", 11, "10.0.0.1"),
            ("rp-1", "resource partition", 12, "10.0.0.2"),
        )
    ]  # fmt: skip
    return {
        "phase": "running", "reason": "", "cluster": {"home": "/h", "url": "https://10.0.0.1:6443"},
        "parts": parts, "totals": {},
        "partitions": [
            {"name": p["name"], "kind": p["role"].split()[0], "state": phase_of, "epoch": 1,
             "takes": "", "tenants": 0, "nodes": 0, "pods": 0, "objects": 0, "watches": 0,
             "rates": {}, "machine": p["machine"]}
            for p in parts
        ],
        "processes": [
            {"pid": p["pid"], "role": p["role"], "name": p["name"], "pss_bytes": 0,
             "rss_bytes": 0, "cpu_s": 0.0, "machine": p["machine"]}
            for p in parts
        ],
    }  # fmt: skip


def test_status_says_on_which_machine_each_part_is(capsys: pytest.CaptureFixture[str]) -> None:
    cli._print_status(several("running"))

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["MACHINE", "PARTITION"] in [line[:2] for line in lines]
    assert ["10.0.0.2", "rp-1"] in [line[:2] for line in lines]
    assert ["10.0.0.1", "11"] in [line[:2] for line in lines]


def test_the_url_of_a_cluster_of_several_machines_is_for_the_others_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "address", lambda: "10.0.0.1")
    alone = Config.model_validate({"bind": "0.0.0.0"})
    joined = Config.model_validate({"bind": "0.0.0.0", "address": "10.0.0.1:6379"})
    own = Config.model_validate({"bind": "10.9.9.9", "address": "10.0.0.1:6379"})

    assert [bootstrap.url_of(c) for c in (alone, joined, own)] == [
        "https://127.0.0.1:6443", "https://10.0.0.1:6443", "https://10.9.9.9:6443"
    ]  # fmt: skip


def test_doctor_says_what_a_machine_of_several_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        monkeypatch.setattr(machine, "address", lambda: "10.0.0.1")
        token = tmp_path / "token"
        token.write_text("t")
        good = {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_X": "1",
            "RAY_REDIS_ADDRESS": address,
        }  # fmt: skip

        def found(ray: str, environment: dict[str, str]) -> dict[str, str]:
            examined = machine.examine_for_several(ray, environment, {"RAY_X": "1"})
            return {finding.what: finding.verdict for finding in examined}

        assert set(found(address, good).values()) == {"ok"}
        bare = found("127.0.0.1:1", {"RAY_REDIS_ADDRESS": "127.0.0.1:1"})

    assert bare == {
        "address": "ok", "ray head": "bad", "ray token": "bad", "ray settings": "missing",
        "redis": "bad",
    }  # fmt: skip
    assert found("127.0.0.1:1", {**good, "RAY_REDIS_ADDRESS": ""})["redis"] == "missing"


# Governing tenants


def row(name: str, size: int, **limits: int) -> dict[str, Any]:
    return {
        "tenant": name, "partition": "tp-1", "objects": size // 100, "bytes": size, "watches": 3,
        "requests": 0, "limits": limits, "suspended": False, "kinds": {"pods": [2, size]},
    }  # fmt: skip


def test_usage_is_sorted_with_limits_beside_it(home: Path) -> None:
    Door.usage = [row("a", 500), row("big", 3 << 20, objects=50_000, bytes=4 << 20), row("c", 700)]
    result = run("tenant", "usage", "--data-dir", home)
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines() if line]
    assert lines[0] == ["TENANT", "PARTITION", "OBJECTS", "BYTES", "WATCHES", "REQUESTS"]
    assert lines[1] == ["big", "tp-1", "31457/50000", "3Mi/4Mi", "3", "0"]
    assert [line[0] for line in lines[2:]] == ["c", "a"]
    by_name = run("tenant", "usage", "--data-dir", home, "--sort", "name", "-o", "name")
    assert by_name.output.split() == ["a", "big", "c"]
    as_yaml = yaml.safe_load(run("tenant", "usage", "--data-dir", home, "-o", "yaml").output)
    assert as_yaml[0]["tenant"] == "big"


def test_limits_are_set_and_taken_away(home: Path) -> None:
    Door.tenants, Door.usage = ["system", "acme"], [row("acme", 2_048, objects=10)]
    result = run("tenant", "limits", "acme", "--objects", "10", "--bytes", "2Gi", "--watches",
                 "none", "--data-dir", home)  # fmt: skip
    assert Door.patched == (
        "/api/v1/tenants/acme",
        {"spec": {"limits": {"objects": 10, "bytes": "2Gi", "watches": None}}},
    )
    lines = [line.split() for line in result.output.splitlines() if line]
    assert lines[1:3] == [["objects", "10", "20"], ["bytes", "-", "2Ki"]]
    refused = run("tenant", "limits", "acme", "--objects", "many", "--data-dir", home)
    assert refused.exit_code == 2
    assert "no number" in refused.output


def test_a_tenant_is_suspended_and_resumed(home: Path) -> None:
    Door.tenants = ["system", "acme"]
    result = run("tenant", "suspend", "acme", "--data-dir", home)
    assert Door.patched == ("/api/v1/tenants/acme", {"spec": {"suspended": True}})
    assert "its workloads go on" in result.output
    run("tenant", "resume", "acme", "--data-dir", home)
    assert Door.patched == ("/api/v1/tenants/acme", {"spec": {"suspended": None}})
    missing = run("tenant", "suspend", "nobody", "--data-dir", home)
    assert (missing.exit_code, "not found" in missing.output) == (1, True)


def test_a_tenant_is_shown_with_what_it_has_by_kind(home: Path) -> None:
    Door.tenants, Door.usage = ["system", "acme"], [row("acme", 2_048, objects=100)]
    text = run("tenant", "show", "acme", "--data-dir", home).output
    assert "Objects:    20/100" in text
    assert "pods" in text
    shown = json.loads(run("tenant", "show", "acme", "--data-dir", home, "-o", "json").output)
    assert shown["usage"]["kinds"] == {"pods": [2, 2_048]}
    assert run("tenant", "show", "nobody", "--data-dir", home).exit_code == 1


def test_a_tenant_is_deleted_to_its_end(home: Path) -> None:
    Door.tenants = ["system", "acme"]
    result = run("tenant", "delete", "acme", "--data-dir", home)
    assert (result.exit_code, result.output) == (0, "tenant acme deleted\n")
    assert Door.tenants == ["system"]
    again = run("tenant", "delete", "acme", "--data-dir", home)
    assert again.exit_code == 1


def test_an_operator_goes_into_a_tenant_by_its_prefix(home: Path) -> None:
    Door.tenants = ["system", "acme"]
    result = run("tenant", "kubeconfig", "acme", "--as-operator", "--data-dir", home)
    config = yaml.safe_load(result.output)
    assert config["clusters"][0]["cluster"]["server"].endswith("/t/acme")
    assert config["current-context"] == "admin@acme"
    own = yaml.safe_load(run("tenant", "kubeconfig", "acme", "--data-dir", home).output)
    assert own["users"][0]["user"]["token"] == "token-of-acme"
    missing = run("tenant", "kubeconfig", "nobody", "--as-operator", "--data-dir", home)
    assert missing.exit_code == 1
