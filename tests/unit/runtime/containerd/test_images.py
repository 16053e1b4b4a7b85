"""Images that nobody had to fetch."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from arktos_ray.runtime.containerd import images


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            member.name: file.read()
            for member in tar.getmembers()
            if (file := tar.extractfile(member)) is not None
        }


def test_an_image_is_a_layout_whose_parts_lead_to_each_other() -> None:
    files = members(images.image("example.org/a:1", {"bin/x": b"hello"}, command=["x"]))
    [entry] = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "example.org/a:1"

    def blob(digest: str) -> bytes:
        return files["blobs/" + digest.replace(":", "/")]

    manifest = json.loads(blob(entry["digest"]))
    config = json.loads(blob(manifest["config"]["digest"]))
    assert config["config"]["Cmd"] == ["x"]
    assert config["architecture"] == images.architecture()
    layer = members(blob(manifest["layers"][0]["digest"]))
    assert layer == {"bin/x": b"hello"}


@pytest.mark.skipif(images.architecture() not in ("amd64", "arm64"), reason="no program for it")
def test_the_pause_program_is_one_and_waits_until_it_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(images.pause_program(images.architecture()))
    program.chmod(0o755)
    with subprocess.Popen([program]) as running:
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.1)
        running.send_signal(signal.SIGSTOP)
        running.send_signal(signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.1)
        running.kill()
        assert running.wait(5) == -signal.SIGKILL


def test_the_pause_program_of_arm_is_what_its_manual_says() -> None:
    program = images.pause_program("arm64")
    assert program[18:20] == (183).to_bytes(2, "little")
    words = [int.from_bytes(program[i : i + 4], "little") for i in range(120, len(program), 4)]
    # movz xN, #value
    moves = {word & 0x1F: word >> 5 & 0xFFFF for word in words if word >> 21 == 0xD2800000 >> 21}
    assert moves == {8: 73, 0: 0, 1: 0, 2: 0, 3: 0, 4: 0}
    # svc #0; b back to the first
    assert words[-2:] == [0xD4000001, 0x14000000 | (1 - len(words)) & 0x3FFFFFF]
