"""Credentials: what TLS clients accept, kept over restarts, renewed in time, private."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from arktos_ray.base import pki

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_client_and_the_server_trust_each_other_by_every_name(tmp_path: Path) -> None:
    now = datetime.now(UTC)  # noqa: TID251 - TLS compares with the real time
    files = pki.ensure(tmp_path, pki.server_names("127.0.0.1"), now)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(files.server, files.server_key)
    serving.load_verify_locations(files.ca)
    serving.verify_mode = ssl.CERT_REQUIRED
    calling = ssl.create_default_context(cafile=str(files.ca))
    calling.load_cert_chain(files.admin, files.admin_key)

    for name in ("localhost", "127.0.0.1", "::1", socket.gethostname(), "kubernetes.default.svc"):
        here, there = socket.socketpair()
        seen = {}

        def serve(end: socket.socket = there, seen: dict[str, object] = seen) -> None:
            with serving.wrap_socket(end, server_side=True) as connection:
                seen["peer"] = connection.getpeercert()
                connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        with calling.wrap_socket(here, server_hostname=name) as connection:
            connection.send(b"x")
        thread.join()
        subject = dict(pair for part in seen["peer"]["subject"] for pair in part)  # type: ignore[index]
        assert subject == {"organizationName": "system:masters", "commonName": "system:admin"}


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    pki.ensure(tmp_path, ["localhost"], NOW)
    before = contents(tmp_path)

    pki.ensure(tmp_path, ["localhost"], NOW + timedelta(days=100))

    assert contents(tmp_path) == before


def test_what_is_near_its_end_is_renewed_under_the_same_ca(tmp_path: Path) -> None:
    pki.ensure(tmp_path, ["localhost"], NOW)
    before = contents(tmp_path)

    pki.ensure(tmp_path, ["localhost"], NOW + timedelta(days=pki.LEAF_DAYS - 10))

    after = contents(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {
        "server.crt", "server.key", "admin.crt", "admin.key",
    }  # fmt: skip


def test_a_new_name_renews_the_server_certificate_only(tmp_path: Path) -> None:
    pki.ensure(tmp_path, ["localhost"], NOW)
    before = contents(tmp_path)

    pki.ensure(tmp_path, ["localhost", "192.0.2.7"], NOW)

    after = contents(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"server.crt", "server.key"}


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "server.crt", "admin.key"])
def test_a_lost_or_damaged_file_is_made_again(tmp_path: Path, name: str) -> None:
    pki.ensure(tmp_path, ["localhost"], NOW)
    (tmp_path / name).write_text("damaged")

    pki.ensure(tmp_path, ["localhost"], NOW)
    whole = contents(tmp_path)
    pki.ensure(tmp_path, ["localhost"], NOW)

    assert contents(tmp_path) == whole


def test_nobody_else_can_read_any_of_it(tmp_path: Path) -> None:
    directory = tmp_path / "pki"
    pki.ensure(directory, ["localhost"], NOW)
    pki.ensure_secret(directory / "token.key")

    assert directory.stat().st_mode & 0o077 == 0
    assert [p for p in directory.iterdir() if p.stat().st_mode & 0o077] == []


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    first = pki.ensure_secret(tmp_path / "key")
    assert len(first) == pki.TOKEN_KEY_BYTES
    assert pki.ensure_secret(tmp_path / "key") == first


def test_a_kubeconfig_carries_all_it_needs(tmp_path: Path) -> None:
    files = pki.ensure(tmp_path / "pki", ["localhost"], NOW)
    path = tmp_path / "admin.kubeconfig"
    pki.write_kubeconfig(path, pki.admin_kubeconfig("https://127.0.0.1:6443", files))

    config = yaml.safe_load(path.read_text())

    [context] = [c for c in config["contexts"] if c["name"] == config["current-context"]]
    [cluster] = [c for c in config["clusters"] if c["name"] == context["context"]["cluster"]]
    [user] = [u for u in config["users"] if u["name"] == context["context"]["user"]]
    assert cluster["cluster"]["server"] == "https://127.0.0.1:6443"
    assert set(user["user"]) == {"client-certificate-data", "client-key-data"}
    assert path.stat().st_mode & 0o077 == 0


def test_a_device_or_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    pki.write_private(pipe, b"secret")
    assert os.read(reading, 100) == b"secret"
    os.close(reading)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
